"""Frames to crops: decoding, detecting, tracking and writing, which overlap, segment by segment.

A segment is a stretch of a source that depends on nothing before it: it begins with an empty tracker. It ends at the
first frame after `CropOptions.segment_seconds` at which nobody is followed, after twice that time in any case, and
where frames are missing. Its crops are committed together, so a run that is killed and started again ends as one that
was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Event

from tbps_infer.errors import UsageError
from tbps_infer.video.crop_folder import CropFolder
from tbps_infer.video.frames import Frame, FrameSource, Gap, Position
from tbps_infer.video.people import FindPeople
from tbps_infer.video.reading_ahead import ReadAhead
from tbps_infer.video.segment import Segment
from tbps_infer.video.selection import Selection
from tbps_infer.video.tracking import Tracker

__all__ = ["CropOptions", "CropReport", "crop_source"]

_WRITERS = 2
_MOST_GAPS = 1000
"""The latest that are recorded of a source: a live stream may have any number."""


@dataclass(frozen=True)
class CropOptions:
    """Which crops are made.

    Attributes:
        every: Only frames whose number this divides are looked at.
        per_track: Crops of each track at most.
        min_height: Pixels below which a person gives no crop.
        segment_seconds: Of video after which crops are committed, as soon as nobody is followed.

    Raises:
        UsageError: A number is below 1.
    """

    every: int = 1
    per_track: int = 3
    min_height: int = 64
    segment_seconds: float = 300.0

    def __post_init__(self) -> None:
        if not all(each >= 1 for each in (self.every, self.per_track, self.min_height, self.segment_seconds)):
            raise UsageError("every, per_track, min_height and segment_seconds want 1 or more.")


@dataclass
class CropReport:
    """What came of a source in one run.

    Attributes:
        frames: Frames that were looked at.
        seconds: Of the source that they span.
        tracks: People who were followed and gave crops.
        crops: Crops that were written.
        gaps: Where frames are missing, earlier runs' included.
        dropped: Frames of a live stream that came faster than they were looked at.
        elapsed: Seconds that it took; 0 where there was nothing to do.
        stages: Seconds in which each stage was at work, by name: ``decode``, which overlaps the others, ``detect``,
            ``track`` (with the choice of the best crops) and ``write``, what had to be waited for.
    """

    frames: int = 0
    seconds: float = 0.0
    tracks: int = 0
    crops: int = 0
    gaps: tuple[Gap, ...] = ()
    dropped: int = 0
    elapsed: float = 0.0
    stages: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "detect", "track", "write"), 0.0)
    )


@dataclass
class _Cropping:
    """One source's way from frames to crops."""

    source: FrameSource
    people: FindPeople
    make_tracker: Callable[[], Tracker]
    folder: CropFolder
    options: CropOptions

    def __post_init__(self) -> None:
        facts = self.source.facts
        self.progress = self.folder.progress(facts.name, facts.place, f"{facts.stamp} {self.people.stamp}".strip())
        self.report = CropReport(gaps=self.progress.gaps)
        self._first: float | None = None
        self._number = self.progress.next.number
        self._segment: Segment | None = None

    def run(self, tell: Callable[[CropReport], None], stop: Event) -> CropReport:
        report, started = self.report, time.monotonic()
        frames = self.source.frames(self.progress.next, self.options.every)
        (self.folder.path / self.source.facts.name).mkdir(exist_ok=True)
        with ThreadPoolExecutor(_WRITERS) as writers, ReadAhead(frames, drop=self.source.facts.live) as ahead:
            for item in ahead:
                if isinstance(item, Frame):
                    self._take(item, writers)
                elif not self._pass(item):
                    break
                report.elapsed, report.dropped = time.monotonic() - started, ahead.dropped
                report.stages["decode"] = ahead.busy_seconds
                tell(report)
                if stop.is_set():
                    break
            self._commit(Position(self._number, self._number), done=not self.source.facts.live)
        report.elapsed = time.monotonic() - started
        return report

    def _take(self, frame: Frame, writers: ThreadPoolExecutor) -> None:
        """Look at a frame, which may be the first of a new segment."""
        if self._segment is not None and self._segment.over(frame.offset, self.options.segment_seconds):
            self._commit(frame.position)
        if self._segment is None:
            self._segment = Segment(
                self.source.facts,
                self.folder.path,
                self.make_tracker(),
                Selection(self.options.per_track, self.options.min_height, self.people.crop_score),
                writers,
                self.progress.next_track,
            )
        started = time.perf_counter()
        people = self.people.detect(frame)
        detected = time.perf_counter()
        self._segment.add(frame, people)
        report = self.report
        report.stages["detect"] += detected - started
        report.stages["track"] += time.perf_counter() - detected
        report.frames += 1
        self._first = frame.offset if self._first is None else self._first
        self._number = frame.position.number + 1
        report.seconds = frame.offset - self._first

    def _pass(self, gap: Gap) -> bool:
        """Note missing frames; False where what comes after them is of no use."""
        useless = self.people.by_number and not gap.counted and not self.source.facts.live
        if useless:
            gap = replace(gap, reason=f"{gap.reason}; the detections of what follows are numbered otherwise")
        self.progress = replace(self.progress, gaps=(*self.progress.gaps, gap)[-_MOST_GAPS:])
        self.report.gaps = self.progress.gaps
        if self._segment is not None:
            self._segment.broken = True
            if self.source.facts.live:  # the next frame may be hours away
                self._commit(Position(self._number, self._number))
        return not useless

    def _commit(self, following: Position, *, done: bool = False) -> None:
        """End the segment, if there is one, and record that the source goes on at a position."""
        rows: list[tuple[str, ...]] = []
        self.progress = replace(self.progress, next=following, done=done)
        if self._segment is not None:
            started = time.perf_counter()
            self._segment.finish()
            self.report.stages["write"] += time.perf_counter() - started
            rows = self._segment.rows
            self.report.tracks += self._segment.tracks
            self.report.crops += len(rows)
            self.progress = replace(self.progress, next_track=self._segment.next_track)
        self.folder.commit(self.source.facts.name, self.progress, rows)
        self._segment = None


def crop_source(
    source: FrameSource,
    people: FindPeople,
    make_tracker: Callable[[], Tracker],
    folder: CropFolder,
    options: CropOptions | None = None,
    *,
    tell: Callable[[CropReport], None] = lambda _: None,
    stop: Event | None = None,
) -> CropReport:
    """Write the best crops of everybody in a source to a folder, and go on where an earlier run ended.

    Args:
        source: The video, frames or stream.
        people: Finds people in its frames.
        make_tracker: Makes an empty tracker, one for each segment.
        folder: The folder.
        options: Which crops; None for `CropOptions()`.
        tell: Called after every frame with what has been done so far.
        stop: Ends a live stream; what was seen until then is committed.

    Raises:
        VideoError: The source cannot be read at all, has changed since, or the folder cannot be written.
        DetectorError, BackendError: As `people` raises.
    """
    cropping = _Cropping(source, people, make_tracker, folder, options or CropOptions())
    if cropping.progress.done:
        return cropping.report
    return cropping.run(tell, stop or Event())
