"""Boxes around people in a frame: how much they overlap, and which of several around one person stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Boxes", "Detections", "areas", "intersections", "iou", "suppress"]

Boxes = NDArray[np.float32]
"""float32 ``[n, 4]``: left, top, right and bottom in pixels of the frame."""


@dataclass(frozen=True)
class Detections:
    """The people found in one frame.

    Attributes:
        boxes: float32 ``[n, 4]``.
        scores: float32 ``[n]``, 0 to 1.
        tracks: int64 ``[n]``, 0 or more: the track of each, where that is known beforehand; else None.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    tracks: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def none(cls) -> Detections:
        """Nobody."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32))

    def take(self, rows: NDArray[Any]) -> Detections:
        """Some of them, by a mask or by their places."""
        tracks = None if self.tracks is None else self.tracks[rows]
        return Detections(self.boxes[rows], self.scores[rows], tracks)

    def inside(self, width: int, height: int) -> Detections:
        """They, cut off at the frame's borders; those of which nothing is left are dropped."""
        boxes = np.clip(self.boxes, 0, np.array([width, height, width, height], np.float32))
        cut = Detections(boxes, self.scores, self.tracks)
        return cut.take(np.all(boxes[:, 2:] - boxes[:, :2] >= 1, axis=1))


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """float32 ``[n]``, square pixels."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def intersections(boxes: Boxes, others: Boxes) -> NDArray[np.float32]:
    """float32 ``[n, m]``: the area that each box shares with each of the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(high - low, 0)
    return np.asarray(sides[..., 0] * sides[..., 1], np.float32)


def iou(boxes: Boxes, others: Boxes) -> NDArray[np.float32]:
    """float32 ``[n, m]``: intersection over union of each box with each of the others."""
    shared = intersections(boxes, others)
    union = areas(boxes)[:, None] + areas(others)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


def suppress(detections: Detections, threshold: float) -> Detections:
    """Non-maximum suppression: the best first, without those whose IoU with a better one is above the threshold."""
    detections = detections.take(np.argsort(-detections.scores, kind="stable"))
    if threshold >= 1 or len(detections) < 2:
        return detections
    kept = np.ones(len(detections), np.bool_)
    for place in range(len(detections) - 1):
        if kept[place]:  # one row at a time: all of them, of a grid's thousands of boxes, take gigabytes
            kept[place + 1 :] &= (
                iou(detections.boxes[place : place + 1], detections.boxes[place + 1 :])[0] <= threshold
            )
    return detections.take(kept)
