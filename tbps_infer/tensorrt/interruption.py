"""Ctrl-C while TensorRT works, kept until it can be raised.

Python raises KeyboardInterrupt in whichever callback TensorRT calls next. Nearly always that is the logger, and an
exception in a logger is printed and forgotten (tried on TensorRT for RTX 1.7: eight interruptions of ten were lost).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Interruption", "held_back"]


@dataclass
class Interruption:
    """What was raised meanwhile, the first one if several were."""

    error: BaseException | None = None

    def note(self, error: BaseException) -> None:
        """Keep an error, unless there is one already."""
        self.error = self.error or error


@contextlib.contextmanager
def held_back() -> Iterator[Interruption]:
    """Note what the handler of SIGINT raises, and raise it at the end in place of whatever came of it.

    The handler that was there is called as ever, and is there again afterwards. Python hands signals to the main
    thread alone, so in another one there is nothing to hold back.
    """
    interruption = Interruption()
    with _noted_signals(interruption):
        try:
            yield interruption
        except Exception:
            if interruption.error is None:
                raise
    if interruption.error is not None:
        raise interruption.error


@contextlib.contextmanager
def _noted_signals(interruption: Interruption) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    handler = before

    def note(number: int, frame: object) -> None:
        try:
            handler(number, frame)  # type: ignore[arg-type]
        except BaseException as error:
            interruption.note(error)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
