"""What is known of a GPU; an engine of TensorRT runs on the kind that it was built on.

The driver calls every Jetson Orin "Orin", from 4 to 16 multiprocessors, so a board is named by these and its memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_infer.formats.json_files import JsonObject
from tbps_infer.host_memory import memory_info

__all__ = ["DeviceAttributes", "GpuFacts", "version_text"]

_GIB = 1 << 30

# By compute capability, multiprocessors and the GiB of memory that a board is sold with; NVIDIA's data sheets of the
# modules. Orin NX and Orin Nano with 8 GB are the same GPU at other clocks.
_JETSON_BOARDS = {
    ("sm87", 4, 4): "Jetson Orin Nano 4GB",
    ("sm87", 8, 8): "Jetson Orin Nano or NX 8GB",
    ("sm87", 8, 16): "Jetson Orin NX 16GB",
    ("sm87", 14, 32): "Jetson AGX Orin 32GB",
    ("sm87", 16, 64): "Jetson AGX Orin 64GB",
    ("sm101", 12, 64): "Jetson T4000",
    ("sm101", 20, 128): "Jetson T5000",
    ("sm110", 12, 64): "Jetson T4000",
    ("sm110", 20, 128): "Jetson T5000",
}


@dataclass(frozen=True)
class GpuFacts:
    """One GPU with what drives it.

    Attributes:
        name: As the driver calls it, or the board's where the driver gives several boards one name.
        sm: Its compute capability: ``sm87``.
        memory_bytes: In all.
        free_bytes: When it was asked.
        driver: The newest CUDA that the driver runs: ``12.6``.
        runtime: The CUDA that the package which calls it was made for: ``12.6``.
        multiprocessors: How many it has; 0 where that is not known.
    """

    name: str
    sm: str
    memory_bytes: int
    free_bytes: int
    driver: str
    runtime: str
    multiprocessors: int = 0

    @property
    def label(self) -> str:
        """A name for folders: ``nvidia-geforce-rtx-4090-sm89``."""
        return f"{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}-{self.sm}"

    def same_kind(self, other: GpuFacts) -> bool:
        """Whether an engine built on one runs on the other."""
        return (self.name, self.sm, self.multiprocessors) == (other.name, other.sm, other.multiprocessors)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GpuFacts:
        """Read what `dataclasses.asdict` gave; raises ValueError on anything else."""
        read = JsonObject(values, "gpu")
        return cls(
            name=read.text("name"),
            sm=read.text("sm"),
            memory_bytes=read.integer("memory_bytes"),
            free_bytes=read.integer("free_bytes"),
            driver=read.text("driver"),
            runtime=read.text("runtime"),
            multiprocessors=read.integer("multiprocessors"),
        )


@dataclass(frozen=True)
class DeviceAttributes:
    """What CUDA tells of a device, before it is interpreted.

    Attributes:
        name: As the driver calls it.
        capability: Major and minor.
        multiprocessors: How many it has.
        integrated: Whether it shares its memory with the CPU, as on a Jetson.
        memory: Free and all bytes, as ``cuMemGetInfo`` gives them.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    integrated: bool
    memory: tuple[int, int]

    def interpreted(self, driver: int, runtime: str, root: Path = Path("/")) -> GpuFacts:
        """The facts: a board by its own name, and free memory as it can be had.

        Where memory is shared, ``cuMemGetInfo`` leaves out what the kernel's caches would give up, so that the
        kernel's own figure is taken.

        Args:
            driver: The driver's CUDA version, as CUDA writes it: 12060.
            runtime: As in `GpuFacts`.
            root: Holds ``proc``.
        """
        free, total = self.memory
        sm = f"sm{self.capability[0]}{self.capability[1]}"
        name = self.name
        if self.integrated:
            sold_gib = 1 << (-(-total // _GIB) - 1).bit_length()  # a board keeps some of its memory for itself
            name = _JETSON_BOARDS.get((sm, self.multiprocessors, sold_gib), name)
            free = memory_info(root).get("MemAvailable", free)
        return GpuFacts(name, sm, total, free, version_text(driver), runtime, self.multiprocessors)


def version_text(number: int) -> str:
    """CUDA's way of writing a version, 12060, as ``12.6``."""
    return f"{number // 1000}.{number % 1000 // 10}"
