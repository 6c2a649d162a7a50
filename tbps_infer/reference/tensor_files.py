"""Files of tensors, read without executing anything in them: safetensors, also in parts, and torch.save's."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbps_infer.bundle import file_sha256
from tbps_infer.errors import CheckpointError
from tbps_infer.reference.file_kinds import CONVERT, TENSOR_SUFFIXES, is_safetensors, refuse_other_kinds
from tbps_infer.reference.lora import ADAPTER_CONFIG, alpha_of, merge_lora
from tbps_infer.reference.state_dict import bare_tensors

__all__ = [
    "alpha_beside",
    "check_numbers",
    "find_tensors",
    "read_json",
    "read_tensors",
    "read_values",
    "tensors_file_sha256",
]

_INDEX = ".index.json"
# What a folder's other files of tensors stand back for, the first that is there taken.
_PREFERRED = (
    *("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin"),
)
_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class _PlainSettings:
    """Stands in for ``EasyDict``, a dict whose keys are attributes too: what is made is a plain dict."""

    def __new__(cls) -> Any:
        return OrderedDict()


class _Nothing:
    """Stands in for what a training notes about itself and no model needs, such as its best score."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Take what comes and keep none of it."""


_STAND_INS: Mapping[str, type] = {
    "easydict.EasyDict": _PlainSettings,
    "numpy.dtype": _Nothing,
    "numpy.ndarray": _Nothing,
    "numpy.core.multiarray.scalar": _Nothing,
    "numpy._core.multiarray.scalar": _Nothing,
    "numpy.core.multiarray._reconstruct": _Nothing,
    "numpy._core.multiarray._reconstruct": _Nothing,
}


def find_tensors(path: Path) -> Path:
    """The file with a checkpoint's tensors, or the index of its parts, given that file or its folder.

    Raises:
        CheckpointError: The path does not exist, or its folder does not hold one such file.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist.", "Give a checkpoint's folder or its .safetensors file.")
    for name in _PREFERRED:
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.iterdir() if file.name.endswith((*TENSOR_SUFFIXES, ".bin.index.json")))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise CheckpointError(
            f"{path} should hold one file of tensors ({', '.join(TENSOR_SUFFIXES[:-1])}), and holds {names}.",
            "Name the file itself.",
        )
    return found[0]


def read_tensors(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read one set of weights by its bare names, as `tbps_infer.reference.state_dict` says, adapters merged.

    Args:
        path: A file of tensors, or the index of its parts.
        key: Which set, where the file holds several.

    Raises:
        CheckpointError: The file is something else, damaged, or a pickle that carries code.
        UsageError: There is no such key.
    """
    return merge_lora(path, bare_tensors(path, read_values(path), key), alpha_beside(path.parent))


def read_values(path: Path) -> Any:
    """What a file of tensors holds, unchanged: a mapping of names to tensors, or what else torch.save was given.

    Raises:
        CheckpointError: The file is something else, damaged, or a pickle that carries code.
    """
    if path.name.endswith(_INDEX):
        return _read_parts(path)
    refuse_other_kinds(path)
    if is_safetensors(path):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}.") from error
    return _read_pickled(path)


def alpha_beside(folder: Path) -> float | None:
    """LoRA's alpha in a folder's ``adapter_config.json``; None where there is none. Raises CheckpointError."""
    file = folder / ADAPTER_CONFIG
    return alpha_of(file, read_json(file)) if file.is_file() else None


def tensors_file_sha256(path: Path) -> str:
    """sha256 of a file of tensors; of an index, of the hashes of its parts."""
    if not path.name.endswith(_INDEX):
        return file_sha256(path)
    lines = [f"{name} {file_sha256(path.parent / name)}\n" for name in sorted(set(_weight_map(path).values()))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_numbers(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is no weight as training leaves it.

    Raises:
        CheckpointError: It is quantised, no tensor of real numbers, or has NaN or infinite values.
    """
    if tensor.dtype not in _NUMBERS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path}: {name} is of type {kind}, want floating-point numbers of 16 bits or more.",
            "Use the checkpoint as it was before it was quantised; tbps export --precision int8 quantises it here.",
        )
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} has NaN or infinite values.", "Use another checkpoint.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError when the file is not there or holds anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist.", "Copy the checkpoint's whole folder.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.", "Copy it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.", "Copy it again.")
    return values


def _read_parts(index: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    wanted = _weight_map(index)
    for part in sorted(set(wanted.values())):
        tensors |= read_values(index.parent / part)
    for name, part in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{index} says that {part} holds {name}, and it does not.", "Copy all parts again.")
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """The part's file by the tensor's name. Raises CheckpointError for one that is missing or lies elsewhere."""
    parts = read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise CheckpointError(f"{index} does not say which file holds which tensor (weight_map).", "Copy it again.")
    for part in parts.values():
        if not isinstance(part, str) or part in ("", ".", "..") or Path(part).name != part or "\\" in part:
            raise CheckpointError(f"{index} names {part!r}, which is no file of its own folder.", "Do not use it.")
        if not (index.parent / part).is_file():
            raise CheckpointError(f"{index} needs {part}, which is not beside it.", "Copy all of its parts.")
    return parts


def _read_pickled(path: Path) -> Any:
    """Read what torch.save wrote; tensors are mapped into memory where possible."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(c, n) for n, c in _STAND_INS.items()]):
            warnings.simplefilter("ignore")  # of pickle protocols that it goes on to read
            if path.suffix == ".safetensors":  # torch.load goes by that name, whatever the file holds
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # on a damaged file anything from a KeyError to a RuntimeError
        # PyTorch's own text, which explains how to run the code all the same, is not passed on.
        code = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code is None:
            raise CheckpointError(
                f"{path} is damaged, or is not a file of tensors that torch.save wrote.", "Copy it again."
            ) from error
        raise CheckpointError(
            f"{path} carries code or objects besides tensors ({code[1]}), and none of it was executed.", CONVERT
        ) from error
