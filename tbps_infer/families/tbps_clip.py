"""TBPS-CLIP (Cao et al., arXiv 2308.10045): CLIP at 224x224, pixels normalised as for ImageNet."""

from __future__ import annotations

from typing import Any

from tbps_infer.families.clip import image_sizes, text_sizes
from tbps_infer.families.family import (
    Family,
    Plan,
    check_setting,
    image_grid,
    prefixed,
    settle,
    sizes_json,
    text_length,
)
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.irra import ClipPair, check_widths
from tbps_infer.families.options import LoadOptions
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

__all__ = ["TBPS_CLIP"]

_DROPPABLE = (
    *("simclr_mlp.", "logit_scale", "classifier.", "cross_attn.", "cross_modal_transformer.", "mlm_head."),
    *("ln_pre_t.", "ln_pre_i.", "ln_post."),  # of the cross-modal transformer; the backbone's are below its prefix
)


def _plan(file: CheckpointFile, options: LoadOptions) -> Plan:
    patch = file.shape("visual.conv1.weight", 4)[2]
    positions = file.shape("visual.positional_embedding", 2)[0]
    assumed: dict[str, Any] = {}
    said = options.image_size or file.settings.size("experiment.input_resolution")
    size, grid = image_grid(file, positions, said, (patch, patch), aspects=(1, 3))
    settle(assumed, "image_size", said, default=f"{size[0]}x{size[1]}")
    image = image_sizes(file, "visual.", None, grid)
    text = text_sizes(file, "encode_text.")
    check_widths(file, image, text)
    check_setting(file, "model.vocab_size", "encode_text.token_embedding.weight", text.vocab)
    check_setting(file, "model.embed_dim", "visual.proj", image.dim)
    preprocessing = Preprocessing(size, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    network = ClipPair(image, text, preprocessing)
    return Plan(
        network=network,
        table=prefixed(network, {"image": "visual.", "text": "encode_text."}),
        droppable=_DROPPABLE,
        config=sizes_json(image, text),
        preprocessing=preprocessing,
        caption_rule="pre_caption_clip",
        max_length=text_length(file, "experiment.text_length", text.positions, options, assumed),
        layout=VectorLayout((Segment("global", image.dim),)),
        tokenizer="clip",
        vocab=text.vocab,
        assumed=assumed,
    )


TBPS_CLIP = Family(
    "tbps-clip",
    ("visual.class_embedding", "encode_text.text_projection"),
    _plan,
    ("config", "image_size", "max_length", "merges", "tokenizer", "drop"),
)
