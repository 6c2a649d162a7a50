"""Checkpoints of the reference model on disk: written as safetensors, read without executing anything.

::

    CHECKPOINT/
      model.safetensors   the tensors (FP16 or FP32; always computed in FP32)
      config.json         {"format": "tbps-infer", "family": "part", "model": ModelConfig, "training": {...}}
      tokenizer.json      a `tokenizers` file

The folder, or the ``.safetensors`` file inside it, names the checkpoint. Any other file of tensors that
`tbps_infer.reference.tensor_files` reads is read too, with the same two files beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tbps_infer.atomic import is_vacant, new_folder
from tbps_infer.bundle import file_sha256
from tbps_infer.errors import CheckpointError
from tbps_infer.formats.json_files import parse_json
from tbps_infer.formats.tokenizers_files import read_tokenizer
from tbps_infer.model_facts import ModelFacts
from tbps_infer.reference.config import ModelConfig
from tbps_infer.reference.model import PartModel
from tbps_infer.reference.state_dict import IGNORED_SUFFIX
from tbps_infer.reference.tensor_files import check_numbers, find_tensors, read_tensors, tensors_file_sha256

__all__ = [
    "CONFIG_JSON",
    "FAMILY",
    "Checkpoint",
    "load_checkpoint",
    "own_tensors",
    "save_checkpoint",
    "tensors_sha256",
    "weights_sha256",
]

FAMILY = "part"
CAPTION_RULE = "none"
PAD_ID = 0
CONFIG_JSON = "config.json"
TOKENIZER_JSON = "tokenizer.json"
TENSORS = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: The file that carried the tensors.
        model: The network, in eval mode, FP32, on the CPU.
        config: Its configuration.
        facts: What defines its embedding space, with the fingerprint.
        tokenizer_path: Its `tokenizers` file.
        sha256: Of the tensors' file.
        training: How it was trained and what it scored, as its config file says; empty when it does not.
    """

    path: Path
    model: PartModel
    config: ModelConfig
    facts: ModelFacts
    tokenizer_path: Path
    sha256: str
    training: Mapping[str, Any]


def load_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Load a checkpoint of the reference model, strictly.

    Args:
        path: A checkpoint's folder, or the file with its tensors.
        key: Which set of weights, where the file holds several.

    Raises:
        CheckpointError: A file is missing, unsafe to read, or a tensor is missing, unknown or misshapen; the
            sentence names it.
    """
    tensors_path = find_tensors(path)
    values = _read_config(tensors_path.parent / CONFIG_JSON)
    config = ModelConfig.from_json(values["model"])
    tokenizer_path = tensors_path.parent / TOKENIZER_JSON
    if not tokenizer_path.is_file():
        raise CheckpointError(
            f"{tensors_path.parent} has no {TOKENIZER_JSON}.", "Put the model's tokenizers file beside the tensors."
        )
    _check_tokenizer(tokenizer_path, config.text.vocab_size)
    model = PartModel(config)
    load_strictly(model, read_tensors(tensors_path, key), tensors_path)
    model.eval().requires_grad_(False)
    return Checkpoint(
        path=tensors_path,
        model=model,
        config=config,
        facts=model_facts(model, file_sha256(tokenizer_path)),
        tokenizer_path=tokenizer_path,
        sha256=tensors_file_sha256(tensors_path),
        training=values.get("training", {}),
    )


def save_checkpoint(
    folder: Path,
    model: PartModel,
    tokenizer_json: str,
    *,
    dtype: Literal["fp16", "fp32"] = "fp32",
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder and return it; one that is there is replaced at once, other files in it stay.

    Args:
        folder: Made when it is not there.
        model: What to save.
        tokenizer_json: The text of the `tokenizers` file.
        dtype: What floating-point tensors are stored as. FP16 halves the file; BatchNorm's running variance
            and all else must lie within its range.
        training: What to record about how the weights came about.

    Raises:
        CheckpointError: A tensor does not fit FP16, or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in own_tensors(model).items():
        stored = tensor.half() if dtype == "fp16" and tensor.is_floating_point() else tensor
        if not torch.isfinite(stored).all():
            raise CheckpointError(f"The tensor {name} is not finite as {dtype}.", "Save the checkpoint as fp32.")
        tensors[name] = stored.contiguous().clone()
    values = {
        "format": "tbps-infer",
        "family": FAMILY,
        "model": model.config.to_json(),
        "training": dict(training or {}),
    }
    with new_folder(folder, CheckpointError, replace=True) as new:
        _copy_others(folder, new)
        (new / CONFIG_JSON).write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (new / TOKENIZER_JSON).write_text(tokenizer_json, encoding="utf-8")
        try:
            save_file(tensors, new / TENSORS)
        except SafetensorError as error:
            raise CheckpointError(f"{folder} cannot be written: {error}.", "Make room on the disk.") from error
        (new / TENSORS).chmod((new / CONFIG_JSON).stat().st_mode)  # safetensors' own is for the owner alone
    return folder


def _copy_others(folder: Path, new: Path) -> None:
    """Copy what else lies in a checkpoint's folder, so that replacing the folder takes nothing away."""

    def written_anew(at: str, _names: list[str]) -> set[str]:
        return {CONFIG_JSON, TOKENIZER_JSON, TENSORS} if Path(at) == folder else set()

    if not is_vacant(folder):
        shutil.copytree(folder, new, symlinks=True, ignore=written_anew, dirs_exist_ok=True)


