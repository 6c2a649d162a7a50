"""Exact top-k by inner product over stored vectors, a block of rows at a time, in as many threads as there are cores.

The products of a block only select: a matrix product may sum in another order for another block or batch size, so
every row whose product comes within the proven error of the k-th best is scored again in float64, each row by
itself. That makes scores, and the order of equal ones, independent of block size, batch size, filters and threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.search.blocks import in_blocks
from tbps_infer.gallery.search.candidates import Candidates, Narrower
from tbps_infer.gallery.search.multiply import (
    ROUNDOFF,
    Int8Pairs,
    Multiplier,
    multiplier_for,
    norms_of,
    numkong_usable,
)
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors, by_owner, inner_products

__all__ = ["MANY", "FirstStage", "ScanOptions", "Scanned", "lowest_products", "top_k", "undecided_share"]

# Rows scored exactly before the memory that they were read into is given back.
_PAIRS_AT_ONCE = 128
MANY = 8
"""Queries from which what they have in common is worth multiplying together."""
_SAMPLE_ROWS = 1024
_FIRST = 4  # times k rows of each query are multiplied before the others


@dataclass(frozen=True)
class ScanOptions:
    """How to go through the rows; no choice changes a result.

    Attributes:
        threads: How many; None is one per core that this process may use.
        block_bytes: Bytes of a block in the type it is multiplied in. Measured with 64 queries on cores with 1 MiB of
            L2 each, at 512 and at 6656 numbers: half and twice as much were no faster, a quarter clearly slower.
        product_bytes: A block's products with all queries take no more than this.
        numkong: Whether to multiply with NumKong; None is where it is usable.
        release: Called with the first and last+1 row of a block that is done with, for instance to give its memory
            back; None does nothing.
    """

    threads: int | None = None
    block_bytes: int = 4 << 20
    product_bytes: int = 8 << 20
    numkong: bool | None = None
    release: Callable[[int, int], None] | None = None

    def rows_per_block(self, row_bytes: int, queries: int) -> int:
        """Rows of a block, 16 at least.

        A block's rows are used once by a single query, so it need not fit the cache; fewer blocks cost fewer calls.
        """
        block_bytes = self.block_bytes * (4 if queries == 1 else 1)
        return max(16, min(block_bytes // row_bytes, self.product_bytes // (4 * queries)))


class FirstStage(Protocol):
    """What finds candidates among the first rows of the vector file before any vector is scored exactly."""

    @property
    def count(self) -> int:
        """How many rows it covers."""

    @property
    def row_bytes(self) -> int:
        """Bytes that it reads per row."""

    def scan(
        self,
        pool: Candidates,
        rows: Rows,
        queries: NDArray[np.float32],
        max_norm: float,
        options: ScanOptions,
    ) -> None:
        """Add those of some rows, all below `count`, that may be among the best to the pool, by their positions."""


@dataclass(frozen=True)
class Scanned:
    """What a search found.

    Attributes:
        scores: float32 ``[q, min(k, m)]``, best first, equal scores in the order of rows.
        indices: int64 of the same shape, indices into the rows that were searched.
        bytes_read: Bytes of stored vectors and of the first stage that were needed for an average query by itself.
    """

    scores: NDArray[np.float32]
    indices: NDArray[np.int64]
    bytes_read: float


def top_k(
    vectors: StoredVectors,
    rows: Rows,
    queries: NDArray[np.float32],
    k: int,
    *,
    max_norm: float,
    options: ScanOptions | None = None,
    first_stage: FirstStage | None = None,
) -> Scanned:
    """The k rows with the largest inner product with each query.

    Args:
        vectors: ``[stored rows, dim]``, usually memory-mapped.
        rows: The m rows to search.
        queries: float32 ``[q, dim]``, finite.
        k: How many, at least 1; fewer come back when m is smaller.
        max_norm: A bound on the Euclidean norm of every stored vector.
        options: How to go about it.
        first_stage: What goes through the rows that it covers; None multiplies every vector. The result is the same,
            but for what a graph misses.

    Raises:
        DamagedVectorsError: A product exceeds ``max_norm`` times the query's norm, or is NaN.
    """
    options = options or ScanOptions()
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    k = min(k, len(rows))
    if k == 0 or len(queries) == 0:
        return Scanned(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64), 0)

    def score(owner: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.float32]:
        return _exact_scores(vectors, rows.numbers[index], queries, owner, options)

    pool = Candidates(len(queries), k, score, _narrower(vectors, rows, queries, max_norm, options))
    if first_stage is None:
        _scan(pool, vectors, rows, queries, max_norm, options)
        return Scanned(*pool.finish(), len(rows) * vectors.row_bytes)
    covered, others = rows, Rows.of(rows.numbers[:0])
    if first_stage.count < len(vectors):  # else nothing need be asked row by row
        covered, others = rows.split(first_stage.count)
    first_stage.scan(pool, covered, queries, max_norm, options)
    if len(queries) >= MANY and pool.unsettled() > _FIRST * k * len(queries):
        # Exact scores of so many pairs took ten times as long as a scan (measured). The best of each query come
        # first: what the floors then leave of the others is multiplied after them.
        for most in (_FIRST * k, None):
            promising = rows.take(pool.take_rows(most))
            if len(promising):
                _scan(pool, vectors, promising, queries, max_norm, options)
    if len(others):  # they came after the first stage was built
        _scan(pool, vectors, others, queries, max_norm, options)
    scores, indices = pool.finish()
    in_full = len(others) + pool.scored / len(queries)
    return Scanned(scores, indices, first_stage.row_bytes * len(covered) + vectors.row_bytes * in_full)


def undecided_share(
    vectors: StoredVectors,
    rows: Rows,
    queries: NDArray[np.float32],
    k: int,
    *,
    max_norm: float,
    options: ScanOptions,
    first_stage: FirstStage,
) -> float:
    """The share of pairs of a query and a row that a first stage leaves undecided, beyond the k best of each query.

    Estimated on a sample of the rows, where as large a part as k is of all rows stands for the k best. Arguments and
    errors are those of `top_k`.
    """
    covered = np.flatnonzero(rows.numbers < first_stage.count)
    if not len(covered) or not len(queries):
        return 0
    # Multiples of the golden ratio spread evenly without a period, which cameras that take turns could share.
    places = np.arange(min(_SAMPLE_ROWS, len(covered))) * 0.6180339887498949 % 1 * len(covered)
    sample = covered[np.unique(places.astype(np.int64))]
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    best = max(1, min(k, len(covered)) * len(sample) // len(covered))

    def score(owner: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.float32]:
        return _exact_scores(vectors, rows.numbers[index], queries, owner, options)

    pool = Candidates(len(queries), best, score)
    first_stage.scan(pool, rows.take(sample), queries, max_norm, options)
    return max(0, pool.unsettled() - best * len(queries)) / (len(queries) * len(sample))


def lowest_products(
    vectors: StoredVectors,
    rows: Rows,
    queries: NDArray[np.float32],
    *,
    max_norm: float,
    options: ScanOptions | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Each row's lowest inner product with some queries, float32 ``[m]``, and by how much one is off at most.

    Args:
        vectors: ``[stored rows, dim]``, usually memory-mapped.
        rows: The m rows.
        queries: float32 ``[q, dim]``, finite.
        max_norm: A bound on the Euclidean norm of every stored vector.
        options: How to go about it.

    Raises:
        DamagedVectorsError: A product exceeds ``max_norm`` times the query's norm, or is NaN.
    """
    lowest = np.empty(len(rows), dtype=np.float32)
    largest = 0.0

    def keep(start: int, estimates: NDArray[np.float32], slack: NDArray[np.float64]) -> None:
        nonlocal largest
        lowest[start : start + len(estimates)] = estimates.min(axis=1)
        largest = float(slack.max())

    queries = np.ascontiguousarray(queries, dtype=np.float32)
    _multiply(vectors, rows, queries, max_norm, options or ScanOptions(), keep)
    return lowest, largest


