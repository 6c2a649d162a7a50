"""What finds the people in frames: a detector, or files of detections; and what follows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tbps_infer.runners.options import RunOptions
from tbps_infer.video.boxes import Detections
from tbps_infer.video.detection_files import detections_of, open_detections
from tbps_infer.video.detector import Detector
from tbps_infer.video.frames import Frame, FrameSource
from tbps_infer.video.tracking import ByteTracker, GivenTracks, Tracker

__all__ = ["FindPeople", "PeopleFinder"]

_FILE_THRESHOLD = 0.5
"""The lowest score of a file's detections with which a track may begin."""


class FindPeople(Protocol):
    """Finds the people in a frame."""

    @property
    def by_number(self) -> bool:
        """Whether it knows frames by their numbers, which are wrong after frames that could not be counted."""

    @property
    def crop_score(self) -> float:
        """The score below which a person is followed, and not cropped."""

    @property
    def stamp(self) -> str:
        """What tells that it finds the same as before."""

    @property
    def used(self) -> bool:
        """Whether it has known any frame yet."""

    def detect(self, frame: Frame) -> Detections:
        """The people, their boxes inside the frame."""


class PeopleFinder:
    """Finds and follows the people of any number of sources; a context manager.

    Args:
        detector: A detector, which is closed at the end; None where files tell the people.
        detections: A file or folder of detections, as of `tbps_infer.video.detection_files.detections_of`.
        person: The class of people in it; None for the format's own.

    Attributes:
        detector: The detector, if there is one.
    """

    def __init__(self, detector: Detector | None, detections: Path = Path(), person: int | None = None) -> None:
        self.detector = detector
        self._detections = detections
        self._person = person

    @classmethod
    def with_detector(cls, file: Path, options: RunOptions | None = None) -> PeopleFinder:
        """Find people with the detector that a JSON file declares; raises as `Detector.open`."""
        return cls(Detector.open(file, options))

    def __enter__(self) -> PeopleFinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.detector is not None:
            self.detector.runner.close()

    def of_source(self, source: FrameSource, every: int) -> tuple[FindPeople, Callable[[], Tracker]]:
        """What finds the people of a source, and what makes the trackers that follow them.

        Args:
            source: The source.
            every: Only frames whose number this divides are looked at.

        Raises:
            VideoError: Its detections, or the source's header, cannot be read.
        """
        rate = source.rate / every
        if self.detector is not None:
            threshold = self.detector.spec.track_threshold
            return self.detector, lambda: ByteTracker(rate, threshold)
        file = open_detections(detections_of(self._detections, source.facts.name), self._person)
        return file, GivenTracks if file.tracked else lambda: ByteTracker(rate, _FILE_THRESHOLD)
