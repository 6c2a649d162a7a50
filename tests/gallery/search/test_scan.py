"""The scan against brute force in exact arithmetic."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbps_infer.gallery.search.blocks import in_blocks
from tbps_infer.gallery.search.candidates import Candidates
from tbps_infer.gallery.search.multiply import multiplier_for, numkong_usable, one_blas_thread
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import ScanOptions, top_k
from tbps_infer.gallery.vectors import (
    DamagedVectorsError,
    StoredVectors,
    inner_products,
    quantise,
    split_products,
    to_float32,
)

NUMKONG = [False, pytest.param(True, marks=pytest.mark.skipif(not numkong_usable(), reason="NumKong is missing"))]
DTYPES = ["float16", "float32", "int8"]


def stored(vectors: NDArray[np.floating[Any]], dtype: str) -> StoredVectors:
    return StoredVectors(*quantise(vectors)) if dtype == "int8" else StoredVectors(vectors.astype(dtype))


def norm_of(vectors: StoredVectors) -> float:
    return float(np.linalg.norm(vectors.exact(slice(None)), axis=1).max())


def brute_force(
    vectors: StoredVectors, rows: NDArray[np.int64], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Correctly rounded sums (products of float32 are exact in float64), then a plain stable sort."""
    chosen = vectors.values[rows].astype(np.float64)
    if vectors.scales is not None:
        chosen *= vectors.scales[rows][:, None].astype(np.float64)
    scores = np.array(
        [[math.fsum(row * query) for row in chosen] for query in queries.astype(np.float64)], dtype=np.float32
    ).reshape(len(queries), len(rows))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 70),
    pairs=st.integers(0, 60),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_a_score_is_the_same_in_whatever_company(
    seed: int, dim: int, pairs: int, dtype: str, data: st.DataObject
) -> None:
    """Pairs of the same query are scored together: rows that are equal tie, alone or beside any others."""
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(5, dim))
    vectors = stored(distinct[rng.integers(0, 5, 30)], dtype)
    queries = rng.normal(size=(data.draw(st.integers(1, 9)), dim)).astype(np.float32)
    rows, owners = rng.integers(0, 30, pairs), rng.integers(0, len(queries), pairs)
    together = inner_products(vectors, rows, queries, owners)
    alone = [inner_products(vectors, rows[one : one + 1], queries, owners[one : one + 1])[0] for one in range(pairs)]
    np.testing.assert_array_equal(together, np.array(alone, dtype=np.float32))
    exact = vectors.exact(rows)
    right = queries[owners].astype(np.float64)
    sums = [math.fsum(products) for products in exact * right]
    np.testing.assert_allclose(together, np.array(sums, dtype=np.float32), rtol=3e-7, atol=1e-12)


Problem = tuple[StoredVectors, NDArray[np.int64], NDArray[np.float32], int, ScanOptions]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    dim = draw(st.integers(1, 40))
    count = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # A small pool makes exact duplicates; the spread between its members makes near ties.
    pool = rng.normal(size=(draw(st.integers(1, count)), dim)) * draw(st.sampled_from([1.0, 1e-3]))
    pool += rng.normal(size=dim) * draw(st.sampled_from([0.0, 1.0]))
    vectors = stored(pool[rng.integers(0, len(pool), count)], draw(st.sampled_from(DTYPES)))
    rows = np.arange(count)
    which = draw(st.sampled_from(["all", "a run", "any"]))
    if which == "a run":
        rows = rows[draw(st.integers(0, count - 1)) :][: draw(st.integers(0, count))]
    elif which == "any":
        rows = rng.permutation(count)[: draw(st.integers(0, count))]
    queries = rng.normal(size=(draw(st.integers(1, 5)), dim)).astype(np.float32)
    queries *= np.float32(draw(st.sampled_from([0.0, 1.0, 1e-6, 1e5])))  # a query of zeros ties with everything
    options = ScanOptions(
        threads=draw(st.integers(1, 3)),
        block_bytes=draw(st.sampled_from([0, 40 * dim * 4, 1 << 20])),
        numkong=numkong_usable() and draw(st.booleans()),
    )
    return vectors, rows, queries, draw(st.integers(1, count + 3)), options


