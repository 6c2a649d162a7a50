"""The best crops of each track: sharp, upright, unhidden ones, spread over the time that the person was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tbps_infer.video.boxes import Boxes, Detections, areas, intersections
from tbps_infer.video.frames import Frame

__all__ = ["Candidate", "Selection", "Track", "qualities"]

_ENOUGH_HEIGHT = 384
"""Pixels above which a taller box is no better: the models take no more."""
_SHAPES = (1.7, 3.6)
"""Height by width of people who stand or walk; boxes outside are half bodies, several people, or none."""
_BORDER = 0.01
"""How near to a border of the frame, as a share of it, a box is taken to be cut off."""
_FIRST_SECONDS = 0.5
_MOST_CANDIDATES = 4
"""For each crop that is wanted of a track."""
_WORST = 0.4
"""Of the best crop's quality: below it, another moment is not worth a worse crop."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person in a frame.

    Attributes:
        quality: How good a crop it is; above 0.
        number: The frame's number.
        offset: Seconds from the source's beginning.
        time: As of `Frame`.
        file: As of `Frame`.
        box: Left, top, right and bottom in whole pixels.
        score: The detector's.
        pixels: uint8 ``[height, width, 3]``, RGB.
    """

    quality: float
    number: int
    offset: float
    time: datetime | None
    file: str
    box: tuple[int, int, int, int]
    score: float
    pixels: NDArray[np.uint8]


@dataclass
class Track:
    """A person followed through frames, and the best candidate of each stretch of time.

    Attributes:
        first, last: Seconds from the source's beginning.
    """

    first: float
    last: float
    _best: dict[int, Candidate] = field(default_factory=dict)
    _stretch: float = _FIRST_SECONDS

    def wants(self, quality: float, offset: float) -> bool:
        """Whether a candidate of this quality would be kept."""
        best = self._best.get(self._place(offset))
        return best is None or quality > best.quality

    def add(self, candidate: Candidate, most: int) -> None:
        """Keep a candidate; where there are more than so many, stretches are joined in pairs."""
        self._best[self._place(candidate.offset)] = candidate
        while len(self._best) > most:
            self._stretch *= 2
            joined: dict[int, Candidate] = {}
            for each in sorted(self._best.values(), key=lambda each: each.quality):
                joined[self._place(each.offset)] = each
            self._best = joined

    def chosen(self, count: int) -> list[Candidate]:
        """The best at some distance from each other, in the order of time."""
        distance = (self.last - self.first) / (2 * count)
        chosen: list[Candidate] = []
        for each in sorted(self._best.values(), key=lambda each: -each.quality):
            if chosen and each.quality < _WORST * chosen[0].quality:
                break
            if all(abs(each.offset - other.offset) >= distance for other in chosen):
                chosen.append(each)
        return sorted(chosen[:count], key=lambda each: each.offset)

    def _place(self, offset: float) -> int:
        return int((offset - self.first) / self._stretch)


class Selection:
    """Collects the candidates of all tracks.

    Args:
        per_track: Crops that are wanted of a track.
        min_height: Pixels below which a box is no candidate.
        min_score: The score below which it is none.
    """

    def __init__(self, per_track: int, min_height: int, min_score: float = 0.0) -> None:
        self._per_track = per_track
        self._min_height = min_height
        self._min_score = min_score
        self._tracks: dict[int, Track] = {}

    @property
    def last_seen(self) -> float:
        """Seconds at which the last of the tracks was seen; −∞ where there is none."""
        return max((track.last for track in self._tracks.values()), default=-np.inf)

    def add(self, frame: Frame, people: Detections, tracks: NDArray[np.int64]) -> None:
        """Take the people of the next frame."""
        height, width = frame.pixels.shape[:2]
        values = qualities(people, height, width)
        strong = people.scores >= self._min_score
        for place in np.flatnonzero(tracks >= 0):
            number = int(tracks[place])
            track = self._tracks.setdefault(number, Track(frame.offset, frame.offset))
            track.last = frame.offset
            left, top, right, bottom = _whole(people.boxes[place], height, width)
            tall = bottom - top >= self._min_height
            if tall and strong[place] and track.wants(float(values[place]), frame.offset):
                candidate = Candidate(
                    quality=float(values[place]),
                    number=frame.position.number,
                    offset=frame.offset,
                    time=frame.time,
                    file=frame.file,
                    box=(left, top, right, bottom),
                    score=float(people.scores[place]),
                    pixels=frame.pixels[top:bottom, left:right].copy(),
                )
                track.add(candidate, _MOST_CANDIDATES * self._per_track)

    def ended(self, before: float = np.inf) -> Iterator[tuple[int, Track, list[Candidate]]]:
        """Take out the tracks that were last seen before a time, in the order of their beginnings.

        Yields:
            A track's number, the track, and its best candidates; none where all boxes were too small.
        """
        over = sorted((track.first, number) for number, track in self._tracks.items() if track.last < before)
        for _, number in over:
            track = self._tracks.pop(number)
            yield number, track, track.chosen(self._per_track)


def qualities(people: Detections, height: int, width: int) -> NDArray[np.float64]:
    """How good a crop each person in a frame would make.

    The score times the height, less at the frame's borders, for what others hide, and for odd shapes.

    Args:
        people: Of one frame.
        height: The frame's, in pixels.
        width: The frame's, in pixels.

    Returns:
        float64 ``[n]``, above 0.
    """
    boxes = people.boxes
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    shape = sizes[:, 1] / sizes[:, 0]
    fits = np.minimum(1, np.minimum(shape / _SHAPES[0], _SHAPES[1] / shape))
    margins = np.array([width, height], np.float32) * _BORDER
    near = (boxes[:, :2] < margins).sum(axis=1) + (boxes[:, 2:] > np.array([width, height]) - margins).sum(axis=1)
    tall = np.minimum(sizes[:, 1], _ENOUGH_HEIGHT)
    found = people.scores * tall * fits**2 * 0.5**near * _unhidden(boxes)
    return np.asarray(np.maximum(found, 1e-6), np.float64)


def _unhidden(boxes: Boxes) -> NDArray[np.float64]:
    """Near 1 for a box that no other one overlaps, near 0 for one behind others.

    Who stands lower in the picture is nearer to the camera, and hides; who is behind still shows beside the person.
    """
    if len(boxes) < 2:
        return np.ones(len(boxes))
    shared = intersections(boxes, boxes) / np.maximum(areas(boxes), 1)[:, None]
    np.fill_diagonal(shared, 0)
    in_front = boxes[None, :, 3] > boxes[:, None, 3]
    hidden = np.minimum(np.where(in_front, shared, 0).sum(axis=1), 1)
    behind = np.minimum(np.where(in_front, 0, shared).sum(axis=1), 1)
    return np.asarray((1 - hidden) ** 2 * (1 - 0.5 * behind), np.float64)


def _whole(box: NDArray[np.float32], height: int, width: int) -> tuple[int, int, int, int]:
    """A box in whole pixels, inside the frame."""
    left, top = int(np.floor(box[0])), int(np.floor(box[1]))
    right, bottom = int(np.ceil(box[2])), int(np.ceil(box[3]))
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)
