"""CLIP itself (Radford et al., arXiv 2103.00020): OpenAI's state dicts, and open_clip's, which name tensors alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from tbps_infer.errors import CheckpointError
from tbps_infer.families.clip import Style, image_sizes, text_sizes
from tbps_infer.families.family import (
    CLIP_MEAN,
    CLIP_STD,
    Family,
    Plan,
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
from tbps_infer.preprocessing import Interpolation, Preprocessing

__all__ = ["CLIP", "STRETCHED"]

STRETCHED = "stretched to the model's square; its own files cut the middle out, which loses heads and feet"
"""What is done to upright crops, told among what is assumed of a model that was trained on square pictures."""

# What OpenAI's archives note beside the weights.
_NOTES = ("input_resolution", "context_length", "vocab_size")
_DROPPABLE = ("logit_scale", "logit_bias", "attn_mask", "text.attn_mask", *_NOTES)
# What open_clip's configuration may say without changing the network that is written here.
_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def _plan(file: CheckpointFile, options: LoadOptions) -> Plan:
    assumed: dict[str, Any] = {}
    settings = file.settings
    vision, words = _config(file, "vision_cfg", _VISION), _config(file, "text_cfg", _TEXT)
    patch = file.shape("visual.conv1.weight", 4)[2]
    positions = file.shape("visual.positional_embedding", 2)[0]
    said = options.image_size or settings.size("model_cfg.vision_cfg.image_size")
    size, grid = image_grid(file, positions, said, (patch, patch), aspects=(1,))
    settle(assumed, "image_size", said, default=f"{size[0]}x{size[1]}")
    activation = _activation(file, options)
    below = "text." if "text.token_embedding.weight" in file.tensors else ""
    image, text = image_sizes(file, "visual.", None, grid), text_sizes(file, below)
    image = replace(image, style=Style(int(vision.get("head_width", 64)), activation))
    head = text.width // int(words["heads"]) if words.get("heads") else 64
    text = replace(text, style=Style(head, activation))
    check_widths(file, image, text)
    preprocessing = _preprocessing(file, size)
    network = ClipPair(image, text, preprocessing)
    return Plan(
        network=network,
        table=prefixed(network, {"image": "visual.", "text": below}),
        droppable=_DROPPABLE,
        config=sizes_json(image, text),
        preprocessing=preprocessing,
        caption_rule="clip",
        max_length=text_length(file, "model_cfg.text_cfg.context_length", text.positions, options, assumed),
        layout=VectorLayout((Segment("global", image.dim),)),
        tokenizer="openai",
        vocab=text.vocab,
        assumed={**assumed, "resize": STRETCHED},
    )


def _config(file: CheckpointFile, part: str, known: set[str]) -> Mapping[str, Any]:
    """A part of open_clip's configuration. Raises CheckpointError where it asks for another network."""
    values = file.settings.mapping(f"model_cfg.{part}")
    unknown = sorted(name for name in values.keys() - known if values[name] not in (None, False))
    if unknown:
        raise CheckpointError(
            f"{file.settings.source}: {part} has {', '.join(unknown)}, and such a network is not supported.",
            "Plain vision transformers of open_clip are.",
        )
    return values


def _activation(file: CheckpointFile, options: LoadOptions) -> Literal["gelu", "quick_gelu"]:
    if options.activation is not None:
        return options.activation
    model = file.settings.mapping("model_cfg")
    if model:
        return "quick_gelu" if model.get("quick_gelu") else "gelu"
    if set(_NOTES) & file.tensors.keys():
        return "quick_gelu"
    raise CheckpointError(
        f"{file.path} does not say which activation its MLPs have.",
        "Put its open_clip_config.json beside it, or name it: --activation quick_gelu for weights of OpenAI and what "
        "was made from them, --activation gelu for open_clip's others.",
    )


def _preprocessing(file: CheckpointFile, size: tuple[int, int]) -> Preprocessing:
    said = file.settings.mapping("preprocess_cfg")
    interpolation: Interpolation = said.get("interpolation", "bicubic")
    mean, std = said.get("mean") or CLIP_MEAN, said.get("std") or CLIP_STD
    try:
        return Preprocessing(size, interpolation, mean=tuple(mean), std=tuple(std))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file.settings.source}: preprocess_cfg is not supported: {error}.") from error


CLIP = Family(
    "clip",
    ("visual.class_embedding", "logit_scale"),
    _plan,
    ("config", "image_size", "max_length", "activation", "merges", "tokenizer", "drop"),
)
