"""General encoders as families: OpenAI's CLIP, open_clip's and Hugging Face's, against their own forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import family_checkpoints as made
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer as Rust
from torch import Tensor
from torch.nn import functional as F

from tbps_infer.encoder import Encoder
from tbps_infer.errors import CheckpointError
from tbps_infer.export.bundle import export_bundle
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.table import SourceModel, inspect_checkpoint, load_source
from tbps_infer.runners.options import RunOptions
from tbps_infer.text import Tokenizer, pad_ids
from tbps_infer.tokenizer_files import CLIP_SPECIAL_TOKENS, clip_tokenizer, train_wordpiece

pytestmark = pytest.mark.usefixtures("exports_once")

CAPTIONS = ("a man in a red coat", "a woman", "shoes and a very long blue dress")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
CLIP_PICTURES = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
VOCAB = 512 + 60 + 2


def openai_tensors() -> dict[str, Tensor]:
    draw = made.Draw(0)
    made.clip_tensors(draw, made.Sizes(cells=16, vocab=VOCAB), "visual.", "")
    tensors: dict[str, Tensor] = draw.tensors
    return tensors | {"logit_scale": torch.tensor(4.6)}


def ids_of(source: SourceModel) -> tuple[Tensor, Tensor]:
    rows = Tokenizer.from_facts(source.tokenizer_path, source.facts).encode(CAPTIONS)
    ids, mask = pad_ids(rows, source.facts.pad_id)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def write_json(folder: Path, **files: dict[str, Any]) -> None:
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


def hugging_face_clip(folder: Path, activation: str = "quick_gelu", heads: int = 1) -> tuple[Path, Any]:
    """A folder as ``save_pretrained`` writes it, with random weights, and transformers' own model."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": heads}
    ends = {"bos_token_id": VOCAB - 2, "eos_token_id": VOCAB - 1}
    text = {**sizes, **ends, "vocab_size": VOCAB, "max_position_embeddings": 20, "hidden_act": activation}
    vision = {**sizes, "image_size": 64, "patch_size": 16, "hidden_act": activation}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    model.save_pretrained(folder)
    made.write_merges(folder / "merges.gz", 60)
    clip_tokenizer(folder / "merges.gz", VOCAB, CLIP_SPECIAL_TOKENS[1:]).save(str(folder / "tokenizer.json"))
    pictures = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}
    write_json(folder, preprocessor_config={**pictures, **CLIP_PICTURES, "resample": 3, "rescale_factor": 1 / 255})
    return folder, model


def normalised(source: SourceModel) -> Tensor:
    facts = source.facts.preprocessing
    images = torch.from_numpy(PIXELS).float().permute(0, 3, 1, 2) / 255
    return (images - torch.tensor(facts.mean)[:, None, None]) / torch.tensor(facts.std)[:, None, None]


def pooled(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(found)


@pytest.mark.parametrize(("activation", "heads"), [("quick_gelu", 1), ("gelu", 4)])
def test_a_clip_folder_is_transformers_clip(tmp_path: Path, activation: str, heads: int) -> None:
    folder, model = hugging_face_clip(tmp_path, activation, heads)
    source = load_source(None, folder)
    assert source.facts.family == "clip-hf" and source.facts.preprocessing.image_size == (64, 64)
    assert "stretched" in source.assumed["resize"]
    ids, mask = ids_of(source)
    with torch.no_grad():
        image = pooled(model.get_image_features(pixel_values=normalised(source)))
        text = pooled(model.get_text_features(input_ids=ids.long(), attention_mask=mask.long()))
    torch.testing.assert_close(source.image(torch.from_numpy(PIXELS)), image, atol=2e-5, rtol=0)
    torch.testing.assert_close(source.text(ids, mask), text, atol=2e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "text."])
