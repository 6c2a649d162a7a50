"""Stored vectors as the search reads them: float16, float32, or int8 with a scale per vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NORM_MARGIN",
    "DamagedVectorsError",
    "StoredVectors",
    "by_owner",
    "inner_products",
    "quantise",
    "split_products",
    "to_float32",
]

NORM_MARGIN = 1.02
"""A bound on stored norms, relative to the layout's: rounding lengthens a vector by less, and a writer sees to it."""

# Pairs are scored in pieces whose rows take this many bytes.
_PAIR_BYTES = 8 << 20
_LARGEST_INT8 = 127


class DamagedVectorsError(ValueError):
    """Raised when a product is larger than vectors of the given norm can have: the stored numbers are damaged."""


@dataclass(frozen=True)
class StoredVectors:
    """Vectors as they lie in a file, usually memory-mapped.

    Attributes:
        values: float16, float32 or int8 ``[rows, dim]``.
        scales: float32 ``[rows]`` for int8, whose vectors are ``scales * values``; None otherwise.
    """

    values: NDArray[Any]
    scales: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return int(self.values.shape[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector."""
        return int(self.values.dtype.itemsize * self.dim + (0 if self.scales is None else 4))

    def exact(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        """float64 ``[n, dim]``: some vectors without any rounding."""
        values: NDArray[Any] = np.ascontiguousarray(self.values[rows])
        if values.dtype == np.float16:
            # By way of float32: NumPy's own cast from float16 is six times slower (measured). It is exact for what
            # is finite, and the search refuses what is not.
            values = to_float32(values, np.empty(values.shape, dtype=np.float32))
        exact: NDArray[np.float64] = values.astype(np.float64)
        if self.scales is not None:
            exact *= self.scales[rows].astype(np.float64)[:, None]
        return exact


def quantise(vectors: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round vectors ``[n, dim]`` to int8 ``[n, dim]`` and scales float32 ``[n]``; zeros have the scale 0."""
    scales = (np.abs(vectors).max(axis=1, initial=0) / _LARGEST_INT8).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1))
    rounded = np.clip(np.rint(vectors / divisors[:, None]), -_LARGEST_INT8, _LARGEST_INT8)
    return rounded.astype(np.int8), scales


def inner_products(
    vectors: StoredVectors, rows: NDArray[np.int64], queries: NDArray[np.float32], owners: NDArray[np.int64]
) -> NDArray[np.float32]:
    """float32 ``[n]``: the inner product of vector ``rows[i]`` and ``queries[owners[i]]``, summed in float64.

    A query at a time, which stays in the cache: with a copy of the query beside every vector this took four times as
    long at 6656 numbers (measured).
    """
    scores = np.empty(len(rows), dtype=np.float32)
    for owner, some in by_owner(owners, 8 * queries.shape[1]):
        # Cast before einsum: its own casting buffers would cut a row's sum at a place that depends on the others.
        scores[some] = np.einsum("nd,d->n", vectors.exact(rows[some]), queries[owner].astype(np.float64))
    return scores


def by_owner(owners: NDArray[np.int64], row_bytes: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each query of some pairs, int64 ``[n]``, with the indices of as many of its pairs as fit a piece of memory.

    Args:
        owners: The query of each pair.
        row_bytes: Bytes that a pair's row takes.
    """
    order = np.argsort(owners, kind="stable")
    step = max(1, _PAIR_BYTES // max(1, row_bytes))
    for some in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
        for start in range(0, len(some), step):
            piece = some[start : start + step]
            yield int(owners[piece[0]]), piece


def split_products(
    vectors: StoredVectors, rows: NDArray[np.int64], query: NDArray[np.float32], starts: Sequence[int]
) -> NDArray[np.float32]:
    """float32 ``[n, len(starts)]``: inner products of some vectors with one query, divided at some columns.

    Args:
        vectors: The stored vectors.
        rows: int64 ``[n]``, which of them.
        query: float32 ``[dim]``.
        starts: The column at which each share begins, ascending, the first 0.
    """
    shares = np.empty((len(rows), len(starts)), dtype=np.float32)
    step = max(1, _PAIR_BYTES // (8 * len(query)))
    for start in range(0, len(rows), step):
        piece = slice(start, start + step)
        shares[piece] = np.add.reduceat(vectors.exact(rows[piece]) * query, starts, axis=1)
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
