"""What runs a model: backends, their packages, and processors by name (``cpu``, ``cuda``, ``cuda:1``)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tbps_infer.errors import UsageError
from tbps_infer.tensorrt.flavours import FlavourName

__all__ = [
    "BACKENDS",
    "MEMORY_KINDS",
    "SEARCH_BACKENDS",
    "BackendName",
    "Device",
    "MemoryKind",
    "SearchBackend",
    "installed_versions",
]

BackendName = Literal["onnxruntime", FlavourName, "torch"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

SearchBackend = Literal["auto", "kernel", "onnxruntime"]
SEARCH_BACKENDS: tuple[SearchBackend, ...] = get_args(SearchBackend)

MemoryKind = Literal["cuda-bindings", "pycuda"]
MEMORY_KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)
"""The packages that call CUDA for engines, in the order in which they are tried."""


@dataclass(frozen=True)
class Device:
    """A processor: the CPU, or one CUDA device by its index."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Device:
        """Read ``cpu``, ``cuda`` or ``cuda:N``; raises UsageError on anything else."""
        if name == "cpu":
            return cls("cpu")
        match = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
        if match is None:
            raise UsageError(f"The device {name!r} is not known.", "Give cpu, cuda, or cuda:1 for the second one.")
        return cls("cuda", int(match[1] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed, by name."""
    from importlib import metadata  # takes longer to import than a command's help to print

    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
