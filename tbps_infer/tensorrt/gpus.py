"""What is known of a GPU; an engine of TensorRT runs on the kind that it was built on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["GpuFacts", "version_text"]


@dataclass(frozen=True)
class GpuFacts:
    """One GPU with what drives it.

    Attributes:
        name: As the driver calls it.
        sm: Its compute capability: ``sm87``.
        memory_bytes: In all.
        free_bytes: When it was asked.
        driver: The newest CUDA that the driver runs: ``12.6``.
        runtime: The CUDA runtime in use: ``12.6``.
    """

    name: str
    sm: str
    memory_bytes: int
    free_bytes: int
    driver: str
    runtime: str

    @property
    def label(self) -> str:
        """A name for folders: ``nvidia-geforce-rtx-4090-sm89``."""
        return f"{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}-{self.sm}"

    def same_kind(self, other: GpuFacts) -> bool:
        """Whether an engine built on one runs on the other."""
        return (self.name, self.sm) == (other.name, other.sm)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GpuFacts:
        """Read what `dataclasses.asdict` gave; raises KeyError or TypeError on anything else."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def version_text(number: int) -> str:
    """CUDA's way of writing a version, 12060, as ``12.6``."""
    return f"{number // 1000}.{number % 1000 // 10}"
