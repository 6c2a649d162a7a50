"""A checkpoint's file, read without executing anything in it: its tensors by name, and what it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tbps_infer.errors import CheckpointError
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.settings import Settings, read_settings, read_settings_file
from tbps_infer.families.unsupported import refuse_unsupported
from tbps_infer.reference.lora import merge_lora
from tbps_infer.reference.state_dict import bare_tensors
from tbps_infer.reference.tensor_files import alpha_beside, find_tensors, read_values

__all__ = ["CheckpointFile", "read_checkpoint_file"]


@dataclass(frozen=True)
class CheckpointFile:
    """What a file holds.

    Attributes:
        path: The file.
        tensors: By their bare names, as `tbps_infer.reference.state_dict` says, adapters merged.
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


def read_checkpoint_file(path: Path, options: LoadOptions) -> CheckpointFile:
    """Read a checkpoint of any family.

    Args:
        path: A file of tensors, or a folder with one (`tbps_infer.reference.tensor_files`).
        options: Which set of weights, and the training's configuration file in place of what the checkpoint holds or
            lies beside.

    Raises:
        CheckpointError: There is none, it is damaged, or carries code or objects that are not known to be harmless;
            or the configuration file cannot be read; or it is of a model that is known and not supported.
        UsageError: There is no such key.
    """
    file = find_tensors(path)
    said = None if options.config is None else read_settings_file(options.config)
    values = read_values(file)
    own = values.get("config") if isinstance(values, Mapping) else None
    if said is None and isinstance(own, Mapping):
        said = Settings(f"{file} (config)", own)
    settings = said or read_settings(file.parent)
    tensors = bare_tensors(file, values, options.key)
    if options.family is None:
        refuse_unsupported(file, (*tensors, *(f"={key}" for key in values)))
    alpha = settings.number("lora_alpha")
    if alpha is None:
        alpha = alpha_beside(file.parent)
    return CheckpointFile(file, merge_lora(file, tensors, alpha), settings)