def _exact_scores(
    vectors: StoredVectors,
    rows: NDArray[np.int64],
    queries: NDArray[np.float32],
    owners: NDArray[np.int64],
    options: ScanOptions,
) -> NDArray[np.float32]:
    """float32 ``[n]``, the rows in the order in which they lie in the file."""
    order = np.argsort(rows, kind="stable")
    scores = np.empty(len(rows), dtype=np.float32)
    step = len(rows) if options.release is None else _PAIRS_AT_ONCE
    for start in range(0, len(rows), max(1, step)):
        some = order[start : start + step]
        scores[some] = inner_products(vectors, rows[some], queries, owners[some])
        if options.release is not None:
            # Around each row that is touched the system maps whole pieces of its cache, 450 KB here (measured).
            options.release(0, len(vectors))
    return scores


def _narrower(
    vectors: StoredVectors, rows: Rows, queries: NDArray[np.float32], max_norm: float, options: ScanOptions
) -> Narrower | None:
    """What tells the candidates of int8 rows apart: rounding the queries to int8 leaves thousands of them."""
    if vectors.scales is None or not (numkong_usable() if options.numkong is None else options.numkong):
        return None
    scales = vectors.scales

    def narrow(owner: NDArray[np.int64], index: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        pairs = Int8Pairs(queries)  # not before: most searches for one query have nothing to tell apart
        error = max_norm * (pairs.error + 4 * ROUNDOFF * norms_of(queries))
        estimates, numbers = np.empty(len(owner)), rows.numbers[index]
        for query, some in by_owner(owner, vectors.dim):
            stored = numbers[some]
            estimates[some] = pairs(vectors.values[stored], query) * scales[stored]
        return estimates, error[owner]

    return narrow


def _scan(
    pool: Candidates,
    vectors: StoredVectors,
    rows: Rows,
    queries: NDArray[np.float32],
    max_norm: float,
    options: ScanOptions,
) -> None:
    """Add rows to the pool, where they are known by their positions, by their products with every query."""

    def add(start: int, estimates: NDArray[np.float32], slack: NDArray[np.float64]) -> None:
        pool.add(lambda found: rows.positions_of(start + found), estimates, slack)

    _multiply(vectors, rows, queries, max_norm, options, add)


def _multiply(
    vectors: StoredVectors,
    rows: Rows,
    queries: NDArray[np.float32],
    max_norm: float,
    options: ScanOptions,
    take: Callable[[int, NDArray[np.float32], NDArray[np.float64]], None],
) -> None:
    """Hand on the products of every block of rows: its first row, float32 ``[n, q]``, and their error ``[q]``."""
    multiplier = multiplier_for(queries, vectors.values.dtype, numkong=options.numkong)
    norms = norms_of(queries)
    # A scale, the exact score and the limits are rounded once each.
    slack = max_norm * (multiplier.error + 4 * ROUNDOFF * norms)
    ceiling = max_norm * norms * 1.001 + slack

    def scan(multiply: Multiplier, start: int, stop: int) -> None:
        block = rows.block(start, stop, len(queries))
        estimates = multiply(vectors.values[block.stored])
        if vectors.scales is not None:
            estimates *= vectors.scales[block.stored][:, None]
        estimates = block.of(estimates)
        if not (estimates.max(axis=0) <= ceiling).all():
            damaged = rows.numbers[start:stop]
            raise DamagedVectorsError(f"Rows {damaged[0]} to {damaged[-1]} hold damaged numbers.")
        take(start, estimates, slack)
        if options.release is not None and isinstance(block.stored, slice):
            options.release(block.stored.start, block.stored.stop)

    size = options.rows_per_block(multiplier.working_bytes * vectors.dim, len(queries))
    in_blocks(len(rows), size, scan, multiplier, options.threads)
