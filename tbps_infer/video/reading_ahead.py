"""A thread that takes frames ahead of whoever looks at them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from tbps_infer.video.frames import Frame, Gap

__all__ = ["ReadAhead"]

_AHEAD = 4
_PAUSE_SECONDS = 0.2
_END = object()


class ReadAhead:
    """Iterates over frames that a thread of its own decodes; a context manager, whose end ends the thread.

    Args:
        frames: What is taken, in the thread; what that raises is raised in its place.
        drop: Whether frames that find no room are dropped, as of a live stream; else the thread waits.

    Attributes:
        dropped: How many were.
        busy_seconds: How long the thread was at work on frames.
    """

    def __init__(self, frames: Iterator[Frame | Gap], *, drop: bool) -> None:
        self._frames = frames
        self._drop = drop
        self._room: queue.Queue[object] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="tbps-frames", daemon=True)
        self.dropped = 0
        self.busy_seconds = 0.0

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Frame | Gap]:
        while True:
            item = self._room.get()
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            assert isinstance(item, Frame | Gap)
            yield item

    def _read(self) -> None:
        last: object = _END
        try:
            while not self._stop.is_set():
                started = time.perf_counter()
                item = next(self._frames, None)
                self.busy_seconds += time.perf_counter() - started
                if item is None:
                    break
                self._put(item)
        except BaseException as error:
            last = error
        finally:
            close = getattr(self._frames, "close", None)
            if close is not None:
                close()
            self._put(last)

    def _put(self, item: object) -> None:
        if self._drop and isinstance(item, Frame) and self._room.full():
            self.dropped += 1
            return
        while not self._stop.is_set():
            try:
                self._room.put(item, timeout=_PAUSE_SECONDS)
            except queue.Full:
                continue
            return
