"""What one camera records: pictures, and for every person in them the true box and how much of it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tbps_infer.data.scenes.street import draw_light, draw_obstacles, draw_street
from tbps_infer.data.scenes.view import View
from tbps_infer.data.scenes.walkers import Walker
from tbps_infer.data.scenes.walks import Walk
from tbps_infer.data.synth.streams import pixel_stream, stream

__all__ = ["Film", "Frame", "TrueBox"]

_OPAQUE = 0.5
_NOBODY = 0
_SLACK = 64
"""Rows and columns of noise beyond a picture's: every frame takes another part."""


@dataclass(frozen=True)
class TrueBox:
    """Where a person is in a frame: the pixels of the figure, hidden ones included, cut off at the picture's edge.

    Attributes:
        track: Number of the walk in its film, from 1.
        left: First column, from 0.
        top: First row, from 0.
        width: In pixels.
        height: In pixels.
        visibility: Share of the figure's pixels that are in the picture with nothing in front of them, 0 to 1.
    """

    track: int
    left: int
    top: int
    width: int
    height: int
    visibility: float


@dataclass(frozen=True)
class Frame:
    """One picture: RGB, uint8 [height, width, 3]."""

    pixels: NDArray[np.uint8]
    boxes: tuple[TrueBox, ...]


class _Layer:
    """An image that is put into the picture, at a distance; parts of it may lie outside."""

    def __init__(self, distance: float, image: Image.Image, left: int, top: int, track: int = _NOBODY) -> None:
        self.distance = distance
        self.left, self.top = left, top
        self.track = track
        pixels = np.asarray(image, dtype=np.float32)
        self.colours, self.cover = pixels[..., :3], pixels[..., 3:] / np.float32(255)
        self.solid = self.cover[..., 0] >= _OPAQUE

    def window(self, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The rows and columns of a picture that the layer covers, and those of the layer that lie on them."""
        rows, picture_rows = _overlap(self.top, self.solid.shape[0], shape[0])
        columns, picture_columns = _overlap(self.left, self.solid.shape[1], shape[1])
        return (picture_rows, picture_columns), (rows, columns)


def _overlap(start: int, length: int, room: int) -> tuple[slice, slice]:
    first, last = min(max(start, 0), room), min(max(start + length, 0), room)
    return slice(first - start, last - start), slice(first, last)


class Film:
    """Everything of one camera; frames can be drawn in any order, and each depends on its time and number alone."""

    def __init__(self, view: View, walks: list[Walk], seed: int) -> None:
        self.view = view
        self.walks = walks
        self._seed = seed
        rng = stream(seed, f"street of {view.camera.name}")
        street = draw_street(view, rng)
        self._obstacles = [_Layer(o.distance, o.image, o.left, o.top) for o in draw_obstacles(view, rng)]
        self._light = draw_light(view, rng)
        self._street = (street * self._light).astype(np.uint8)
        self._walkers = [Walker(walk, view, seed) for walk in walks]
        self._shadow = _draw_shadow()
        noise = self._draw_noise()
        self._brighter, self._darker = (np.clip(part, 0, 255).astype(np.uint8) for part in (noise, -noise))

    def frame(self, number: int, time: float) -> Frame:
        """The picture at `time` seconds; `number` decides its noise."""
        people = [
            _Layer(*seen, track)
            for track, walker in enumerate(self._walkers, start=1)
            if (seen := walker.at(time)) is not None
        ]
        picture = self._street.copy()
        for person in people:
            self._put(picture, self._shadow_of(person))
        # Who covers whom: every pixel's track, painted in the same order as the picture.
        tracks = np.zeros(picture.shape[:2], dtype=np.uint16)
        for layer in sorted([*self._obstacles, *people], key=lambda layer: -layer.distance):
            self._put(picture, layer)
            there, part = layer.window(tracks.shape)
            tracks[there][layer.solid[part]] = layer.track
        boxes = (_box_of(person, tracks) for person in people)
        return Frame(self._with_noise(picture, number), tuple(box for box in boxes if box is not None))

    def _put(self, picture: NDArray[np.uint8], layer: _Layer) -> None:
        there, part = layer.window(picture.shape)
        lit = layer.colours[part] * self._light[there]
        picture[there] += ((lit - picture[there]) * layer.cover[part]).astype(np.int16).astype(np.uint8)

    def _shadow_of(self, person: _Layer) -> _Layer:
        height, width = person.solid.shape
        wide = max(4, round(0.8 * width))
        image = self._shadow.resize((wide, max(2, wide // 4)))
        left = person.left + round(width * (0.1 - 0.1 * self.view.camera.light))
        return _Layer(person.distance, image, left, person.top + round(0.95 * height) - image.height // 2)

    def _draw_noise(self) -> NDArray[np.float32]:
        level = self.view.camera.noise * (1.8 if self.view.dusk else 1.0)
        shape = (self.view.height + _SLACK, self.view.width + _SLACK, 1)
        rng = pixel_stream(stream(self._seed, f"noise of {self.view.camera.name}"))
        grey = np.rint(rng.standard_normal(shape, np.float32) * np.float32(level))
        return np.repeat(grey, 3, axis=2)

    def _with_noise(self, picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        """In uint8 throughout, which is several times faster than in a wider type: never past 255, never below 0."""
        rng = stream(self._seed, f"noise of {self.view.camera.name}", number)
        y, x = rng.randrange(_SLACK), rng.randrange(_SLACK)
        part = np.s_[y : y + self.view.height, x : x + self.view.width]
        brighter, darker = self._brighter[part], self._darker[part]
        raised = np.minimum(picture, 255 - brighter) + brighter
        return np.asarray(np.maximum(raised, darker) - darker)


def _draw_shadow() -> Image.Image:
    mask = Image.new("L", (96, 24))
    ImageDraw.Draw(mask).ellipse([16, 6, 80, 18], fill=110)
    shadow = Image.new("RGBA", mask.size, (20, 20, 24))
    shadow.putalpha(mask.filter(ImageFilter.GaussianBlur(3)))
    return shadow


def _box_of(person: _Layer, tracks: NDArray[np.uint16]) -> TrueBox | None:
    """The true box of a person; None when no pixel is in the picture."""
    there, part = person.window(tracks.shape)
    inside = person.solid[part]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    return TrueBox(
        track=person.track,
        left=there[1].start + int(columns[0]),
        top=there[0].start + int(rows[0]),
        width=int(columns[-1] - columns[0]) + 1,
        height=int(rows[-1] - rows[0]) + 1,
        visibility=np.count_nonzero(tracks[there] == person.track) / np.count_nonzero(person.solid),
    )
