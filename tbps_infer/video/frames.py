"""Frames as every kind of source gives them: what they show, when, and where frames are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BEGINNING", "USUAL_RATE", "Frame", "FrameSource", "Gap", "Position", "SourceFacts"]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a source goes on: the number of the next frame, and its time in the source's own units."""

    number: int
    ticks: int


BEGINNING = Position(0, 0)

USUAL_RATE = 25.0
"""Frames per second where nothing tells them."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        position: Where it is; the first frame's number is 0.
        offset: Seconds from the source's beginning, by presentation times.
        pixels: uint8 ``[height, width, 3]``, RGB, upright.
        time: When it was taken, with a zone; None where that is not known.
        file: The file that holds it, absolute; empty for a live stream.
    """

    position: Position
    offset: float
    pixels: NDArray[np.uint8]
    time: datetime | None
    file: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that could not be had.

    Attributes:
        offset: Seconds of the frame before them.
        reason: Why.
        counted: Whether the numbers of the frames after them are right all the same.
    """

    offset: float
    reason: str
    counted: bool = False


@dataclass(frozen=True)
class SourceFacts:
    """What is known of a source before it is read.

    Attributes:
        name: What its crops' folder and tracks are called.
        camera: The camera.
        start: When its first frame was taken, with a zone; None where that is not known.
        place: The file, folder or address; without a password.
        stamp: What tells that it is the same as when it was read before; empty for a live stream.
        live: Whether it comes as it happens: frames that are not taken in time are lost.
    """

    name: str
    camera: str
    start: datetime | None
    place: str
    stamp: str = ""
    live: bool = False

    def time(self, offset: float) -> datetime | None:
        """The time at so many seconds from the beginning."""
        if self.start is None:
            return None
        moment = self.start.astimezone(timezone.utc) + timedelta(seconds=offset)  # not on clocks that may be put back
        return moment.astimezone(self.start.tzinfo)


class FrameSource(Protocol):
    """A video, a folder of frames or a live stream."""

    @property
    def facts(self) -> SourceFacts:
        """What is known beforehand."""

    @property
    def total(self) -> int:
        """About how many frames there are; 0 where that is not known. Raises VideoError as `frames`."""

    @property
    def rate(self) -> float:
        """About how many frames there are in a second."""

    def frames(self, start: Position, every: int) -> Iterator[Frame | Gap]:
        """The frames from a position on whose numbers `every` divides, in the order of presentation.

        Raises:
            VideoError: The source cannot be read at all.
        """
