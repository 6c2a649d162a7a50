"""Which of the tensors in a file are the model's, and under which names: wrappers of trainings are taken off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbps_infer.errors import CheckpointError, UsageError

__all__ = ["IGNORED_SUFFIX", "bare_tensors"]

IGNORED_SUFFIX = ".num_batches_tracked"
"""Counters of BatchNorm updates: not used by any forward pass, and absent from some published files."""

NO_PREFIX = "."
"""As a key: the tensors whose names have no wrapper's prefix, beside others that have one."""

# State dicts of two networks side by side: their tensors are named with the state dict's name in front.
_SIDE_BY_SIDE = ("ImgEncoder_state_dict", "TxtEncoder_state_dict")
# What DataParallel, Lightning and Fabric put before every name; what torch.compile, FSDP and checkpointed layers put
# before the names of a module, wherever it is.
_OUTER = ("module.", "model.", "_forward_module.")
_INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_DEPTH = 3


def bare_tensors(path: Path, values: Any, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of one set of weights by their bare names; counters that no forward pass uses are left out.

    Args:
        path: The file, for sentences.
        values: What it holds: a state dict, or mappings with state dicts in them.
        key: Which set, where there are several: the state dict's name (``ema``, ``ema.module``), or what the names of
            its tensors begin with (``module.``); `NO_PREFIX` for those that no wrapper's prefix is put before.

    Raises:
        CheckpointError: There is no state dict, something in it is no plain tensor, or there are several sets and
            ``key`` is not given.
        UsageError: There is no such key.
    """
    sets = dict(_state_dicts(values)) if isinstance(values, Mapping) else {}
    if not sets:
        raise CheckpointError(
            f"{path} does not hold a state dict (tensors by name).", "Save model.state_dict() and try again."
        )
    chosen = None if key is None else sets.get(key, values.get(key))  # the latter where tensors lie beside it
    if isinstance(chosen, Mapping):
        return _renamed(path, chosen.items())
    if set(_SIDE_BY_SIDE) & sets.keys():
        parts = {part: _renamed(path, sets[part].items()) for part in _SIDE_BY_SIDE if part in sets}
        return {f"{part}.{name}": tensor for part, entries in parts.items() for name, tensor in entries.items()}
    if len(sets) > 1:
        raise CheckpointError(
            f"{path} holds several sets of weights: {', '.join(sets)}.",
            f"Choose one: --key {' or --key '.join(sets)}",
        )
    (entries,) = sets.values()
    if key is None:
        return _renamed(path, entries.items())
    return _renamed(path, _of_key(path, entries, key))


def _state_dicts(
    values: Mapping[Any, Any], name: str = "", depth: int = _DEPTH
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every mapping of names to tensors, by the path of keys to it; a mapping that holds a tensor has no others."""
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    if any(tensor.dim() for tensor in tensors):
        yield name, values
        return
    if tensors and not name:  # a single number in a state dict of nothing else
        yield name, values
        return
    for key, value in values.items():
        # An optimizer's state is by the number of its parameter.
        if depth and isinstance(key, str) and isinstance(value, Mapping):
            yield from _state_dicts(value, f"{name}.{key}" if name else key, depth - 1)


def _of_key(path: Path, entries: Mapping[Any, Any], key: str) -> list[tuple[Any, Any]]:
    if key == NO_PREFIX:
        return [(name, tensor) for name, tensor in entries.items() if not str(name).startswith((*_OUTER, *_INNER))]
    start = key if key.endswith(".") else f"{key}."
    chosen = [(name[len(start) :], tensor) for name, tensor in entries.items() if str(name).startswith(start)]
    if not chosen:
        raise UsageError(f"{path} has nothing of the key {key}.", "Leave --key out to see what there is.")
    return chosen


def _renamed(path: Path, entries: Iterable[tuple[Any, Any]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in entries:
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(
                f"{path} does not hold a state dict of tensors alone: {name!r} is no plain tensor.",
                f"If it is the state dict, choose it: --key {name}"
                if isinstance(tensor, Mapping)
                else "Save model.state_dict() and try again.",
            )
        bare = _bare(name)
        if bare.endswith(IGNORED_SUFFIX):
            continue
        if bare in tensors and not _equal(tensors[bare], tensor):
            raise CheckpointError(
                f"{path} has {bare} twice, with different numbers: as {origins[bare]} and as {name}.",
                f"Choose one set of weights: {' or '.join(_keys_of(bare, (origins[bare], name)))}",
            )
        tensors[bare], origins[bare] = tensor, name
    return tensors


def _bare(name: str) -> str:
    """The name without wrappers: ``module.module._orig_mod.visual.proj`` is ``visual.proj``."""
    for inner in _INNER:
        name = name.replace(f".{inner}", ".").removeprefix(inner)
    while name.startswith(_OUTER):
        name = name.partition(".")[2]
    return name


def _keys_of(bare: str, names: Iterable[str]) -> list[str]:
    return [f"--key {name.removesuffix(bare) or NO_PREFIX}" for name in names]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
