"""A CUDA context on the calling thread's stack while it is used there, and not longer."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["ThreadContext"]


class ThreadContext:
    """A reentrant ``with`` block, in any thread, in which a context is the thread's own.

    Only the outermost block of a thread pushes and pops, so that a call within another costs nothing.

    Args:
        push: Puts the context on the calling thread's stack.
        pop: Takes it off.
    """

    def __init__(self, push: Callable[[], object], pop: Callable[[], object]) -> None:
        self._push = push
        self._pop = pop
        self._thread = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._thread, "depth", 0)
        if depth == 0:
            self._push()
        self._thread.depth = depth + 1

    def __exit__(self, *_: object) -> None:
        self._thread.depth -= 1
        if self._thread.depth == 0:
            self._pop()
