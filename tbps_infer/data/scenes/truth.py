"""Reading back who is where in drawn scenes, to judge what was found in their videos."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import DatasetError

__all__ = ["SceneTruth", "read_truth"]

_SAME = 0.5
"""IoU from which a box is that of a person."""


@dataclass(frozen=True)
class SceneTruth:
    """The true boxes of all cameras.

    Attributes:
        boxes: By camera: float64 [boxes, 9], the columns of MOTChallenge's format.
        people: Camera and track to the person's identity.
        descriptions: A sentence about everybody who is seen, and the identity.
    """

    boxes: Mapping[str, NDArray[np.float64]]
    people: Mapping[tuple[str, int], int]
    descriptions: Sequence[tuple[str, int]]

    def identity(self, camera: str, frame: int, box: tuple[float, float, float, float]) -> int | None:
        """Whose box this is, or None if nobody's true box has an IoU of 0.5 with it.

        Args:
            camera: Name of the camera.
            frame: Number of the frame, from 0.
            box: Left, top, width and height in pixels.
        """
        rows = self.boxes[camera]
        rows = rows[rows[:, 0] == frame + 1]
        if not len(rows):
            return None
        overlap = _iou(np.asarray(box, dtype=np.float64), rows[:, 2:6])
        best = int(overlap.argmax())
        return self.people[camera, int(rows[best, 1])] if overlap[best] >= _SAME else None


def _iou(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    return np.asarray(shared / (box[2:].prod() + others[:, 2:].prod(axis=1) - shared))


def read_truth(folder: Path) -> SceneTruth:
    """Read the truth of what `write_scenes` wrote.

    Raises:
        DatasetError: A file is missing or is not as it was written.
    """
    try:
        with (folder / "tracks.csv").open(newline="", encoding="utf-8") as stream:
            rows = [
                (row["camera"], int(row["track"]), int(row["id"]), row["caption"]) for row in csv.DictReader(stream)
            ]
        cameras = sorted({camera for camera, *_ in rows})
        boxes = {camera: np.loadtxt(folder / f"{camera}.txt", delimiter=",", ndmin=2) for camera in cameras}
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{folder} has no truth as `tbps data scenes` writes it: {error}.", "Draw the scenes again."
        ) from error
    people = {(camera, track): identity for camera, track, identity, _ in rows}
    descriptions = {identity: caption for _, _, identity, caption in rows}
    return SceneTruth(boxes, people, [(caption, identity) for identity, caption in sorted(descriptions.items())])
