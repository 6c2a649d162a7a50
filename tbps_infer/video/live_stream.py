"""Frames of a live stream, with the times at which they arrive; a stream that breaks off is opened again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from tbps_infer.errors import VideoError
from tbps_infer.video.container import Damage, decoded, open_stream, seconds_of, upright, video_stream
from tbps_infer.video.frames import USUAL_RATE, Frame, Gap, Position, SourceFacts

__all__ = ["LiveStream", "is_address", "without_password"]

log = logging.getLogger(__name__)

_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp", "rtp", "tcp"})
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_DRIFT_SECONDS = 2.0
"""How far a stream's own clock may be from this machine's before a frame's time is taken from the latter again."""

_LEAST_STEP = 0.001
"""Seconds between two frames at least: times rise, whatever the two clocks do."""


@dataclass
class LiveStream:
    """A stream.

    Attributes:
        address: Where it is, with its password.
        facts: What is known of it; `start` is when it was made.
        stop: Ends it.
        hardware: What decodes, as of `tbps_infer.video.container.open_video`.
        clock: Seconds since 1970.
    """

    address: str
    facts: SourceFacts
    stop: Event
    hardware: str | None = None
    clock: Callable[[], float] = field(default=time.time)
    _last: float = 0.0

    @property
    def total(self) -> int:
        """Not known."""
        return 0

    @property
    def rate(self) -> float:
        """Not known before it is opened."""
        return USUAL_RATE

    def frames(self, start: Position, every: int) -> Iterator[Frame | Gap]:
        """See `tbps_infer.video.frames.FrameSource`; only the first connection may fail."""
        number, wait, connected = start.number, _FIRST_WAIT, False
        while not self.stop.is_set():
            try:
                for item in self._connection(number, every):
                    connected, wait = True, _FIRST_WAIT
                    if isinstance(item, Frame):
                        number = item.position.number + 1
                    yield item
                    if self.stop.is_set():
                        return
                reason = "the stream ended"
            except VideoError as error:
                if not connected:
                    raise
                reason = error.message.rstrip(".")
            log.warning("%s: %s; connecting again in %.0f s", self.facts.place, reason, wait)
            yield Gap(self._offset(self.clock()), reason)
            self.stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _connection(self, number: int, every: int) -> Iterator[Frame | Gap]:
        """The frames until the connection breaks off."""
        with open_stream(self.address, self.facts.place, self.hardware) as container:
            stream = video_stream(container, self.facts.place)
            ahead: float | None = None  # of the stream's clock, the time of this machine's
            for frame in decoded(container, stream):
                now = self.clock()
                if isinstance(frame, Damage):
                    if ahead is not None:  # at first there are frames without times or key frames
                        yield Gap(self._offset(now), str(frame))
                    continue
                seconds = seconds_of(frame.pts, stream)
                if ahead is None or abs(seconds + ahead - now) > _DRIFT_SECONDS:
                    ahead = now - seconds
                if number % every == 0:
                    self._last = max(self._offset(seconds + ahead), self._last + _LEAST_STEP)
                    yield self._frame(frame, Position(number, number), self._last)
                number += 1

    def _offset(self, seconds: float) -> float:
        assert self.facts.start is not None
        return seconds - self.facts.start.timestamp()

    def _frame(self, frame: Any, position: Position, offset: float) -> Frame:
        return Frame(position, offset, upright(frame), self.facts.time(offset), "")


def is_address(source: str) -> bool:
    """Whether a source is an address of a stream, and no path."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in _SCHEMES


def without_password(address: str) -> str:
    """An address as it may be shown and recorded."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
