"""Frames of a video file, by their presentation times."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from tbps_infer.video.container import Damage, decoded, open_video, seconds_of, seek, upright, video_stream
from tbps_infer.video.frames import BEGINNING, USUAL_RATE, Frame, Gap, Position, SourceFacts

__all__ = ["VideoFile"]

_SLACK_SECONDS = 1.0
"""By how much a video may end before the time that its header gives: containers round, and pad the last frame."""


@dataclass(frozen=True)
class VideoFile:
    """A video.

    Attributes:
        file: The file.
        facts: What is known of it.
        hardware: What decodes, as of `tbps_infer.video.container.open_video`.
    """

    file: Path
    facts: SourceFacts
    hardware: str | None = None

    @property
    def total(self) -> int:
        """By its header, or its length and average rate; 0 where neither is there."""
        return self._header[0]

    @property
    def rate(self) -> float:
        """By its header."""
        return self._header[1]

    @cached_property
    def _header(self) -> tuple[int, float]:
        with open_video(self.file, self.hardware) as container:
            stream = video_stream(container, str(self.file))
            rate = float(stream.average_rate or stream.guessed_rate or USUAL_RATE)
            return stream.frames or round(_length(container, stream) * rate), rate

    def frames(self, start: Position, every: int) -> Iterator[Frame | Gap]:
        """See `tbps_infer.video.frames.FrameSource`."""
        if start != BEGINNING:
            found = self._frames(start, every, sought=True)
            first = next(found, None)
            if isinstance(first, Frame) and first.position.ticks == start.ticks:
                yield first
                yield from found
                return
            found.close()
        yield from self._frames(start, every, sought=False)

    def _frames(self, start: Position, every: int, *, sought: bool) -> Generator[Frame | Gap, None, None]:
        """The frames; where the video is to be searched for `start`, it is decoded from the key frame before it."""
        with open_video(self.file, self.hardware) as container:
            stream = video_stream(container, str(self.file))
            if sought:
                seek(container, stream, start.ticks)
            number, end, begun = start.number, 0.0, start == BEGINNING
            for frame in decoded(container, stream):
                begun = begun or (not isinstance(frame, Damage) and frame.pts >= start.ticks)
                if not begun:
                    continue  # damage before the position was told when it was passed
                if isinstance(frame, Damage):
                    yield Gap(end, str(frame))
                    continue
                end = seconds_of(frame.pts, stream)
                if number % every == 0:
                    yield self._frame(frame, Position(number, frame.pts), end)
                number += 1
            length = _length(container, stream)
            if begun and length - end > _SLACK_SECONDS + 2 / float(stream.average_rate or 1):
                yield Gap(end, f"it ends after {end:.1f} of {length:.1f} s", counted=True)

    def _frame(self, frame: Any, position: Position, offset: float) -> Frame:
        return Frame(position, offset, upright(frame), self.facts.time(offset), str(self.file))


def _length(container: Any, stream: Any) -> float:
    """Seconds by the header; 0 where it does not say how long the video itself is."""
    if stream.duration is not None:
        return float(stream.duration * Fraction(stream.time_base))
    alone = len(container.streams) == 1
    return container.duration / 1e6 if alone and container.duration else 0.0
