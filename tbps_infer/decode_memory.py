"""A budget of memory that threads share while they read and decode pictures."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tbps_infer.errors import ImageError

__all__ = ["DEFAULT_DECODE_BYTES", "DecodeMemory"]

DEFAULT_DECODE_BYTES = 1 << 30

_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_LARGE_BYTES = 8 << 20


class DecodeMemory:
    """Memory for decoding: a quarter of it for the files, the rest for their pixels.

    Two shares, so that threads that hold files and wait for pixels cannot hold each other up.

    Attributes:
        total: Bytes in all.
        files: The files' share.
        pixels: The pixels' share.
    """

    def __init__(self, total: int = DEFAULT_DECODE_BYTES) -> None:
        _return_large_blocks()
        self.total = total
        self.files = _Share(total // 4, total)
        self.pixels = _Share(total - total // 4, total)


class _Share:
    def __init__(self, limit: int, total: int) -> None:
        self._limit, self._total = limit, total
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int, what: str) -> Iterator[None]:
        """Wait until as many bytes are free, and hold them; raises ImageError where there are never as many."""
        if count > self._limit:
            raise ImageError(
                f"{what} takes {_mib(count)} MiB, and {_mib(self._limit)} MiB of the {_mib(self._total)} MiB for "
                "decoding (--decode-memory) are for that.",
                "Make the picture smaller, or the memory larger.",
            )
        with self._changed:
            self._changed.wait_for(lambda: self._used + count <= self._limit)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


def _return_large_blocks() -> None:
    """Let the C library give back what pictures took: glibc keeps blocks of up to 32 MiB for each thread."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _mib(count: int) -> str:
    return f"{-(-count // (1 << 20)):,}"
