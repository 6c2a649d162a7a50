"""Frames that lie in a folder as pictures, with times from their names or at a fixed rate."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

import numpy as np

from tbps_infer.decoding import decode_threads, decoded_in_order
from tbps_infer.errors import ImageError, VideoError
from tbps_infer.gallery.times import read_moment
from tbps_infer.name_pattern import NamePattern
from tbps_infer.video.frames import USUAL_RATE, Frame, Gap, Position, SourceFacts

__all__ = ["FrameFolder", "frames_stamp", "frames_with_times", "in_order_of_names"]


@dataclass(frozen=True)
class FrameFolder:
    """A folder of frames.

    Attributes:
        facts: What is known of it; its `start` is the first frame's time.
        pictures: The frames' files in order, absolute, each with its seconds from the first one's time.
    """

    facts: SourceFacts
    pictures: Sequence[tuple[Path, float]]

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.pictures)

    @property
    def rate(self) -> float:
        """On the average."""
        seconds = self.pictures[-1][1]
        return (len(self.pictures) - 1) / seconds if seconds else USUAL_RATE

    def frames(self, start: Position, every: int) -> Iterator[Frame | Gap]:
        """See `tbps_infer.video.frames.FrameSource`; a picture that cannot be decoded is a gap."""
        numbers = range(start.number + -start.number % every, len(self.pictures), every)
        threads = decode_threads()
        yield from decoded_in_order(self._frame, numbers, ahead=2 * threads, threads=threads)

    def _frame(self, number: int) -> Frame | Gap:
        from tbps_infer.images import load_rgb

        file, offset = self.pictures[number]
        try:
            pixels = np.asarray(load_rgb(file))
        except ImageError as error:
            return Gap(offset, error.message.rstrip("."), counted=True)
        return Frame(Position(number, number), offset, pixels, self.facts.time(offset), str(file))


def in_order_of_names(files: Sequence[str]) -> list[Path]:
    """Paths in the order of their names, numbers in them by value: ``frame_2`` before ``frame_10``."""

    def key(file: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", file)
        return [(int(part), "") if part.isascii() and part.isdigit() else (0, part) for part in parts]

    return [Path(file) for file in sorted(files, key=key)]


def frames_with_times(
    files: Sequence[Path], pattern: NamePattern, zone: tzinfo
) -> tuple[datetime, list[tuple[Path, float]]]:
    """The first frame's time, and the frames in the order of the times in their names, with their seconds from it.

    Raises:
        VideoError: A name does not follow the pattern or holds no time, or two hold the same.
    """
    timed: list[tuple[datetime, Path]] = []
    for file in files:
        moment = read_moment((pattern.match(file) or {}).get("time"), zone)
        if moment is None:
            raise VideoError(
                f"The name of the frame {file.name} does not hold a time as the pattern {pattern.pattern} says.",
                "Give a pattern with {time:…} that all names follow, or the rate of the frames (--fps).",
            )
        timed.append((moment.clock.replace(tzinfo=moment.zone or zone), file))
    timed.sort()
    for (before, first), (time, second) in itertools.pairwise(timed):
        if before == time:
            raise VideoError(
                f"The frames {first.name} and {second.name} have the same time.",
                "A folder holds one camera's frames, and their names tell fractions of seconds (%f) where need be.",
            )
    start = timed[0][0]
    return start, [(file, (time - start).total_seconds()) for time, file in timed]


def frames_stamp(files: Sequence[Path]) -> str:
    """What tells that a folder holds the same frames as before: their number and names."""
    names = "\n".join(file.name for file in files).encode("utf-8", "surrogateescape")
    return f"{len(files)} frames {hashlib.blake2b(names, digest_size=8).hexdigest()}"
