"""SIGTERM and SIGHUP end a command as Ctrl-C does: by an exception, so that nothing half written is left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

__all__ = ["Terminated", "raised_terminations"]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came.

    Attributes:
        number: Which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def end_process(self) -> None:
        """End as the signal does by itself, so that whoever sent it sees that it came."""
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)


@contextlib.contextmanager
def raised_terminations() -> Iterator[None]:
    """Raise `Terminated` in the main thread when one of the signals comes, once.

    One that the parent had ignored stays ignored, as nohup wants it. Child processes end by the signal as ever.
    """
    ours = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() != ours:
            Terminated(number).end_process()
        signal.signal(number, signal.SIG_IGN)  # a second one is not to interrupt the tidying up
        raise Terminated(number)

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    stack.callback(signal.signal, number, signal.SIG_DFL)
                    signal.signal(number, end)
        yield