def test_openai_and_open_clip_are_the_same_network_by_their_own_activation(tmp_path: Path, prefix: str) -> None:
    """open_clip's second layout has the text's tensors below ``text.``."""
    tensors = openai_tensors()
    tensors = {n if n.startswith(("visual.", "logit")) else f"{prefix}{n}": tensor for n, tensor in tensors.items()}
    made.write_merges(tmp_path / "merges.txt", 60)
    file = tmp_path / "open_clip_pytorch_model.bin"
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(CheckpointError, match="does not say which activation") as caught:
        load_source(None, file)
    assert "--activation" in caught.value.hint
    quick = load_source(None, file, LoadOptions(activation="quick_gelu"))
    assert quick.facts.family == "clip" and quick.facts.preprocessing.image_size == (64, 64)
    gelu = load_source(None, file, LoadOptions(activation="gelu"))
    ids, mask = ids_of(quick)
    assert not torch.allclose(quick.text(ids, mask), gelu.text(ids, mask), atol=1e-4)
    config = {"embed_dim": 32, "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}}
    config["text_cfg"] = {"context_length": 20, "vocab_size": VOCAB, "width": 64, "heads": 1, "layers": 2}
    pictures = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.4, 0.4, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    write_json(tmp_path, open_clip_config={"model_cfg": config, "preprocess_cfg": pictures})
    said = load_source(None, tmp_path)
    torch.testing.assert_close(said.text(ids, mask), gelu.text(ids, mask))
    assert said.facts.preprocessing.mean == (0.5, 0.5, 0.5)
    write_json(tmp_path, open_clip_config={"model_cfg": {**config, "text_cfg": {"hf_model_name": "roberta"}}})
    with pytest.raises(CheckpointError, match="text_cfg has hf_model_name"):
        load_source(None, tmp_path)


def test_openai_archives_numbers_say_whose_they_are(tmp_path: Path) -> None:
    """Converted to a state dict, OpenAI's archive keeps three numbers beside its weights."""
    notes = {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(20),
        "vocab_size": torch.tensor(VOCAB),
    }
    torch.save({**openai_tensors(), **notes}, tmp_path / "ViT-B-16.pth")
    made.write_merges(tmp_path / "merges.txt", 60)
    source = load_source(None, tmp_path)
    assert source.facts.family == "clip" and "activation" not in source.assumed
    tokens = Rust.from_file(str(source.tokenizer_path)).encode("a").tokens
    assert (tokens[0], tokens[-1]) == ("<|startoftext|>", "<|endoftext|>")


@pytest.fixture
def siglip(tmp_path: Path) -> tuple[Path, Any]:
    from transformers import SiglipConfig, SiglipModel

    tokenizer = train_wordpiece(CAPTIONS, 200)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 2, "eos_token_id": 3}
    text = {**sizes, **ends, "vocab_size": 256, "max_position_embeddings": 24, "projection_size": 48}
    vision = {**sizes, "image_size": 64, "patch_size": 16}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    pictures = {"size": {"height": 64, "width": 64}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_json(tmp_path, preprocessor_config=pictures, tokenizer_config={"pad_token": "[MASK]"})
    return tmp_path, model


def test_a_siglip_folder_is_transformers_siglip(siglip: tuple[Path, Any]) -> None:
    folder, model = siglip
    source = load_source(None, folder)
    pad = Rust.from_file(str(folder / "tokenizer.json")).token_to_id("[MASK]")
    assert source.facts.family == "siglip" and source.facts.pad_id == pad
    ids, mask = ids_of(source)
    full = F.pad(ids, (0, 24 - ids.shape[1]), value=pad).long()
    with torch.no_grad():
        image = pooled(model.get_image_features(pixel_values=normalised(source)))
        text = pooled(model.get_text_features(input_ids=full))
    torch.testing.assert_close(source.image(torch.from_numpy(PIXELS)), image, atol=2e-5, rtol=0)
    torch.testing.assert_close(source.text(ids, mask), text, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", [pytest.param("clip-hf", marks=pytest.mark.slow), "siglip"])
def test_general_encoders_are_exported(tmp_path: Path, siglip: tuple[Path, Any], family: str) -> None:
    folder = siglip[0]
    if family == "clip-hf":
        (tmp_path / "clip").mkdir()
        folder, _ = hugging_face_clip(tmp_path / "clip")
    bundle = export_bundle(folder, tmp_path / "bundle")
    assert bundle.model.family == family
    picture = Image.fromarray(PIXELS[0])
    with Encoder.open(folder, RunOptions("torch")) as one, Encoder.open(bundle.path) as other:
        np.testing.assert_allclose(one.encode_images([picture]), other.encode_images([picture]), atol=1e-5)
        np.testing.assert_allclose(one.encode_texts(CAPTIONS), other.encode_texts(CAPTIONS), atol=1e-5)


def test_a_folder_without_its_files_says_which(siglip: tuple[Path, Any]) -> None:
    folder, _ = siglip
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"processor_config\.json does not exist"):
        inspect_checkpoint(folder)
    write_json(folder, preprocessor_config={"size": 64, "resample": 0, "image_mean": [0.5] * 3, "image_std": [1] * 3})
    with pytest.raises(CheckpointError, match="not supported: KeyError"):
        inspect_checkpoint(folder)
    values = json.loads((folder / "config.json").read_text())
    write_json(folder, config={**values, "model_type": "siglip2"})
    with pytest.raises(CheckpointError, match="model_type 'siglip2'"):
        inspect_checkpoint(folder)
