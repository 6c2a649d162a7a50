"""What turns a picture into the network's input, as facts: one place for export, embedding and search."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tbps_infer.formats.json_files import JsonObject

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Interpolation", "Preprocessing", "json_values"]

Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded RGB picture becomes a crop, and a crop the network's input.

    Resizing happens outside the graph (`tbps_infer.images`); mean and std are applied inside it, on values
    scaled to [0, 1], so that no caller can normalise twice.

    Attributes:
        image_size: (height, width) in pixels.
        interpolation: The resampling filter.
        antialias: Whether the filter widens when the picture shrinks, as Pillow's always does.
        mean: Per channel, R G B.
        std: Per channel, R G B.
    """

    image_size: tuple[int, int] = (384, 128)
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f'interpolation is {self.interpolation!r}, want "bilinear" or "bicubic"')
        if not self.antialias:
            raise ValueError("antialias is false, and resizing without antialiasing is not supported")
        if len(self.image_size) != 2 or not 1 <= min(self.image_size) <= max(self.image_size) <= _LARGEST_SIDE:
            raise ValueError(
                f"image_size is {self.image_size!r}, want (height, width) in pixels, at most {_LARGEST_SIDE} each"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean!r} and std {self.std!r} need three values each, std positive")

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return json_values(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_json` wrote, with defaults. Raises TypeError or ValueError on anything else."""
        read = JsonObject(values, "preprocessing")
        known: dict[str, Any] = dict(read)
        for name, take in (("image_size", read.integers), ("mean", read.numbers), ("std", read.numbers)):
            if name in known:
                known[name] = take(name)
        if "antialias" in known:
            read.boolean("antialias")
        return cls(**known)


def json_values(values: dict[str, Any]) -> dict[str, Any]:
    """The same values as JSON reads them back: tuples become lists, so that equal facts compare equal."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read
