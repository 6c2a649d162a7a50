"""Exact top-k by inner product over stored vectors, a block of rows at a time.

A block is sized to the cache, converted to float32 once, and multiplied with every query at once. The float32
products only select: a matrix product may sum in another order for another block or batch size, so every row whose
product comes within the proven rounding bound of the k-th best is scored again in float64, each row by itself. That
makes scores, and the order of equal ones, independent of block size, batch size, filters and threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DamagedVectorsError", "inner_products", "split_products", "to_float32", "top_k"]

# float32 bytes. Measured with 64 queries on 2 cores with 1 MiB of L2 each, at 512 and at 6656 numbers: half and
# twice as much were no faster, a quarter clearly slower.
BLOCK_BYTES = 4 << 20
# A block's products with all queries take no more than this.
PRODUCT_BYTES = 8 << 20
# Pairs are scored again in pieces of this many bytes of float64.
PAIR_BYTES = 8 << 20
_FEW_QUERIES = 8
# Unit roundoff of float32.
ROUNDOFF = 2.0**-24

Vectors = NDArray[Any]


class DamagedVectorsError(ValueError):
    """Raised when a product is larger than vectors of the given norm can have: the stored numbers are damaged."""


def top_k(
    vectors: Vectors,
    rows: NDArray[np.int64],
    queries: NDArray[np.float32],
    k: int,
    *,
    max_norm: float,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows with the largest inner product with each query, best first, equal scores in the order of `rows`.

    Args:
        vectors: float16 or float32 ``[stored rows, dim]``, usually memory-mapped.
        rows: int64 ``[m]``: the rows to search, in the order that decides between equal scores.
        queries: float32 ``[q, dim]``, finite.
        k: How many, at least 1; fewer come back when m is smaller.
        max_norm: A bound on the Euclidean norm of every stored vector.
        block_bytes: Size of a block in float32; it changes the time, never the result.

    Returns:
        float32 scores ``[q, min(k, m)]``, and int64 indices into `rows` of the same shape.

    Raises:
        DamagedVectorsError: A product exceeds ``max_norm`` times the query's norm, or is NaN.
    """
    best = _Best(len(queries), min(k, len(rows)))
    if best.k == 0 or len(queries) == 0:
        return best.scores, best.indices
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    # |computed - exact| <= gamma(dim) sum|x_i q_i| <= gamma(dim) |x||q| for any order of summation (Higham, Accuracy
    # and Stability of Numerical Algorithms, 3.1); 4 more for rounding the rescored value and the limits below.
    slack = (vectors.shape[1] + 4) * ROUNDOFF * max_norm * norms * 1.01
    ceiling = max_norm * norms * 1.001 + slack
    size = max(16, min(block_bytes // (4 * vectors.shape[1]), PRODUCT_BYTES // (4 * len(queries))))
    for start, block in _blocks(vectors, rows, size):
        products = _products(block, queries)
        if not (products.max(axis=0) <= ceiling).all():
            raise DamagedVectorsError(f"Rows {rows[start]} to {rows[start + len(block) - 1]} hold damaged numbers.")
        candidates = np.flatnonzero(products > best.limits(products, slack))
        if len(candidates):
            local, owner = np.divmod(candidates, len(queries))
            best.add(owner, inner_products(block, local, queries, owner), local + start)
    best.merge()
    return best.scores, best.indices


def inner_products(
    vectors: Vectors, rows: NDArray[np.int64], queries: NDArray[np.float32], owners: NDArray[np.int64]
) -> NDArray[np.float32]:
    """float32 ``[n]``: the inner product of ``vectors[rows[i]]`` and ``queries[owners[i]]``, summed in float64."""
    scores = np.empty(len(rows), dtype=np.float32)
    step = max(1, PAIR_BYTES // (8 * max(1, queries.shape[1])))
    for start in range(0, len(rows), step):
        piece = slice(start, start + step)
        # Cast before einsum: its own casting buffers would cut a row's sum at a place that depends on the others.
        left = vectors[rows[piece]].astype(np.float64)
        right = queries[owners[piece]].astype(np.float64)
        scores[piece] = np.einsum("nd,nd->n", left, right)
    return scores


def split_products(
    vectors: Vectors, rows: NDArray[np.int64], query: NDArray[np.float32], starts: Sequence[int]
) -> NDArray[np.float32]:
    """float32 ``[n, len(starts)]``: inner products of ``vectors[rows]`` with one query, divided at some columns.

    Args:
        starts: The column at which each share begins, ascending, the first 0.
    """
    shares = np.empty((len(rows), len(starts)), dtype=np.float32)
    step = max(1, PAIR_BYTES // (8 * len(query)))
    for start in range(0, len(rows), step):
        piece = slice(start, start + step)
        shares[piece] = np.add.reduceat(vectors[rows[piece]].astype(np.float64) * query, starts, axis=1)
    return shares


def to_float32(halves: NDArray[np.float16], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert finite float16 ``[n, dim]`` exactly into `out`, six times faster than NumPy's own cast (measured).

    Sign, exponent and mantissa move to their float32 places; the exponent's bias (127 - 15) is then a factor.
    Subnormal numbers come out right; infinities and NaN become numbers of 65536 and more.
    """
    bits: NDArray[np.int32] = out.view(np.int32)
    np.copyto(bits, halves.view("<i2"))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # 0x8fffe000: the sign copied by widening goes
    np.multiply(out, np.float32(2.0**112), out=out)
    return out


def _products(block: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 ``[n, q]``."""
    products = np.empty((len(block), len(queries)), dtype=np.float32)
    if len(queries) > _FEW_QUERIES:
        np.matmul(block, queries.T, out=products)
        return products
    # A dot product per row, which BLAS keeps in this thread: for so little work, waking its threads for every block
    # takes longer than the product (for one query 0.1 ms here against 0.1 ms to 8 ms, on a quiet and a busy machine).
    np.matmul(block[:, None, None, :], queries[:, :, None], out=products[:, :, None, None])
    return products


def _blocks(vectors: Vectors, rows: NDArray[np.int64], size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Position of its first row in `rows`, and the block as float32, valid until the next one."""
    buffer = np.empty((min(size, len(rows)), vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), size):
        wanted = rows[start : start + size]
        first, count = int(wanted[0]), len(wanted)
        # Rows that lie one behind the other are read in place; others are gathered, which is as fast as copying.
        in_place = int(wanted[-1]) - first == count - 1 and bool((np.diff(wanted) == 1).all())
        stored = vectors[first : first + count] if in_place else vectors[wanted]
        yield start, to_float32(stored, buffer[:count]) if stored.dtype == np.float16 else np.asarray(stored)


class _Best:
    """The k best of each query so far; pending ones are merged when enough of them have come together."""

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.scores = np.full((queries, k), -np.inf, dtype=np.float32)
        self.indices = np.full((queries, k), -1, dtype=np.int64)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]] = []
        self._pending_count = 0

    def limits(self, products: NDArray[np.float32], slack: NDArray[np.float64]) -> NDArray[np.float32]:
        """float32 ``[q]``: a row whose float32 product is not above it cannot be among the k best.

        Args:
            products: float32 ``[n, q]`` of the coming block.
            slack: float64 ``[q]``, how far a float32 product may lie from the exact one.
        """
        # Later rows must be better than the k-th, not equal to it: `rows` is in the order that breaks ties.
        limits = _round_down(self.scores[:, -1].astype(np.float64) - slack)
        if len(products) > self.k and np.isneginf(limits).any():
            kth = np.partition(products, len(products) - self.k, axis=0)[len(products) - self.k]
            own = np.nextafter(_round_down(kth.astype(np.float64) - 2 * slack), np.float32(-np.inf))
            limits = np.maximum(limits, own)
        return limits

    def add(self, owner: NDArray[np.int64], score: NDArray[np.float32], index: NDArray[np.int64]) -> None:
        """Take in scored rows, in the order of their indices for each owner."""
        self._pending.append((owner, score, index))
        self._pending_count += len(owner)
        if 4 * self._pending_count >= self.scores.size:
            self.merge()

    def merge(self) -> None:
        """Sort pending rows in, and cut each query to its k best."""
        if not self._pending:
            return
        new_owner, new_score, new_index = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        self._pending, self._pending_count = [], 0
        touched, slot = np.unique(new_owner, return_inverse=True)
        owner = np.concatenate((np.repeat(np.arange(len(touched)), self.k), slot))
        score = np.concatenate((self.scores[touched].ravel(), new_score))
        index = np.concatenate((self.indices[touched].ravel(), new_index))
        # Stable, and older rows come first: equal scores stay in the order of their indices.
        order = np.lexsort((-score, owner))
        first = np.searchsorted(owner[order], np.arange(len(touched)))
        kept = order[first[:, None] + np.arange(self.k)]
        self.scores[touched] = score[kept]
        self.indices[touched] = index[kept]


def _round_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 numbers that are not above the given ones."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)
