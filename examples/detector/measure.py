"""How many of the people on streets that were not learned from are found, and how many finds are people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scenes import Example

Detect = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]

_SCORE, _NMS_IOU, _RIGHT_IOU = 0.4, 0.5, 0.5
_SEEN, _LEAST_HEIGHT = 0.5, 24.0
"""Who is to be found: at least half of the figure shows, and it is 48 pixels high in a picture of 640 by 360."""


@dataclass(frozen=True)
class Found:
    """Counts over all frames."""

    people: int
    recalled: int
    finds: int
    right: int

    def __str__(self) -> str:
        return (
            f"recall {self.recalled / max(self.people, 1):.3f} of {self.people} people, "
            f"precision {self.right / max(self.finds, 1):.3f} of {self.finds} finds "
            f"(IoU {_RIGHT_IOU}, score {_SCORE})"
        )


def iou(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of every pair, [n, m]."""
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    area = [np.prod(b[:, 2:] - b[:, :2], axis=-1) for b in (one, other)]
    return shared / np.maximum(area[0][:, None] + area[1][None] - shared, 1e-6)


def kept(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes from the score on, without those that overlap a better one."""
    order = [row for row in np.argsort(-scores) if scores[row] >= _SCORE]
    best: list[int] = []
    for row in order:
        if not best or iou(boxes[[row]], boxes[best]).max() <= _NMS_IOU:
            best.append(row)
    return boxes[best]


def compare(example: Example, finds: NDArray[np.float32]) -> NDArray[np.int64]:
    """People, recalled, finds, right ones of one frame; finds of people who need not be found do not count."""
    wanted = (example.visibility >= _SEEN) & (example.boxes[:, 3] - example.boxes[:, 1] >= _LEAST_HEIGHT)
    overlap = iou(example.boxes, finds) >= _RIGHT_IOU
    taken: set[int] = set()
    recalled = 0
    for person in np.flatnonzero(wanted):
        free = [find for find in np.flatnonzero(overlap[person]) if find not in taken]
        if free:
            taken.add(free[0])
            recalled += 1
    others = sum(bool(overlap[~wanted, find].any()) for find in range(len(finds)) if find not in taken)
    return np.array([wanted.sum(), recalled, len(finds) - others, len(taken)])


def measure(detect: Detect, examples: Sequence[Example]) -> Found:
    """Run `detect`, uint8 [1, h, w, 3] to boxes [1, n, 4] and scores [1, n], over frames of unseen streets."""
    counts = np.zeros(4, np.int64)
    for example in examples:
        boxes, scores = detect(example.pixels[None])
        counts += compare(example, kept(boxes[0], scores[0]))
    return Found(*map(int, counts))
