"""Tensors into a network by an explicit table: all that the network has, and nothing dropped that was not named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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


def cover(file: CheckpointFile, network: nn.Module, table: Mapping[str, str], droppable: Sequence[str]) -> Coverage:
    """Compare the names and shapes of a checkpoint with those of a network.

    Args:
        file: The checkpoint.
        network: With any values, or none (on the device ``meta``).
        table: The name of each of the network's tensors, by its name in the checkpoint.
        droppable: Names of tensors that retrieval does not need; one that ends with a dot names all that begin so.

    Raises:
        CheckpointError: Names the first tensor that is missing, misshapen, or neither wanted nor droppable.
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
    modules = tuple(entry for entry in droppable if entry.endswith("."))
    unknown = [name for name in dropped if name not in droppable and not name.startswith(modules)]
    if unknown:
        more = f" ({len(unknown)} such tensors)" if len(unknown) > 1 else ""
        raise CheckpointError(
            f"{file.path} has a tensor that no model of this family is known to have: {unknown[0]}{more}.",
            f"If it served the training alone, say so: --drop {unknown[0].split('.')[0]}{'.' * ('.' in unknown[0])}",
        )
    return Coverage(len(table), dropped)


def copy_tensors(file: CheckpointFile, network: nn.Module, table: Mapping[str, str]) -> None:
    """Copy a checkpoint's tensors into a network that `cover` found to fit, as FP32.

    Raises:
        CheckpointError: Names the first tensor that has NaN or infinite values, or is not of real numbers.
    """
    targets = own_tensors(network)
    for name, target in table.items():
        check_numbers(file.path, name, file.tensors[name])
        targets[target].copy_(file.tensors[name])