@settings(max_examples=300, deadline=None)
@given(problems())
def test_top_k_is_brute_force(problem: Problem) -> None:
    vectors, rows, queries, k, options = problem
    with mock.patch("tbps_infer.gallery.search.candidates._SAMPLE", 8):  # so that blocks are larger than it
        found = top_k(vectors, Rows.of(rows), queries, k, max_norm=norm_of(vectors), options=options)
    want_scores, want_indices = brute_force(vectors, rows, queries, k)
    np.testing.assert_array_equal(found.indices, want_indices)
    np.testing.assert_array_equal(found.scores, want_scores)


@pytest.mark.parametrize("numkong", NUMKONG)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_products_cannot_tell_apart_is_told_apart(dtype: str, numkong: bool) -> None:
    """Rows that differ by less than a float32 product's rounding error still come in their true order."""
    rng = np.random.default_rng(2)
    spread = {"float32": 1e-7, "float16": 1e-3, "int8": 1e-2}[dtype]
    vectors = stored(rng.normal(size=300) + spread * rng.normal(size=(800, 300)), dtype)
    queries = rng.normal(size=(12, 300)).astype(np.float32)
    rows = np.arange(800)
    want_scores, want_indices = brute_force(vectors, rows, queries, 5)
    for block_bytes in (1 << 16, 1 << 18, 1 << 22):
        for some in (slice(0, 1), slice(None)):
            options = ScanOptions(block_bytes=block_bytes, numkong=numkong)
            found = top_k(vectors, Rows.of(rows), queries[some], 5, max_norm=norm_of(vectors), options=options)
            np.testing.assert_array_equal(found.indices, want_indices[some])
            np.testing.assert_array_equal(found.scores, want_scores[some])
    if dtype == "float32":
        plain = np.argsort(-(vectors.values @ queries.T).T, axis=1, kind="stable")[:, :5]
        assert (plain != want_indices).any(), "float32 alone would have done"


@pytest.mark.parametrize("numkong", NUMKONG)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_keep_to_their_error_bound(dtype: str, numkong: bool) -> None:
    rng = np.random.default_rng(3)
    vectors = stored(rng.normal(size=(200, 1000)) + 1.0, dtype)
    queries = (rng.normal(size=(6, 1000)) + 1.0).astype(np.float32) * np.float32(10.0) ** np.arange(-30, 30, 10)[
        :, None
    ]
    exact = vectors.values.astype(np.float64) @ queries.T.astype(np.float64)
    norms = np.linalg.norm(vectors.values.astype(np.float64), axis=1)[:, None]
    for some in (slice(0, 1), slice(5, 6), slice(None)):
        multiply = multiplier_for(queries[some], vectors.values.dtype, numkong=numkong)
        assert (np.abs(multiply(vectors.values) - exact[:, some]) <= norms * multiply.error).all()
        assert (multiply.error <= 0.02 * np.linalg.norm(queries[some].astype(np.float64), axis=1)).all()


def test_scores_do_not_depend_on_the_batch_the_block_or_the_threads() -> None:
    rng = np.random.default_rng(0)
    vectors = StoredVectors((rng.normal(size=(3000, 96)) / 10).astype(np.float16))
    queries = rng.normal(size=(64, 96)).astype(np.float32)
    rows = np.arange(len(vectors))
    together = top_k(vectors, Rows.of(rows), queries, 20, max_norm=2.0)
    for size in (1, 7):
        for start in (0, 21):
            some = slice(start, start + size)
            options = ScanOptions(block_bytes=1 << 16, threads=size)
            found = top_k(vectors, Rows.of(rows), queries[some], 20, max_norm=2.0, options=options)
            np.testing.assert_array_equal(found.scores, together.scores[some])
            np.testing.assert_array_equal(found.indices, together.indices[some])


