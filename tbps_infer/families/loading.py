"""Tensors into a network by an explicit table: all that the network has, and nothing dropped that was not named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from tbps_infer.errors import CheckpointError
from tbps_infer.families.files import CheckpointFile
from tbps_infer.reference.checkpoint import own_tensors
from tbps_infer.reference.tensor_files import check_numbers

__all__ = ["Coverage", "copy_tensors", "cover"]


@dataclass(frozen=True)
class Coverage:
    """Which of a checkpoint's tensors a network takes.

    Attributes:
        wanted: How many the network has; all of them are in the checkpoint.
        dropped: Names of those that served the training alone.
    """

    wanted: int
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.wanted} of {self.wanted} tensors"

    def dropped_groups(self) -> dict[str, int]:
        """How many were dropped, by the module that they belong to."""
        return dict(Counter(name.split(".")[0] for name in self.dropped))


def cover(
    file: CheckpointFile,
    network: nn.Module,
    table: Mapping[str, str],
    droppable: Sequence[str],
    drop: Sequence[str] = (),
) -> Coverage:
    """Compare the names and shapes of a checkpoint with those of a network.

    Args:
        file: The checkpoint.
        network: With any values, or none (on the device ``meta``).
        table: The name of each of the network's tensors, by its name in the checkpoint.
        droppable: Names of tensors that the family's trainings add; one that ends with a dot names all that begin so.
        drop: Names of others that the user knows to have served the training alone, outside the network's modules.

    Raises:
        CheckpointError: Names the first tensor that is missing or misshapen, or all groups of tensors that are
            neither wanted nor droppable, or what ``drop`` names and the network needs.
    """
    targets = own_tensors(network)
    assert set(table.values()) == targets.keys(), set(table.values()) ^ targets.keys()
    for name in table:
        tensor = file.tensors.get(name)
        if tensor is None:
            missing = [other for other in table if other not in file.tensors]
            more = f" ({len(missing)} such tensors)" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{file.path} has no tensor {name}{more}.", "Use the whole checkpoint of a training."
            )
        if tensor.shape != targets[table[name]].shape:
            raise CheckpointError(
                f"{file.path}: {name} is {list(tensor.shape)}, and the other tensors want "
                f"{list(targets[table[name]].shape)}.",
                "Use the checkpoint as its training wrote it.",
            )
    dropped = tuple(name for name in file.tensors if name not in table)
    _refuse_unknown(file, [name for name in dropped if not _is_named(name, droppable)], table, drop)
    for entry in drop:
        if _any_named(table, entry) and not _any_named(dropped, entry):
            raise CheckpointError(f"{file.path}: the network needs {entry}, so it is not dropped.", "Leave it out.")
    return Coverage(len(table), dropped)


def _refuse_unknown(
    file: CheckpointFile, unknown: Sequence[str], table: Mapping[str, str], drop: Sequence[str]
) -> None:
    """A tensor inside a module that the network uses takes part in what it computes; none is dropped on a guess."""
    used = {name.partition(".")[0] for name in table if "." in name}
    inside = [name for name in unknown if "." in name and name.partition(".")[0] in used]
    left = [*inside, *(name for name in unknown if name not in inside and not _is_named(name, drop))]
    if not left:
        return
    groups = Counter(_group(name, used) for name in left)
    listed = ", ".join(
        f"{group} ({count})" if count > 1 else next(name for name in left if _group(name, used) == group)
        for group, count in groups.items()
    )
    problem = f"{file.path} has tensors that no model of this family is known to have: {listed}."
    if inside:
        raise CheckpointError(
            problem,
            f"{_group(inside[0], used)} lies inside the network, so this is another architecture and nothing is "
            "dropped; docs/families.md says how to add a family.",
        )
    hint = f"If they served the training alone, say so: --drop {' --drop '.join(groups)}"
    copy = next((group for group in groups if any(name.removeprefix(group) in table for name in left)), None)
    if copy is not None:
        hint = f"{copy} holds a second set of weights: choose it with --key {copy}, or leave it with --drop {copy}"
    raise CheckpointError(problem, hint)


def _is_named(name: str, entries: Sequence[str]) -> bool:
    return name in entries or name.startswith(tuple(entry for entry in entries if entry.endswith(".")))


def _any_named(names: Iterable[str], entry: str) -> bool:
    return any(_is_named(name, (entry,)) for name in names)


def _group(name: str, used: Collection[str]) -> str:
    """What is said in place of many names: a module outside the network, or a place inside with layers as a star."""
    first, dot, _ = name.partition(".")
    if first in used and dot:
        return re.sub(r"\.\d+(?=\.)", ".*", name).rpartition(".")[0] + "."
    return first + dot


def copy_tensors(file: CheckpointFile, network: nn.Module, table: Mapping[str, str]) -> None:
    """Copy a checkpoint's tensors into a network that `cover` found to fit, as FP32.

    Raises:
        CheckpointError: Names the first tensor that has NaN or infinite values, or is not of real numbers.
    """
    targets = own_tensors(network)
    for name, target in table.items():
        check_numbers(file.path, name, file.tensors[name])
        targets[target].copy_(file.tensors[name])
