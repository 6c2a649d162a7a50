"""SigLIP (Zhai et al., arXiv 2303.15343) from folders of Hugging Face's transformers, whose networks are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tokenizers
import torch
from torch import Tensor, nn

from tbps_infer.errors import CheckpointError
from tbps_infer.families.clip import PixelScale
from tbps_infer.families.family import DualEncoder, Family, Plan
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.hugging_face import DROPPABLE, OPTIONS, length_of, read_folder
from tbps_infer.families.options import LoadOptions
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.attention import l2_normalize
from tbps_infer.reference.tensor_files import read_json

__all__ = ["SIGLIP"]


class _Siglip(DualEncoder):
    """transformers' own two networks. A caption is always filled up to all positions, as in training."""

    fill: Tensor

    def __init__(self, towers: tuple[nn.Module, nn.Module], facts: Preprocessing, fill: Tensor) -> None:
        super().__init__()
        self.pixels = PixelScale(facts)
        self.vision_model, self.text_model = towers
        self.register_buffer("fill", fill, persistent=False)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return l2_normalize(self.vision_model(pixel_values=self.pixels(pixels)).pooler_output)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        fill = self.fill.expand(input_ids.shape[0], -1)
        ids = torch.where(attention_mask > 0, input_ids, fill[:, :1])
        full = torch.cat((ids, fill), dim=1)[:, : self.fill.shape[1]]
        return l2_normalize(self.text_model(input_ids=full).pooler_output)


def _plan_siglip(file: CheckpointFile, options: LoadOptions) -> Plan:
    from transformers import SiglipConfig, SiglipModel

    values, preprocessing = read_folder(file, "siglip")
    try:
        config = SiglipConfig(**values)
        config._attn_implementation = "eager"
        with torch.device("meta"):
            model = SiglipModel(config)
    except Exception as error:  # whatever a configuration that is not sound leads to
        raise CheckpointError(f"{file.path.parent / 'config.json'} is not SigLIP's: {error}.") from error
    positions, vocab = config.text_config.max_position_embeddings, config.text_config.vocab_size
    pad_id = _pad_id(file.path.parent, config.text_config.pad_token_id)
    network = _Siglip(
        (model.vision_model.to_empty(device="cpu"), model.text_model.to_empty(device="cpu")),
        preprocessing,
        torch.full((1, positions), pad_id, dtype=torch.int32),
    )
    for module in (network.vision_model, network.text_model):
        embeddings = module.get_submodule("embeddings")
        count = embeddings.get_parameter("position_embedding.weight").shape[0]
        embeddings.position_ids = torch.arange(count)[None]
    dim = network.text_model.get_parameter("head.weight").shape[0]
    return Plan(
        network=network,
        table={name: name for name in network.state_dict()},
        droppable=DROPPABLE,
        config={"vision": config.vision_config.to_diff_dict(), "text": config.text_config.to_diff_dict()},
        preprocessing=preprocessing,
        caption_rule="none",
        max_length=length_of(file, options, positions),
        layout=VectorLayout((Segment("global", dim),)),
        tokenizer="file",
        vocab=vocab,
        pad_id=pad_id,
    )


def _pad_id(folder: Path, otherwise: int) -> int:
    """The id that the folder's tokenizer fills with; the configuration's where that does not say."""
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    token = read_json(settings).get("pad_token") if settings.is_file() else None
    if isinstance(token, Mapping):
        token = token.get("content")
    if token is None or not file.is_file():
        return otherwise
    try:
        found = tokenizers.Tokenizer.from_file(str(file)).token_to_id(token)
    except Exception as error:  # tokenizers raises no narrower class
        raise CheckpointError(f"{file} is not a readable tokenizers file: {error}.") from error
    return otherwise if found is None else int(found)


SIGLIP = Family(
    "siglip", ("vision_model.head.probe", "text_model.embeddings.token_embedding.weight"), _plan_siglip, OPTIONS
)
