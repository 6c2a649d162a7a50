"""The load run itself: it counts what the server counts, and an answer that is none is an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from serve_world import World

from tbps_infer.benchmarks.studies.serve_load import percentile, run_load, sentences
from tbps_infer.errors import BenchmarkError, UsageError
from tbps_infer.serve.app import create_app
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import Limits, ServeOptions
from tbps_infer.serve.searcher import Searcher
from tbps_infer.serve.server import bind


@contextmanager
def _served(world: World, limits: Limits) -> Iterator[tuple[int, Metrics]]:
    """The port of a server in a thread of this process, and what it counts."""
    options, metrics = ServeOptions(port=0, limits=limits), Metrics()
    searcher = Searcher(world.encoder(), world.gallery, options.batch, metrics)
    app = create_app(searcher, options, metrics)
    with bind(options) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            yield bound.getsockname()[1], metrics
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("load"))
    made.add(range(6))
    return made


def test_every_query_and_picture_is_asked_once_and_answered(world: World) -> None:
    with _served(world, Limits(rate=0)) as (port, metrics):
        report = run_load("127.0.0.1", port, clients=8, requests=40, pictures=2, k=3)
    assert report.errors == {} and report.requests == 40
    count = metrics.registry.get_sample_value
    labels = {"method": "POST", "route": "/api/v1/search", "status": "200"}
    assert count("tbps_requests_total", labels) == 40
    labels = {"method": "GET", "route": "/api/v1/records/{record}/thumbnail", "status": "200"}
    assert count("tbps_requests_total", labels) == 80
    assert 0 < report.p50_ms <= report.p90_ms <= report.p99_ms <= report.max_ms
    assert report.first_row_p50_ms is not None and report.first_row_p50_ms > report.p50_ms


def test_refused_queries_are_errors(world: World) -> None:
    with _served(world, Limits(rate=0.001, burst=7)) as (port, _):
        report = run_load("127.0.0.1", port, clients=3, requests=20)
    assert report.errors == {"429": 13}


def test_sentences_differ_and_stay_the_same() -> None:
    made = sentences(2000)
    assert len(set(made)) == 2000 and made == sentences(2000)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99)] == [3.0, 5.0, 5.0]
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([], 0.5) != percentile([], 0.5)  # NaN


def test_a_load_needs_a_request_per_client() -> None:
    with pytest.raises(BenchmarkError, match="make no load"):
        run_load("127.0.0.1", 1, clients=3, requests=2)


def test_an_address_in_use_is_told_in_a_sentence() -> None:
    with bind(ServeOptions(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} cannot be used"):
            bind(ServeOptions(port=port))
