"""A checkpoint's file, read without executing anything in it: its tensors by name, and what it was trained with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbps_infer.errors import CheckpointError
from tbps_infer.families.settings import Settings, read_settings, read_settings_file
from tbps_infer.reference.checkpoint import IGNORED_SUFFIX, find_tensors, read_pickled, read_tensors

__all__ = ["CheckpointFile", "read_checkpoint_file"]

# State dicts of two networks side by side: their tensors are named with the state dict's name in front.
_SIDE_BY_SIDE = ("ImgEncoder_state_dict", "TxtEncoder_state_dict")
_NESTED = ("model", "state_dict")
_PARALLEL = "module."


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
    "numpy.core.multiarray.scalar": _Nothing,
    "numpy._core.multiarray.scalar": _Nothing,
    "numpy.dtype": _Nothing,
}


@dataclass(frozen=True)
class CheckpointFile:
    """What a file holds.

    Attributes:
        path: The file.
        tensors: By name; what wraps a network for training in parallel is taken off the names, and counters of
            BatchNorm updates, which no forward pass uses, are left out.
        settings: What it was trained with, as the file itself or a configuration file beside it says.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    settings: Settings

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of a tensor with ``rank`` axes. Raises CheckpointError when it is missing or has others."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.path} has no tensor {name}.", "Use the whole checkpoint of a training.")
        if tensor.dim() != rank or 0 in tensor.shape:
            raise CheckpointError(f"{self.path}: {name} is {list(tensor.shape)}, want {rank} axes, none empty.")
        return tuple(tensor.shape)

    def layers(self, prefix: str) -> int:
        """How many layers are numbered after a prefix: one more than the greatest number.

        Raises:
            CheckpointError: None is, or a number is greater than the count of tensors.
        """
        numbers = {name[len(prefix) :].split(".")[0] for name in self.tensors if name.startswith(prefix)}
        layers = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
        if not 0 < layers <= len(self.tensors):
            problem = f"numbers its layers up to {layers - 1}" if layers else "has no layers"
            raise CheckpointError(f"{self.path} {problem} after {prefix}.", "Use the whole checkpoint of a training.")
        return layers


def read_checkpoint_file(path: Path, config: Path | None = None) -> CheckpointFile:
    """Read a checkpoint of any family.

    Args:
        path: The file (``.safetensors``, ``.pth``, ``.pt``, ``.pth.tar``), or a folder with one such file.
        config: The training's configuration file, instead of what the checkpoint holds or lies beside.

    Raises:
        CheckpointError: There is none, it is damaged, or carries code or objects that are not known to be harmless;
            or the configuration file beside it cannot be read.
    """
    file = find_tensors(path)
    said = None if config is None else read_settings_file(config)
    if file.suffix == ".safetensors":
        return CheckpointFile(file, _named(file, read_tensors(file).items()), said or read_settings(file.parent))
    values = read_pickled(file, _STAND_INS)
    entries = dict(_entries(file, values))
    own = values.get("config") if isinstance(values, Mapping) else None
    if said is None and isinstance(own, Mapping):
        said = Settings(f"{file} (config)", own)
    return CheckpointFile(file, entries, said or read_settings(file.parent))


def _entries(file: Path, values: Any) -> Mapping[str, Tensor]:
    if isinstance(values, Mapping) and any(isinstance(values.get(part), Mapping) for part in _SIDE_BY_SIDE):
        parts = {part: _named(file, values[part].items()) for part in _SIDE_BY_SIDE if part in values}
        return {f"{part}.{name}": tensor for part, entries in parts.items() for name, tensor in entries.items()}
    for name in _NESTED:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{file} does not hold tensors by name.", "Save model.state_dict() and try again.")
    return _named(file, values.items())


def _named(file: Path, entries: Iterable[tuple[Any, Any]]) -> dict[str, Tensor]:
    """Checked tensors under their own names."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in _checked(file, entries):
        bare = name.removeprefix(_PARALLEL)
        if bare in tensors:
            raise CheckpointError(f"{file} has {bare} twice, once as {_PARALLEL}{bare}.", "Save one of them alone.")
        if not bare.endswith(IGNORED_SUFFIX):
            tensors[bare] = tensor
    return tensors


def _checked(file: Path, entries: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in entries:
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(
                f"{file}: {name!r} is not a plain tensor, and a state dict holds only tensors.",
                "Save model.state_dict() and try again.",
            )
        yield name, tensor