def test_a_pool_that_overflows_scores_its_pairs_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbps_infer.gallery.search.candidates._KEPT", 50)
    monkeypatch.setattr("tbps_infer.gallery.search.candidates._PENDING", 50)
    rng = np.random.default_rng(4)
    vectors = stored(np.repeat(rng.normal(size=(3, 8)), 400, axis=0), "float16")
    queries = rng.normal(size=(3, 8)).astype(np.float32)
    rows = rng.permutation(1200)
    options = ScanOptions(block_bytes=0, threads=2)
    found = top_k(vectors, Rows.of(rows), queries, 5, max_norm=norm_of(vectors), options=options)
    want_scores, want_indices = brute_force(vectors, rows, queries, 5)
    np.testing.assert_array_equal(found.indices, want_indices)
    np.testing.assert_array_equal(found.scores, want_scores)


def test_searches_at_the_same_time_share_their_helpers() -> None:
    rng = np.random.default_rng(6)
    vectors = stored(rng.normal(size=(600, 8)), "float16")
    queries = rng.normal(size=(24, 1, 8)).astype(np.float32)
    rows, options = Rows.of(np.arange(600)), ScanOptions(block_bytes=0, threads=3)

    def search(query: NDArray[np.float32]) -> list[int]:
        indices: list[int] = top_k(vectors, rows, query, 4, max_norm=10.0, options=options).indices[0].tolist()
        return indices

    with ThreadPoolExecutor(6) as callers:
        together = list(callers.map(search, queries))
    assert together == [brute_force(vectors, rows.numbers, query, 4)[1][0].tolist() for query in queries]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_process_searches_with_helpers_of_its_own() -> None:
    """A pool that is inherited has no threads: what is given to it would never be done."""
    program = """
import os, threading, numpy as np
from tbps_infer.gallery.search.blocks import in_blocks
def threads():
    seen = set()
    meet = threading.Barrier(2, timeout=20)
    def work(_, start, stop):
        seen.add(threading.get_ident())
        meet.wait()
    multiply = type("None_", (), {"uses_blas": False, "for_thread": lambda self: self})()
    in_blocks(2, 1, work, multiply, 2)
    return len(seen)
assert threads() == 2
child = os.fork()
if child == 0:
    os._exit(threads())
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 2


def test_few_pairs_are_scored_exactly() -> None:
    """The k best and what lies within the error of the k-th, not whatever was best for a while."""
    scores = np.random.default_rng(5).normal(size=(1, 4000)).astype(np.float32)
    pool = Candidates(1, 10, lambda _, index: scores[0, index])
    for start in range(0, 4000, 100):
        positions = np.arange(start, start + 100)
        pool.add(positions.__getitem__, scores[:, start : start + 100].T, np.array([1e-6]))
    found, indices = pool.finish()
    np.testing.assert_array_equal(indices[0], np.argsort(-scores[0], kind="stable")[:10])
    np.testing.assert_array_equal(found[0], np.sort(scores[0])[::-1][:10])
    assert 10 <= pool.scored <= 12


def test_every_finite_half_is_converted_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(-1, 32)
    converted = to_float32(halves, np.empty(halves.shape, dtype=np.float32))
    np.testing.assert_array_equal(converted.view(np.uint32), halves.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("damage", [np.inf, np.nan, -60000.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("numkong", NUMKONG)
def test_damaged_numbers_are_noticed(damage: float, dtype: type[np.floating[Any]], numkong: bool) -> None:
    vectors = np.full((50, 4), 0.5, dtype=dtype)
    vectors[33, 2] = damage
    queries = np.array([[0.5, 0.5, -0.5, 0.5], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    options = ScanOptions(block_bytes=0, threads=2, numkong=numkong)
    with pytest.raises(DamagedVectorsError, match="Rows 32 to 47"):
        top_k(StoredVectors(vectors), Rows.of(np.arange(50)), queries, 3, max_norm=1.0, options=options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_split_products_are_the_inner_products_of_the_pieces(dtype: str) -> None:
    rng = np.random.default_rng(1)
    vectors = stored(rng.normal(size=(30, 10)), dtype)
    query = rng.normal(size=10).astype(np.float32)
    rows = np.array([3, 29, 3])
    shares = split_products(vectors, rows, query, [0, 4, 9])
    for start, stop, share in ((0, 4, shares[:, 0]), (4, 9, shares[:, 1]), (9, 10, shares[:, 2])):
        want = [math.fsum(vectors.exact(np.array([row]))[0, start:stop] * query[start:stop]) for row in rows]
        np.testing.assert_array_equal(share, np.array(want, dtype=np.float32))


def test_quantised_vectors_lie_within_half_a_step() -> None:
    vectors = np.random.default_rng(6).normal(size=(50, 30)).astype(np.float32)
    vectors[7] = 0
    values, scales = quantise(vectors)
    assert np.abs(values.astype(int)).max() == 127
    assert (values[7] == 0).all() and scales[7] == 0
    assert (np.abs(values * scales[:, None].astype(np.float64) - vectors) <= 0.5001 * scales[:, None]).all()


def test_blas_gets_its_threads_back_whatever_the_order_of_searches() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    entered, leave = threading.Event(), threading.Event()
    inside: list[set[int]] = []

    def other() -> None:
        with one_blas_thread():
            inside.append(threads())
            entered.set()
            leave.wait(10)

    with threadpool_limits(2, user_api="blas"):
        thread = threading.Thread(target=other)
        with one_blas_thread():
            inside.append(threads())
            thread.start()
            assert entered.wait(10)
        leave.set()
        thread.join()
        assert inside == [{1}, {1}]
        assert threads() == {2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_amid_a_search_can_search() -> None:
    """The child inherits locks that no thread of its own will give back."""
    program = """
