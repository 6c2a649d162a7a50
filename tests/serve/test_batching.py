"""Batches: what waits is run together, whoever is at fault is told alone, and a full queue says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serve_world import World

from tbps_infer.encoder import Encoder
from tbps_infer.errors import UsageError
from tbps_infer.gallery import Filter
from tbps_infer.serve.batching import Batcher
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.jobs import SearchJob
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import BatchOptions, ServeOptions
from tbps_infer.serve.searcher import Searcher


class _Squares:
    """Squares numbers; holds its first batch until told, refuses negative numbers."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        self.begun.set()
        assert self.go.wait(10)
        if any(job < 0 for job in jobs):
            raise UsageError("A number is negative.")
        if 13 in jobs:
            raise ValueError("unlucky")
        return [job * job for job in jobs]


def test_what_waits_is_run_together_and_answered_each() -> None:
    squares = _Squares()
    batcher: Batcher[int, int] = Batcher(squares, BatchOptions(most=4, wait_ms=0), Metrics())
    first = batcher.submit(1)
    assert squares.begun.wait(10)
    others = [batcher.submit(number) for number in range(2, 8)]
    assert batcher.depth == 6
    squares.go.set()
    assert [future.result(10) for future in (first, *others)] == [1, 4, 9, 16, 25, 36, 49]
    assert squares.batches == [[1], [2, 3, 4, 5], [6, 7]]
    batcher.close()


def test_one_bad_job_fails_alone() -> None:
    squares = _Squares()
    batcher: Batcher[int, int] = Batcher(squares, BatchOptions(most=8, wait_ms=0), Metrics())
    first = batcher.submit(1)
    assert squares.begun.wait(10)
    futures = [batcher.submit(number) for number in (2, -3, 4)]
    squares.go.set()
    assert (first.result(10), futures[0].result(10), futures[2].result(10)) == (1, 4, 16)
    with pytest.raises(UsageError, match="negative"):
        futures[1].result(10)
    batcher.close()


def test_a_bug_is_told_to_its_batch_and_the_thread_goes_on() -> None:
    squares = _Squares()
    squares.go.set()
    batcher: Batcher[int, int] = Batcher(squares, BatchOptions(wait_ms=0), Metrics())
    with pytest.raises(ValueError, match="unlucky"):
        batcher.submit(13).result(10)
    assert batcher.submit(5).result(10) == 25
    batcher.close()


def test_a_full_queue_and_a_closed_one_refuse_with_503() -> None:
    squares = _Squares()
    batcher: Batcher[int, int] = Batcher(squares, BatchOptions(queue=2, wait_ms=0), Metrics())
    running = batcher.submit(1)
    assert squares.begun.wait(10)
    waiting = [batcher.submit(2), batcher.submit(3)]
    with pytest.raises(RefusedError) as full:
        batcher.submit(4)
    assert full.value.status == 503 and full.value.retry_after_s
    assert waiting[0].cancel()  # its client went away
    squares.go.set()
    assert (running.result(10), waiting[1].result(10)) == (1, 9)
    batcher.close()
    assert squares.batches == [[1], [3]]
    with pytest.raises(RefusedError) as closed:
        batcher.submit(5)
    assert closed.value.status == 503


def test_closing_answers_what_waits_first() -> None:
    squares = _Squares()
    ended = threading.Event()
    batcher: Batcher[int, int] = Batcher(squares, BatchOptions(most=1, wait_ms=0), Metrics(), ended.set)
    futures = [batcher.submit(number) for number in range(3)]
    squares.go.set()
    batcher.close()
    assert [future.result(0) for future in futures] == [0, 1, 4] and ended.is_set()


def test_many_clients_get_what_each_would_get_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(range(10))
    words = ["a hat", "a red coat", "a woman", "a man with a backpack"]
    metrics = Metrics()
    searcher = Searcher(world.encoder(), world.gallery, BatchOptions(wait_ms=20), metrics)
    only = [searcher.gallery.matching(Filter(camera=("cam_a",)), 10) for _ in range(14)]
    jobs = [
        SearchJob(
            (words[number % 4],), k=1 + number % 5, records=None if number % 3 else {"gallery": only[number // 3]}
        )
        for number in range(40)
    ]
    alone = [searcher.search(job).result(10) for job in jobs]
    with ThreadPoolExecutor(20) as clients:
        together = list(clients.map(lambda job: searcher.search(job).result(10), jobs))
    searcher.close()
    for one, other in zip(alone, together, strict=True):
        assert [hit.record for hit in one.hits] == [hit.record for hit in other.hits]
        assert [hit.score for hit in one.hits] == pytest.approx([hit.score for hit in other.hits], abs=1e-6)
    batches = metrics.registry.get_sample_value("tbps_batch_size_count")
    assert batches is not None and 40 < batches < 60  # forty alone, and forty together in far fewer


def test_a_panic_of_a_library_is_told_and_the_thread_goes_on() -> None:
    class PanicError(BaseException):
        """As pyo3 raises it: no Exception."""

    def run(jobs: Sequence[int]) -> list[int]:
        if 13 in jobs:
            raise PanicError("unwrap on None")
        return list(jobs)

    batcher: Batcher[int, int] = Batcher(run, BatchOptions(wait_ms=0), Metrics())
    with pytest.raises(RuntimeError, match="PanicError: unwrap on None"):
        batcher.submit(13).result(10)
    assert batcher.submit(5).result(10) == 5 and batcher.busy_seconds == 0
    batcher.close()


def test_health_tells_of_a_model_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.add(range(2))
    go = threading.Event()
    with world.client(ServeOptions(batch=BatchOptions(answer_seconds=0.2))) as client:
        encode = Encoder.encode_texts

        def hang(encoder: Encoder, texts: Sequence[str]) -> Any:
            assert go.wait(30)
            return encode(encoder, texts)

        monkeypatch.setattr(Encoder, "encode_texts", hang)
        assert client.get("/healthz").json() == {"status": "ready"}
        assert client.post("/api/v1/search", json={"texts": ["a hat"]}).status_code == 503
        answer = client.get("/healthz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "stuck" and "computed one batch for" in answer.json()["reason"]
        go.set()
        assert client.post("/api/v1/search", json={"texts": ["a hat"]}).status_code == 200
        assert client.get("/healthz").json() == {"status": "ready"}