def load_strictly(model: PartModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model, all of them and no others, as FP32.

    Raises:
        CheckpointError: Names the first tensor that is missing, unknown, misshapen or not finite.
    """
    wanted = own_tensors(model)
    for problem, names in (
        ("has no tensor", sorted(wanted.keys() - tensors.keys())),
        ("has a tensor that the model does not know:", sorted(tensors.keys() - wanted.keys())),
    ):
        if names:
            more = f" ({len(names)} such tensors)" if len(names) > 1 else ""
            raise CheckpointError(
                f"{path} {problem} {names[0]}{more}.", f"Check that {CONFIG_JSON} beside it is this checkpoint's own."
            )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path}: {name} is {list(tensor.shape)}, and the configuration wants {list(wanted[name].shape)}.",
                f"Check that {CONFIG_JSON} beside it is this checkpoint's own.",
            )
        check_numbers(path, name, tensor)
        wanted[name].copy_(tensor)


def model_facts(model: PartModel, tokenizer_sha256: str) -> ModelFacts:
    """What defines a model's embedding space, with its fingerprint."""
    config = model.config
    facts = ModelFacts(
        family=FAMILY,
        config=config.to_json(),
        preprocessing=config.preprocessing,
        caption_rule=CAPTION_RULE,
        max_length=config.text.max_length,
        pad_id=PAD_ID,
        layout=config.layout,
    )
    return facts.identified(weights_sha256(model), tokenizer_sha256)


def weights_sha256(model: PartModel) -> str:
    """A hash of a model's tensors: names, shapes and FP32 values, whatever file carried them."""
    return tensors_sha256(own_tensors(model))


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors by name: names, shapes and FP32 values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors by name, those that no forward pass uses left out; writing to one changes the network."""
    return {name: t for name, t in network.state_dict().items() if not name.endswith(IGNORED_SUFFIX)}


def _check_tokenizer(path: Path, vocab_size: int) -> None:
    try:
        tokens = read_tokenizer(path).get_vocab_size()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable tokenizers file: {error}.") from error
    if tokens > vocab_size:
        raise CheckpointError(
            f"{path} has {tokens} tokens, and the model knows {vocab_size}.", "Use the model's own tokenizer."
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist: the model's configuration must lie beside its tensors.",
            "Write one with tbps_infer.reference.checkpoint.save_checkpoint, or copy it from where it was trained.",
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict) or values.get("family") != FAMILY or not isinstance(values.get("model"), dict):
        raise CheckpointError(
            f'{path} is not a configuration of the reference model: want "family": "{FAMILY}" and "model": {{...}}.'
        )
    return values
