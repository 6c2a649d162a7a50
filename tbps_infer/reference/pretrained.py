"""Checkpoints to start training from: random weights, or ImageNet and BERT weights as their publishers write them.

Published weights are read from local files. Every tensor of a backbone is named with its name in the file; what else
a file may hold is on a list. All of it is loaded or none: a tensor that is missing, unknown or misshapen is an error
that names it.

torchvision's ViT weights were trained with a LayerNorm epsilon of 1e-6 and Hugging Face's with 1e-12, which is what
is used here; images are normalised as the configuration says, whatever the weights were trained with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbps_infer.errors import CheckpointError
from tbps_infer.reference.backbones import ResNetBackbone, TextBackbone, ViTBackbone
from tbps_infer.reference.checkpoint import Checkpoint, own_tensors, save_checkpoint
from tbps_infer.reference.config import ModelConfig, tiny_config
from tbps_infer.reference.model import PartModel
from tbps_infer.reference.published import Format, Source, bert_formats, modern_name, resnet_formats, vit_formats
from tbps_infer.reference.tensor_files import check_numbers, find_tensors, read_tensors, tensors_file_sha256
from tbps_infer.tokenizer_files import train_wordpiece

__all__ = [
    "VOCAB_SIZE",
    "Coverage",
    "initial_checkpoint",
    "initial_from_backbones",
    "initial_tiny_checkpoint",
    "load_image_weights",
    "load_text_weights",
]

VOCAB_SIZE = 1200
"""Entries of a vocabulary that is learnt from captions."""


@dataclass(frozen=True)
class Coverage:
    """What was taken from a file.

    Attributes:
        path: The file.
        format: ``torchvision`` or ``Hugging Face``.
        loaded: How many of the backbone's tensors were set: all of them.
        wanted: How many it has.
        dropped: Names of the file's tensors that no backbone has: classifiers, poolers.
        resized: Names of those that were interpolated to the crop's size.
    """

    path: Path
    format: str
    loaded: int
    wanted: int
    dropped: tuple[str, ...]
    resized: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.path.name} ({self.format}): {self.loaded} of {self.wanted} tensors"]
        parts += [f"dropped {', '.join(self.dropped)}"] if self.dropped else []
        parts += [f"resized {', '.join(self.resized)}"] if self.resized else []
        return "; ".join(parts)


def initial_checkpoint(
    folder: Path,
    config: ModelConfig,
    tokenizer_json: str,
    seed: int,
    *,
    image_weights: Path | None = None,
    text_weights: Path | None = None,
) -> Path:
    """Write a checkpoint to start training from: pretrained backbones where given, random weights elsewhere.

    Args:
        folder: Where the checkpoint goes.
        config: The model's configuration.
        tokenizer_json: The text of the `tokenizers` file; for BERT weights, of their own vocabulary.
        seed: Of the random weights; PyTorch's own random state stays as it is.
        image_weights: A file or folder with the image backbone's weights.
        text_weights: A file or folder with the text backbone's weights.

    Returns:
        The folder. Its ``config.json`` says under ``training`` what was loaded from where.

    Raises:
        CheckpointError: A file cannot be read, or its tensors do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PartModel(config)
    training: dict[str, Any] = {"initial_seed": seed}
    if image_weights is not None:
        training["image_weights"] = _provenance(load_image_weights(model.image_backbone, image_weights))
        model.repeat_stages()
    if text_weights is not None:
        training["text_weights"] = _provenance(load_text_weights(model.text_backbone, text_weights))
    return save_checkpoint(folder, model, tokenizer_json, training=training)


