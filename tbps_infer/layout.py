"""How a composite embedding is divided: which numbers are the global, coarse and part vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tbps_infer.errors import BundleError
from tbps_infer.formats.json_files import JsonObject

__all__ = ["Segment", "VectorLayout"]

_LARGEST = 1 << 20


@dataclass(frozen=True)
class Segment:
    """One named run of consecutive numbers in an embedding.

    Attributes:
        name: ``global``, ``coarse``, ``fine.0`` … for the reference model; other families name their own.
        size: How many numbers it has.
        weight: The squared norm of the run, so that its share of a similarity lies in [-weight, weight]:
            1 for ``global`` and ``coarse``, 1/K for each of K parts.
    """

    name: str
    size: int
    weight: float = 1.0


@dataclass(frozen=True)
class VectorLayout:
    """The declared division of an embedding ``z``, the same for pictures and sentences.

    The inner product of two embeddings is the sum over segments of the inner products of their runs, which is
    what lets a score be explained part by part.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        names = [segment.name for segment in self.segments]
        if not names or len(set(names)) != len(names) or any(s.size < 1 or not s.weight > 0 for s in self.segments):
            raise BundleError(
                f"A vector layout needs distinct, non-empty segments of positive weight; got {self.segments!r}.",
                "Export the bundle again.",
            )

    @cached_property
    def dim(self) -> int:
        """Length of the whole embedding."""
        return sum(segment.size for segment in self.segments)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Segment names, in order."""
        return tuple(segment.name for segment in self.segments)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each segment lies in the embedding."""
        stops = np.cumsum([segment.size for segment in self.segments]).tolist()
        return {s.name: slice(stop - s.size, stop) for s, stop in zip(self.segments, stops, strict=True)}

    @cached_property
    def squared_norm(self) -> float:
        """|z|² of every embedding of this layout: the similarity of an embedding with itself."""
        return float(sum(segment.weight for segment in self.segments))

    def to_json(self) -> list[dict[str, Any]]:
        """The layout as plain JSON values."""
        return [{"name": s.name, "size": s.size, "weight": s.weight} for s in self.segments]

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]]) -> VectorLayout:
        """Read what `to_json` wrote; raises BundleError on anything else."""
        try:
            read = [JsonObject(entry, f"layout[{number}]") for number, entry in enumerate(entries)]
            segments = [Segment(e.text("name"), e.integer("size", 1, _LARGEST), e.number("weight")) for e in read]
        except (TypeError, ValueError) as error:
            raise BundleError(f"The vector layout is not valid: {error}.") from error
        return cls(tuple(segments))
