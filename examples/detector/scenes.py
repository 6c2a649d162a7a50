"""Frames of drawn streets, reduced to the detector's input, with the true boxes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_infer.data.scenes import Frame, SceneOptions, draw_films

INPUT_SIZE = (192, 320)
"""Height and width of the detector's input, in pixels."""
FILL = 114
_MOST_PEOPLE = 16


@dataclass(frozen=True)
class Example:
    """One frame: uint8 [height, width, 3]; boxes (x0, y0, x1, y1) in its pixels and how much of each shows."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visibility: NDArray[np.float32]


def reduced(frame: Frame) -> Example:
    """Letterbox a frame into the upper left corner of the input."""
    height, width = INPUT_SIZE
    scale = min(height / frame.pixels.shape[0], width / frame.pixels.shape[1])
    size = round(frame.pixels.shape[1] * scale), round(frame.pixels.shape[0] * scale)
    pixels = np.full((height, width, 3), FILL, np.uint8)
    pixels[: size[1], : size[0]] = np.asarray(Image.fromarray(frame.pixels).resize(size, Image.Resampling.BILINEAR))
    corners = [(b.left, b.top, b.left + b.width, b.top + b.height) for b in frame.boxes]
    boxes = np.asarray(corners, dtype=np.float32).reshape(-1, 4) * np.float32(scale)
    return Example(pixels, boxes, np.asarray([b.visibility for b in frame.boxes], dtype=np.float32))


def draw_examples(seed: int, frames: int = 16) -> list[Example]:
    """Frames of the three cameras of one street, at times by chance; `seed` decides people, street and light."""
    rng = Random(seed)
    light = rng.choice(("day", "dusk", "mixed"))
    options = SceneOptions(cameras=3, people=rng.randint(10, 24), first=1, light=light, seed=seed)
    films = draw_films(options)
    return [reduced(film.frame(n, rng.uniform(0, options.seconds))) for film in films for n in range(frames)]


def draw_streets(seeds: Iterable[int]) -> Iterator[list[Example]]:
    """`draw_examples` of many seeds, in their order, on all cores. Call it before CUDA is used: it forks."""
    cores = len(os.sched_getaffinity(0))
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        yield from pool.imap(draw_examples, seeds)


def padded(examples: list[Example]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pixels [n, h, w, 3] and boxes [n, people, 5] with visibility last, filled with zeros."""
    boxes = np.zeros((len(examples), _MOST_PEOPLE, 5), np.float32)
    for row, example in enumerate(examples):
        # Who is hidden most is left out first, where there are too many.
        order = np.argsort(-example.visibility)[:_MOST_PEOPLE]
        boxes[row, : len(order)] = np.column_stack((example.boxes, example.visibility))[order]
    return np.stack([example.pixels for example in examples]), boxes
