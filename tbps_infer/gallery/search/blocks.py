"""Goes through rows a block at a time, in threads that stay, each with a multiplier of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import cache

from tbps_infer.gallery.search.multiply import Multiplier, one_blas_thread

__all__ = ["in_blocks"]


def in_blocks(
    count: int,
    size: int,
    work: Callable[[Multiplier, int, int], None],
    multiplier: Multiplier,
    threads: int | None,
) -> None:
    """Call `work` for every block of some rows, several at a time, each thread with a multiplier of its own.

    Args:
        count: How many rows.
        size: Rows of a block.
        work: Gets a multiplier, and the block's first and last+1 row; what it raises ends the search.
        multiplier: The calling thread's, which makes those of the others.
        threads: How many; None is one per usable core.
    """
    starts = iter(range(0, count, size))
    lock = threading.Lock()
    over = threading.Event()

    def worker(multiply: Multiplier) -> None:
        try:
            with one_blas_thread() if multiply.uses_blas and count > size else nullcontext():
                while not over.is_set():
                    with lock:
                        start = next(starts, None)
                    if start is None:
                        return
                    work(multiply, start, min(start + size, count))
        except BaseException:
            over.set()
            raise

    helpers = min(threads or _cores(), -(-count // size)) - 1
    if helpers < 1:
        worker(multiplier)
        return
    others: list[Future[None]] = []
    try:
        for _ in range(helpers):
            others.append(_helpers(helpers).submit(lambda: worker(multiplier.for_thread())))
        worker(multiplier)
    finally:
        over.set()  # whatever interrupts this thread: nothing is left to do, or nobody to do it for
        # One that has not begun, for other searches keep the helpers busy, has nothing left to do.
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()


@cache
def _cores() -> int:
    """Looked up once: to read a quota and which processors are one core takes as long as a small search."""
    from tbps_infer.cores import usable_cores

    return usable_cores()


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Threads that stay: starting one took as long as multiplying a thousand rows (measured)."""
    return ThreadPoolExecutor(count, thread_name_prefix="search")


if hasattr(os, "register_at_fork"):  # a child process has the pool, but not its threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)
