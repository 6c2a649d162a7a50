"""One thread that owns the model: it takes what waits, runs it together, and answers each alone."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tbps_infer.errors import TbpsError
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import BatchOptions

__all__ = ["Batcher"]

Job = TypeVar("Job")
Answer = TypeVar("Answer")


@dataclass
class _Waiting(Generic[Job, Answer]):
    job: Job
    answer: Future[Answer] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Job, Answer]):
    """Runs jobs in batches, in one thread, in the order in which they came.

    A batch that fails with a user's error is run again one by one, so that only whose fault it is gets it.

    Args:
        run: Jobs to answers, as many and in their order; called in the one thread only.
        options: How large a batch is and how many may wait.
        metrics: Where batches are counted.
        finish: Called in the one thread after the last batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Answer]],
        options: BatchOptions,
        metrics: Metrics,
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._options = options
        self._metrics = metrics
        self._finish = finish
        self._queue: queue.Queue[_Waiting[Job, Answer] | None] = queue.Queue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="tbps-model", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return self._waiting

    @property
    def busy_seconds(self) -> float:
        """For how long the batch that is being answered has been; 0 between batches."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def submit(self, job: Job) -> Future[Answer]:
        """Queue a job; raises RefusedError (503) when too many wait or the server ends."""
        with self._lock:
            if self._closed:
                raise RefusedError(503, "The server is shutting down.", retry_after_s=5)
            if self._waiting >= self._options.queue:
                self._metrics.refused.labels("queue").inc()
                raise RefusedError(503, f"{self._waiting} queries wait already.", "Ask again soon.", retry_after_s=1)
            self._waiting += 1
            waiting: _Waiting[Job, Answer] = _Waiting(job)
            self._queue.put(waiting)
        return waiting.answer

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            ended = False
            while not ended:
                batch, ended = self._next_batch()
                if batch:
                    self._busy_since = time.monotonic()
                    self._answer(batch)
                    self._busy_since = None
        finally:
            self._finish()

    def _next_batch(self) -> tuple[list[_Waiting[Job, Answer]], bool]:
        """The next jobs whose clients still wait, and whether they are the last."""
        batch: list[_Waiting[Job, Answer]] = []
        until = None
        while len(batch) < self._options.most:
            try:
                remaining = None if until is None else max(0.0, until - time.monotonic())
                waiting = self._queue.get(timeout=remaining) if remaining != 0.0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                return batch, True
            with self._lock:
                self._waiting -= 1
            if waiting.answer.set_running_or_notify_cancel():
                batch.append(waiting)
                self._metrics.stage_seconds.labels("queue").observe(time.perf_counter() - waiting.since)
                until = until or time.monotonic() + self._options.wait_ms / 1000
        return batch, False

    def _answer(self, batch: list[_Waiting[Job, Answer]]) -> None:
        self._metrics.batch_size.observe(len(batch))
        try:
            answers = self._run([waiting.job for waiting in batch])
            for waiting, answer in list(zip(batch, answers, strict=True)):
                waiting.answer.set_result(answer)
        except (TbpsError, RefusedError) as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for waiting in batch:
                    self._answer([waiting])
        except BaseException as error:  # The thread must outlive any one batch, also a panic of a library in Rust.
            told = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            for waiting in batch:
                waiting.answer.set_exception(told)
