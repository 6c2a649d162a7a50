"""The search kernel against brute force in exact arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbps_infer.gallery.kernel import DamagedVectorsError, split_products, to_float32, top_k


def brute_force(
    vectors: NDArray[Any], rows: NDArray[np.int64], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Correctly rounded sums (products of float32 are exact in float64), then a plain stable sort."""
    chosen = vectors[rows].astype(np.float64)
    scores = np.array(
        [[math.fsum(row * query) for row in chosen] for query in queries.astype(np.float64)], dtype=np.float32
    ).reshape(len(queries), len(rows))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32], int, int]:
    dim = draw(st.integers(1, 40))
    stored = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # A small pool makes exact duplicates; the spread between its members makes near ties.
    pool = rng.normal(size=(draw(st.integers(1, stored)), dim)) * draw(st.sampled_from([1.0, 1e-3]))
    pool += rng.normal(size=dim) * draw(st.sampled_from([0.0, 1.0]))
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    vectors = pool[rng.integers(0, len(pool), stored)].astype(dtype)
    rows = np.arange(stored)
    if draw(st.booleans()):
        rows = rng.permutation(stored)[: draw(st.integers(0, stored))]
    queries = rng.normal(size=(draw(st.integers(1, 5)), dim)).astype(np.float32)
    queries *= draw(st.sampled_from([0.0, 1.0]))  # a query of zeros ties with everything
    return vectors, rows, queries, draw(st.integers(1, stored + 3)), draw(st.sampled_from([0, 40 * dim * 4, 1 << 20]))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_top_k_is_brute_force(
    problem: tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32], int, int],
) -> None:
    vectors, rows, queries, k, block_bytes = problem
    norm = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    scores, indices = top_k(vectors, rows, queries, k, max_norm=norm, block_bytes=block_bytes)
    want_scores, want_indices = brute_force(vectors, rows, queries, k)
    np.testing.assert_array_equal(indices, want_indices)
    np.testing.assert_array_equal(scores, want_scores)


def test_what_float32_cannot_tell_apart_is_told_apart() -> None:
    """Rows that differ by less than a float32 product's rounding error still come in their true order."""
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=300) + 1e-7 * rng.normal(size=(800, 300))).astype(np.float32)
    queries = rng.normal(size=(12, 300)).astype(np.float32)
    rows = np.arange(len(vectors))
    want_scores, want_indices = brute_force(vectors, rows, queries, 5)
    norm = float(np.linalg.norm(vectors, axis=1).max())
    for block_bytes in (1 << 16, 1 << 18, 1 << 22):
        scores, indices = top_k(vectors, rows, queries, 5, max_norm=norm, block_bytes=block_bytes)
        np.testing.assert_array_equal(indices, want_indices)
        np.testing.assert_array_equal(scores, want_scores)
    plain = np.argsort(-(vectors @ queries.T).T, axis=1, kind="stable")[:, :5]
    assert (plain != want_indices).any(), "float32 alone would have done"


def test_scores_do_not_depend_on_the_batch_or_the_block() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(3000, 96)) / 10).astype(np.float16)
    queries = rng.normal(size=(64, 96)).astype(np.float32)
    rows = np.arange(len(vectors))
    together = top_k(vectors, rows, queries, 20, max_norm=2.0)
    for size in (1, 7):
        for start in (0, 21):
            some = slice(start, start + size)
            scores, indices = top_k(vectors, rows, queries[some], 20, max_norm=2.0, block_bytes=1 << 16)
            np.testing.assert_array_equal(scores, together[0][some])
            np.testing.assert_array_equal(indices, together[1][some])


def test_every_finite_half_is_converted_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(-1, 32)
    converted = to_float32(halves, np.empty(halves.shape, dtype=np.float32))
    np.testing.assert_array_equal(converted.view(np.uint32), halves.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("damage", [np.inf, np.nan, -60000.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_damaged_numbers_are_noticed(damage: float, dtype: type[np.floating[Any]]) -> None:
    vectors = np.full((50, 4), 0.5, dtype=dtype)
    vectors[33, 2] = damage
    queries = np.array([[0.5, 0.5, -0.5, 0.5], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    with pytest.raises(DamagedVectorsError, match="Rows 32 to 47"):
        top_k(vectors, np.arange(50), queries, 3, max_norm=1.0, block_bytes=0)


def test_split_products_are_the_inner_products_of_the_pieces() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(30, 10)).astype(np.float16)
    query = rng.normal(size=10).astype(np.float32)
    rows = np.array([3, 29, 3])
    shares = split_products(vectors, rows, query, [0, 4, 9])
    for start, stop, share in ((0, 4, shares[:, 0]), (4, 9, shares[:, 1]), (9, 10, shares[:, 2])):
        want = [math.fsum(vectors[row, start:stop].astype(float) * query[start:stop]) for row in rows]
        np.testing.assert_array_equal(share, np.array(want, dtype=np.float32))
