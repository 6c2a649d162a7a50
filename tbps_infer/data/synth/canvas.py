"""The drawing surface: coloured parts with smooth edges over a second, blurred layer of light and shadow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tbps_infer.data.synth.palette import RGB

__all__ = ["Canvas", "Framing", "Paint", "Point"]

Point = tuple[float, float]
_NEUTRAL = 128
_STRIPS = 7


Paint = RGB | Image.Image
"""A colour, or a pattern as large as the canvas, of which a part shows the piece that it covers."""


@dataclass(frozen=True)
class Framing:
    """Where the person stands in the crop: body units (1 is the person's height, y down from the crown) to pixels."""

    unit: float
    left: float
    top: float
    lean: float

    def x(self, point: Point) -> float:
        """Horizontal position in pixels of the crop."""
        return self.left + self.unit * (point[0] + self.lean * (1 - point[1]))

    def y(self, point: Point) -> float:
        """Vertical position in pixels of the crop."""
        return self.top + self.unit * point[1]


class Canvas:
    """Draws in body units onto a crop of `width` by `height` pixels.

    Colours are drawn `supersampling` times larger and reduced at the end. Light and shadow are drawn at the
    crop's own size and blurred: filling a part clears what was shaded below it.
    """

    def __init__(self, width: int, height: int, framing: Framing, light: float, supersampling: int = 3) -> None:
        self.size = (width, height)
        self.framing = framing
        self.light = light
        self.supersampling = supersampling
        self.large = (width * supersampling, height * supersampling)
        self._colour = Image.new("RGBA", self.large)
        self._shade = Image.new("L", self.size, _NEUTRAL)
        self._paint = ImageDraw.Draw(self._colour)
        self._dim = ImageDraw.Draw(self._shade)

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        """Body units to pixels of the enlarged colour layer."""
        s, frame = self.supersampling, self.framing
        return [(s * frame.x(p), s * frame.y(p)) for p in points]

    def fill(self, points: Sequence[Point], paint: Paint) -> None:
        """Fill a polygon and clear the shading below it."""
        if len(points) < 3:
            return
        large = self.pixels(points)
        if isinstance(paint, Image.Image):
            self._fill_texture(large, paint)
        else:
            self._paint.polygon(large, fill=(*paint, 255))
        self._dim.polygon([(x / self.supersampling, y / self.supersampling) for x, y in large], fill=_NEUTRAL)

    def _fill_texture(self, large: Sequence[Point], paint: Image.Image) -> None:
        xs, ys = [p[0] for p in large], [p[1] for p in large]
        left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
        right, bottom = min(self.large[0], math.ceil(max(xs)) + 1), min(self.large[1], math.ceil(max(ys)) + 1)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in large], fill=255)
        self._colour.paste(paint.crop((left, top, right, bottom)), (left, top), mask)

    def shade(self, points: Sequence[Point], factor: float) -> None:
        """Multiply the light inside a polygon, e.g. 0.8 for a shadow; later fills replace it."""
        if len(points) < 3:
            return
        frame = self.framing
        self._dim.polygon([(frame.x(p), frame.y(p)) for p in points], fill=_level(factor))

    def crease(self, points: Sequence[Point], factor: float, width: float = 0.008) -> None:
        """Shade along a line: a fold or a seam."""
        frame = self.framing
        line = [(frame.x(p), frame.y(p)) for p in points]
        self._dim.line(line, fill=_level(factor), width=max(1, round(width * frame.unit)))

    def line(self, points: Sequence[Point], colour: RGB, width: float) -> None:
        """A line of constant width (in body units) with rounded corners."""
        large = self.pixels(points)
        thick = max(1, round(width * self.framing.unit * self.supersampling))
        self._paint.line(large, fill=(*colour, 255), width=thick, joint="curve")

    def oval(self, centre: Point, rx: float, ry: float, paint: Paint) -> None:
        """Fill an ellipse with radii in body units."""
        self.fill(oval_points(centre, rx, ry), paint)

    def tube(self, joints: Sequence[tuple[float, float, float]], paint: Paint, *, open_end: bool = False) -> None:
        """A limb: a chain of (x, y, radius), rounded at both ends or, with `open_end`, cut off like a sleeve."""
        left, right = _tube_edges(joints)
        for x, y, radius in joints[:1] if open_end else (joints[0], joints[-1]):
            self.oval((x, y), radius, radius, paint)
        self.fill([*left, *reversed(right)], paint)
        self.model(left, right)

    def model(self, left: Sequence[Point], right: Sequence[Point]) -> None:
        """Light a rounded surface between two edges as a cylinder: Lambert's cosine over strips."""
        towards = 0.9 * self.light
        for strip in range(_STRIPS):
            normal = math.asin((2 * strip + 1) / _STRIPS - 1)
            factor = 0.74 + 0.34 * max(0.0, math.cos(normal - towards))
            near, far = strip / _STRIPS, (strip + 1) / _STRIPS
            self.shade([*_between(left, right, near), *reversed(_between(left, right, far))], factor)

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The shaded figure: colours float32 [height, width, 3] in 0..255, coverage [height, width, 1] in 0..1."""
        small = np.asarray(self._colour.reduce(self.supersampling), dtype=np.float32)
        soft = self._shade.filter(ImageFilter.GaussianBlur(0.006 * self.framing.unit))
        light = np.asarray(soft, dtype=np.float32)[..., None] / np.float32(_NEUTRAL)
        return small[..., :3] * light, small[..., 3:] / np.float32(255)


def _level(factor: float) -> int:
    return max(0, min(255, round(_NEUTRAL * factor)))


def oval_points(centre: Point, rx: float, ry: float, steps: int = 20) -> list[Point]:
    """The outline of an ellipse."""
    turns = (2 * math.pi * i / steps for i in range(steps))
    return [(centre[0] + rx * math.cos(a), centre[1] + ry * math.sin(a)) for a in turns]


def _between(left: Sequence[Point], right: Sequence[Point], part: float) -> list[Point]:
    return [(x0 + (x1 - x0) * part, y0 + (y1 - y0) * part) for (x0, y0), (x1, y1) in zip(left, right, strict=True)]


def _tube_edges(joints: Sequence[tuple[float, float, float]]) -> tuple[list[Point], list[Point]]:
    left: list[Point] = []
    right: list[Point] = []
    for index, (x, y, radius) in enumerate(joints):
        x0, y0, _ = joints[max(0, index - 1)]
        x1, y1, _ = joints[min(len(joints) - 1, index + 1)]
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = -(y1 - y0) / length * radius, (x1 - x0) / length * radius
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    return left, right
