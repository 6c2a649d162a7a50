"""A stretch of a source whose crops are committed together."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from tbps_infer.atomic import sync
from tbps_infer.errors import VideoError
from tbps_infer.video.boxes import Detections
from tbps_infer.video.frames import Frame, SourceFacts
from tbps_infer.video.selection import Candidate, Selection, Track
from tbps_infer.video.tracking import GivenTracks, Tracker

__all__ = ["Segment"]

_QUALITY = 95


@dataclass
class Segment:
    """Follows people from its first frame on, and writes the best crops of each as soon as they are gone.

    Attributes:
        facts: The source.
        folder: The folder of crops.
        tracker: An empty one.
        selection: An empty one.
        writers: Threads that write crops.
        next_track: The number of the next track.
        tracks: How many tracks gave crops.
        rows: The list's rows of the crops so far.
        broken: Whether frames are missing after its last one.
    """

    facts: SourceFacts
    folder: Path
    tracker: Tracker
    selection: Selection
    writers: ThreadPoolExecutor
    next_track: int
    tracks: int = 0
    rows: list[tuple[str, ...]] = field(default_factory=list)
    broken: bool = False
    _first: float | None = None
    _writing: list[Future[None]] = field(default_factory=list)

    def over(self, offset: float, seconds: float) -> bool:
        """Whether a frame so far from the source's beginning belongs to the next segment.

        Args:
            offset: The frame's.
            seconds: After which the segment ends when nobody is followed; after twice as many in any case.
        """
        if self.broken or self._first is None:
            return self.broken
        length = offset - self._first
        followed = offset - self.selection.last_seen <= self.tracker.lost_after
        return length >= (2 * seconds if followed else seconds)

    def add(self, frame: Frame, people: Detections) -> None:
        """Take the next frame."""
        if self._first is None:
            self._first = frame.offset
        tracks = self.tracker.update(people, frame.offset)
        self.selection.add(frame, people, tracks)
        self._write(frame.offset - self.tracker.lost_after)

    def finish(self) -> None:
        """Write the crops of whoever is still followed, and wait until all are on the disk.

        Raises:
            VideoError: A crop cannot be written.
        """
        self._write(np.inf)
        try:
            for written in self._writing:
                written.result()
            if self._writing:
                sync(self.folder / self.facts.name)
        except OSError as error:
            raise VideoError(
                f"{error.filename or self.folder} cannot be written: {error.strerror}.", "Is there room on the disk?"
            ) from error

    def _write(self, before: float) -> None:
        for given, track, chosen in self.selection.ended(before):
            if not chosen:
                continue
            number = given if isinstance(self.tracker, GivenTracks) else self.next_track
            self.next_track = max(self.next_track, number + 1)
            self.tracks += 1
            for candidate in chosen:
                name = f"{self.facts.name}/{number:06}_{candidate.number:08}.jpg"
                self.rows.append(self._row(name, number, track, candidate))
                self._writing.append(self.writers.submit(_write_crop, self.folder / name, candidate))

    def _row(self, name: str, number: int, track: Track, candidate: Candidate) -> tuple[str, ...]:
        """The cells of `tbps_infer.video.crop_folder.COLUMNS`."""
        left, top, right, bottom = candidate.box
        return (
            name,
            f"{self.facts.name}/{number}",
            self.facts.camera,
            "" if candidate.time is None else _text(candidate.time),
            candidate.file,
            str(candidate.number),
            f"{candidate.offset:.3f}",
            f"{left} {top} {right - left} {bottom - top}",
            f"{candidate.score:.3f}",
            f"{track.last - track.first:.3f}",
        )


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write_crop(place: Path, candidate: Candidate) -> None:
    from PIL import Image

    # Not under a temporary name: nothing names it before the segment is committed.
    Image.fromarray(candidate.pixels).save(place, "JPEG", quality=_QUALITY, subsampling=0)
    sync(place)