import os, threading, numpy as np
from tbps_infer.gallery.search import multiply
from tbps_infer.gallery.search.scan import ScanOptions, top_k
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.vectors import StoredVectors
entered, leave = threading.Event(), threading.Event()
def hold():
    with multiply.one_blas_thread(), multiply._blas_lock:
        entered.set()
        leave.wait()
threading.Thread(target=hold, daemon=True).start()
entered.wait()
child = os.fork()
if child == 0:
    vectors = StoredVectors(np.eye(64, dtype=np.float32))
    options = ScanOptions(threads=2, block_bytes=0, numkong=False)
    queries = np.ones((1, 64), dtype=np.float32)
    found = top_k(vectors, Rows.of(np.arange(64)), queries, 3, max_norm=1.0, options=options)
    os._exit(7 if found.indices.tolist() == [[0, 1, 2]] and multiply._blas_users == 0 else 8)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 7


def test_an_interrupted_search_leaves_no_helper_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while helpers are given their work: those that have begun stop after their block."""
    done: list[int] = []
    begun, give = threading.Event(), ThreadPoolExecutor.submit
    own = multiplier_for(np.ones((1, 4), np.float32), np.dtype(np.float32), numkong=False)

    def work(_: object, start: int, __: int) -> None:
        begun.set()
        done.append(start)
        time.sleep(0.005)

    def submit(self: ThreadPoolExecutor, *arguments: Any) -> Any:
        if begun.is_set():
            raise KeyboardInterrupt
        given = give(self, *arguments)
        begun.wait(10)
        return given

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    with pytest.raises(KeyboardInterrupt):
        in_blocks(2000, 1, work, own, 3)
    seen = len(done)
    time.sleep(0.05)
    assert len(done) == seen < 2000
