"""Ctrl-C and other signals while TensorRT works, kept until they can be raised.

Python raises KeyboardInterrupt in whichever callback TensorRT calls next. Nearly always that is the logger, and an
exception in a logger is printed and forgotten (tried on TensorRT for RTX 1.7: eight interruptions of ten were lost).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
    """Note what handlers of signals raise, and raise it at the end in place of whatever came of it.

    The handlers that were there are called as ever, and are there again afterwards. Python hands signals to the main
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
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def note(number: int, frame: Any) -> None:
        try:
            handlers[signal.Signals(number)](number, frame)  # type: ignore[misc, operator]
        except BaseException as error:
            interruption.note(error)

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if callable(handler):  # neither ignored nor the system's own
                    stack.callback(signal.signal, number, handler)
                    signal.signal(number, note)
        yield