def initial_from_backbones(folder: Path, source: Checkpoint, config: ModelConfig, seed: int) -> Path:
    """Write a checkpoint to start training from, with another one's backbones and random weights above them.

    Args:
        folder: Where the checkpoint goes.
        source: The checkpoint whose backbones and tokenizer are taken.
        config: The model's; its backbones are the source's.
        seed: Of the random weights; PyTorch's own random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PartModel(config)
    model.image_backbone.load_state_dict(source.model.image_backbone.state_dict())
    model.text_backbone.load_state_dict(source.model.text_backbone.state_dict())
    model.repeat_stages()
    training = {"initial_seed": seed, "backbones": source.facts.fingerprint}
    return save_checkpoint(folder, model, source.tokenizer_path.read_text(encoding="utf-8"), training=training)


def initial_tiny_checkpoint(folder: Path, captions: Iterable[str], seed: int) -> Path:
    """Write a checkpoint of the tiny configuration with random weights, and a WordPiece vocabulary of the captions.

    Args:
        folder: Where to write it.
        captions: Training captions only, so that nothing of the other splits leaks into the vocabulary.
        seed: Of the weights.
    """
    tokenizer = train_wordpiece(captions, VOCAB_SIZE)
    return initial_checkpoint(folder, tiny_config(tokenizer.get_vocab_size()), tokenizer.to_str(pretty=True), seed)


def load_image_weights(backbone: ResNetBackbone | ViTBackbone, path: Path) -> Coverage:
    """Load published ImageNet weights into an image backbone.

    A vision transformer's position embeddings are interpolated (bicubic) from their square grid to the crop's.

    Args:
        backbone: The backbone, changed in place.
        path: A ``.safetensors``, ``.bin``, ``.pth`` or ``.pt`` file, or a folder with one.

    Raises:
        CheckpointError: As `load_text_weights`.
    """
    if isinstance(backbone, ViTBackbone):
        return _load(backbone, path, vit_formats(own_tensors(backbone)), grid=backbone.map_size)
    return _load(backbone, path, resnet_formats(own_tensors(backbone)))


def load_text_weights(backbone: TextBackbone, path: Path) -> Coverage:
    """Load published BERT weights into the text backbone; LayerNorm's old names gamma and beta are understood.

    Args:
        backbone: The backbone, changed in place.
        path: A ``.safetensors``, ``.bin``, ``.pth`` or ``.pt`` file, or a folder with one.

    Raises:
        CheckpointError: The file is missing or damaged, carries code, is of no known format, or a tensor is
            missing, unknown, misshapen or not finite; the sentence names it.
    """
    return _load(backbone, path, bert_formats(own_tensors(backbone)))


def _load(
    backbone: nn.Module, path: Path, formats: Iterable[Format], grid: tuple[int, int] | None = None
) -> Coverage:
    file = find_tensors(path)
    tensors = {modern_name(name): tensor for name, tensor in read_tensors(file).items()}
    chosen, tensors = _recognise(file, tensors, list(formats))
    wanted = own_tensors(backbone)
    sources = {source.name for source in chosen.table.values()}
    dropped = tuple(sorted(name for name in tensors.keys() - sources if name.startswith(chosen.droppable)))
    unknown = sorted(tensors.keys() - sources - set(dropped))
    missing = sorted(sources - tensors.keys())
    for problem, names in (("has no tensor", missing), ("has a tensor that the backbone does not know:", unknown)):
        if names:
            raise CheckpointError(f"{file} {problem} {names[0]}.", "Check that it is of the configured architecture.")
    resized = []
    values = {}
    for name, target in wanted.items():
        source = chosen.table[name]
        check_numbers(file, source.name, tensors[source.name])
        value = tensors[source.name].float()
        if source.third is not None:
            value = _third(file, source, value)
        if grid is not None and name.endswith("position_embeddings") and value.shape != target.shape:
            value = _interpolated(file, source.name, value, grid)
            resized.append(source.name)
        values[name] = _checked(file, source.name, value, target)
    for name, value in values.items():
        wanted[name].copy_(value)
    return Coverage(file, chosen.name, len(values), len(wanted), dropped, tuple(resized))


def _recognise(file: Path, tensors: Mapping[str, Tensor], formats: list[Format]) -> tuple[Format, dict[str, Tensor]]:
    """The format of a file, and its tensors with the format's prefix taken off."""
    for one in formats:
        bare = {name.removeprefix(one.prefix): tensor for name, tensor in tensors.items()}
        if one.marker in bare:
            return one, bare
    markers = " nor ".join(one.marker for one in formats)
    raise CheckpointError(
        f"{file} is of no known format: it has no {markers}.",
        "Give weights as torchvision or Hugging Face publish them, of the configured kind of backbone.",
    )


def _third(file: Path, source: Source, value: Tensor) -> Tensor:
    if not value.shape or value.shape[0] % 3:
        raise CheckpointError(f"{file}: {source.name} is {list(value.shape)}, which is not three stacked tensors.")
    assert source.third is not None
    return value.chunk(3)[source.third]


def _interpolated(file: Path, name: str, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings ``[1, 1 + side², d]`` to ``[1, 1 + rows·columns, d]``; the first, of CLS, stays."""
    side = round(max(value.shape[1] - 1, 0) ** 0.5) if value.dim() == 3 else 0
    if side < 1 or 1 + side * side != value.shape[1]:
        raise CheckpointError(
            f"{file}: {name} is {list(value.shape)}, which is not a square grid and one class token."
        )
    square = value[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    resized = nn.functional.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((value[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)


def _checked(file: Path, name: str, value: Tensor, target: Tensor) -> Tensor:
    if value.shape != target.shape:
        raise CheckpointError(
            f"{file}: {name} gives {list(value.shape)}, and the configuration wants {list(target.shape)}.",
            "Check that the configuration, its vocabulary size included, is that of the weights.",
        )
    return value


def _provenance(coverage: Coverage) -> dict[str, str]:
    return {"sha256": tensors_file_sha256(coverage.path), "coverage": str(coverage)}
