"""Folders of Hugging Face's transformers: what is read from all of them, and CLIP, brought into OpenAI's layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbps_infer.errors import CheckpointError
from tbps_infer.families.clip import Style, image_sizes, text_sizes
from tbps_infer.families.family import Family, Plan, prefixed, settle, sizes_json
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.irra import ClipPair, check_widths
from tbps_infer.families.openai import STRETCHED
from tbps_infer.families.options import LoadOptions
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.tensor_files import read_json

__all__ = ["CLIP_FOLDER", "DROPPABLE", "OPTIONS", "length_of", "read_folder"]

DROPPABLE = (
    *("logit_scale", "logit_bias"),
    *("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids"),
)
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
_OLD_END = 2
"""What early configurations call the end of a caption: the greatest id is meant."""


def _plan_clip(file: CheckpointFile, options: LoadOptions) -> Plan:
    config, preprocessing = read_folder(file, "clip")
    vision, words = config.get("vision_config") or {}, config.get("text_config") or {}
    patch = file.shape("visual.conv1.weight", 4)[2]
    height, width = preprocessing.image_size
    image = image_sizes(file, "visual.", None, (height // patch, width // patch))
    text = text_sizes(file, "")
    end = words.get("eos_token_id", text.vocab - 1)
    image = replace(image, style=_style(file, vision, image.width))
    text = replace(text, style=_style(file, words, text.width))
    if end not in (_OLD_END, text.vocab - 1):
        text = replace(text, end=end)
    check_widths(file, image, text)
    network = ClipPair(image, text, preprocessing)
    return Plan(
        network=network,
        table=prefixed(network, {"image": "visual.", "text": ""}),
        droppable=DROPPABLE,
        config=sizes_json(image, text),
        preprocessing=preprocessing,
        caption_rule="none",  # the tokenizer's file has it
        max_length=length_of(file, options, text.positions),
        layout=VectorLayout((Segment("global", image.dim),)),
        tokenizer="file",
        vocab=text.vocab,
        assumed={"resize": STRETCHED},
    )


def _in_openais_layout(file: CheckpointFile) -> CheckpointFile:
    """The same tensors by the names of OpenAI's layout: query, key and value stacked, projections transposed."""
    found = {}
    ends = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        **{
            f"{norm}.{leaf}": f"{own}.{leaf}"
            for norm, own in (
                ("vision_model.pre_layrnorm", "visual.ln_pre"),  # sic
                ("vision_model.post_layernorm", "visual.ln_post"),
                ("text_model.final_layer_norm", "ln_final"),
            )
            for leaf in ("weight", "bias")
        },
    }
    inner = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    inner |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for name, tensor in file.tensors.items():
        tower, _, rest = name.partition(".encoder.layers.")
        number, _, place = rest.partition(".")
        module, _, leaf = place.rpartition(".")
        layer = f"{'visual.' if tower == 'vision_model' else ''}transformer.resblocks.{number}"
        if name in ends:
            found[ends[name]] = tensor
        elif module in inner:
            found[f"{layer}.{inner[module]}.{leaf}"] = tensor
        elif module == "self_attn.q_proj":
            stacked = [_of(file, name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            found[f"{layer}.attn.in_proj_{leaf}"] = torch.cat(stacked)
        elif name in ("visual_projection.weight", "text_projection.weight"):
            found["visual.proj" if name.startswith("visual") else "text_projection"] = tensor.T
        elif module not in ("self_attn.k_proj", "self_attn.v_proj"):
            found[name] = tensor
    return replace(file, tensors=found)


def _of(file: CheckpointFile, name: str) -> Tensor:
    if name not in file.tensors:
        raise CheckpointError(f"{file.path} has no tensor {name}.", "Copy the checkpoint's whole folder.")
    return file.tensors[name]


def _style(file: CheckpointFile, config: Mapping[str, Any], width: int) -> Style:
    activation, heads = config.get("hidden_act", "quick_gelu"), config.get("num_attention_heads", width // 64)
    if activation not in ("gelu", "quick_gelu") or width % heads:
        raise CheckpointError(
            f"{file.path.parent / 'config.json'}: {heads} heads for {width} numbers, or {activation}, do not go."
        )
    return Style(width // heads, activation, config.get("layer_norm_eps", 1e-5))


def length_of(file: CheckpointFile, options: LoadOptions, positions: int) -> int:
    """Tokens per caption: as the options say, else all positions. Raises CheckpointError where they say more."""
    length: int = settle({}, "max_length", options.max_length, default=positions)
    if length > positions:
        raise CheckpointError(f"--max-length is {length}, and {file.path.name} has {positions} positions for text.")
    return length


def read_folder(file: CheckpointFile, kind: str) -> tuple[dict[str, Any], Preprocessing]:
    """The model's configuration and what is done to its pictures. Raises CheckpointError."""
    folder = file.path.parent
    config = read_json(folder / "config.json")
    if config.get("model_type") != kind:
        raise CheckpointError(
            f"{folder / 'config.json'} is of model_type {config.get('model_type')!r}, and the tensors are {kind}'s.",
            "Use the checkpoint's own folder.",
        )
    if (folder / "preprocessor_config.json").is_file():
        said = read_json(folder / "preprocessor_config.json")
    else:
        said = read_json(folder / "processor_config.json").get("image_processor") or {}
    return config, _preprocessing(folder, said)


def _preprocessing(folder: Path, said: Mapping[str, Any]) -> Preprocessing:
    size = said.get("crop_size") if said.get("do_center_crop") else said.get("size")
    if isinstance(size, Mapping):
        size = (size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge")))
    elif isinstance(size, int):
        size = (size, size)
    try:
        assert abs(said.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-3, "rescale_factor is not 1/255"
        return Preprocessing(
            tuple(map(int, size)),  # type: ignore[arg-type]
            _RESAMPLE[said["resample"]],  # type: ignore[arg-type]
            mean=tuple(said["image_mean"]),
            std=tuple(said["image_std"]),
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: what its preprocessor_config.json says of pictures is not supported: {error!r}.",
            "Copy the checkpoint's whole folder.",
        ) from error


OPTIONS = ("max_length", "tokenizer", "drop")

CLIP_FOLDER = Family(
    "clip-hf",
    ("vision_model.embeddings.class_embedding", "visual_projection.weight"),
    _plan_clip,
    OPTIONS,
    translate=_in_openais_layout,
)
