"""Threads that decode pictures ahead of whoever takes them, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tbps_infer.cores import usable_cores

__all__ = ["MOST_DECODERS", "Done", "decode_threads", "decoded_in_order"]

MOST_DECODERS = 16
"""Pillow lets other threads run while it decodes and resizes, most of a small picture's time. The rest holds Python's
lock, one thread at a time: with more threads than this it is what all of them wait for."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode_threads() -> int:
    """One for each usable core, and at most `MOST_DECODERS`."""
    return min(usable_cores(), MOST_DECODERS)


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """A result in the place of an item: there is nothing to decode."""

    value: Result

    def result(self) -> Result:
        """As of a `Future`."""
        return self.value


def decoded_in_order(
    decode: Callable[[Item], Result], items: Iterable[Item], *, ahead: int, threads: int
) -> Generator[Result, None, None]:
    """Results in the order of the items, with no more than `ahead` of them in the making.

    Items are taken in the thread that iterates. Closing the generator waits for what was begun, and begins no more.

    Args:
        decode: Called in the threads; what it raises is raised in the item's place.
        items: What is decoded, and what is `Done`, which no thread is woken for.
        ahead: How many results may wait or be in the making, 1 or more.
        threads: How many decode.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tbps-decode")
    waiting: deque[Future[Result] | Done[Any]] = deque()
    try:
        for item in items:
            waiting.append(item if isinstance(item, Done) else pool.submit(decode, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
