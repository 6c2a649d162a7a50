"""Queries as the search's kernel takes them, and a proven bound on the error of its products.

The kernel (assets/scan/scan.cu) multiplies float16 numbers on tensor cores and sums them in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.search.multiply import ROUNDOFF, norms_of

__all__ = ["CHUNK_BYTES", "GROUP_SIZES", "KernelQueries", "power_of", "prepare_queries"]

CHUNK_BYTES = 64
"""Rows are padded to a multiple of this."""

GROUP_SIZES = (1, 4, 8)
"""How many times eight queries the kernel is compiled for."""

_LANES, _HALVES = 4, 4  # that share 64 bytes of a row, and columns of each in one multiplication
_SMALLEST_NORMAL = 2.0**-14  # of float16
_LARGEST_EXPONENT = 100  # keeps a factor back to the score a normal float32


@dataclass(frozen=True)
class KernelQueries:
    """Up to 64 queries.

    Attributes:
        groups: Of eight: one of `GROUP_SIZES`, 8 * groups the length of what follows, but for `slack`.
        fragments: float16 ``[chunks, steps, groups, 8, 4, 4]``, in the order in which lanes multiply.
        factors: float32: from a product of what is multiplied to the score.
        ceilings: float32: a larger product means damage. Infinite where there is no query.
        margins: float32: how far below the k-th best product a row is still of interest, at most.
        slack: float64 ``[q]``: how far a product may lie from the exact score.
    """

    groups: int
    fragments: NDArray[np.float16]
    factors: NDArray[np.float32]
    ceilings: NDArray[np.float32]
    margins: NDArray[np.float32]
    slack: NDArray[np.float64]


def power_of(dtype: np.dtype[Any], max_norm: float) -> int:
    """The exponent of the power of two that brings stored numbers below 2^15; 0 for int8, whose range is known."""
    return 0 if dtype == np.int8 else min(max(15 - math.frexp(max_norm)[1], -14), 15)


def prepare_queries(queries: NDArray[np.float32], dtype: np.dtype[Any], max_norm: float) -> KernelQueries:
    """Round queries to float16 for stored numbers of a type, and bound what that and the sums change.

    Args:
        queries: float32 ``[q, dim]``, finite, 64 at most.
        dtype: The type of a stored number.
        max_norm: A bound on the norm of every stored vector.
    """
    count = len(queries)
    groups = next(size for size in GROUP_SIZES if 8 * size >= count)
    exponents, halves = _rounded(queries)
    rounded = halves.astype(np.float64) * np.exp2(-exponents)[:, None]
    slack = max_norm * _relative_error(queries, rounded, dtype) + _absolute_error(rounded, dtype, max_norm)
    norms = norms_of(queries)

    def padded(values: NDArray[np.float64], rest: float) -> NDArray[np.float32]:
        whole = np.full(8 * groups, rest, dtype=np.float32)
        whole[:count] = values
        return whole

    return KernelQueries(
        groups,
        _fragments(halves, groups, CHUNK_BYTES // dtype.itemsize),
        padded(np.exp2(-exponents - power_of(dtype, max_norm)), 0),
        padded(max_norm * norms * 1.001 + slack, np.inf),
        np.nextafter(padded(2 * slack, 0), np.float32(np.inf)),
        slack,
    )


def _rounded(queries: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float16]]:
    """Exponents ``[q]``, and the queries times two to these in float16, the largest number in [2^13, 2^14).

    Numbers that are subnormal there become 0: mma may take them for it.
    """
    largest = np.abs(queries).max(axis=1, initial=0)
    exponents = np.where(largest > 0, np.minimum(14 - np.frexp(largest)[1], _LARGEST_EXPONENT), 0).astype(np.float64)
    halves = (queries.astype(np.float64) * np.exp2(exponents)[:, None]).astype(np.float16)
    halves[np.abs(halves) < _SMALLEST_NORMAL] = 0
    return exponents, halves


def _relative_error(
    queries: NDArray[np.float32], rounded: NDArray[np.float64], dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """float64 ``[q]``, for a stored vector of norm 1.

    A product of two float16 numbers is exact. An mma adds 16 of them, or 8, to a sum, in any order and rounding, each
    term with an error of 2^-23 of the largest at most: n terms in all give n (1 + 1/8) 2^-23 |x||q|. Eight more for
    what is rounded once: a scale, the score, the limits. A float32 number is the sum of two float16 numbers but for
    2^-22 of it, and gives two terms.
    """
    parts = 2 if dtype == np.float32 else 1
    terms = parts * queries.shape[1]
    summed = (1.125 * terms + 8) * 2 * ROUNDOFF * 1.01
    split = 4 * ROUNDOFF if parts == 2 else 0.0
    once = 4 * ROUNDOFF * norms_of(queries)
    error: NDArray[np.float64] = norms_of(queries - rounded) + (summed + split) * norms_of(rounded) + once
    return error


def _absolute_error(rounded: NDArray[np.float64], dtype: np.dtype[Any], max_norm: float) -> NDArray[np.float64]:
    """float64 ``[q]``: stored numbers that are subnormal float16 numbers when multiplied, each part of them lost."""
    power = power_of(dtype, max_norm)
    if dtype == np.int8 or (dtype == np.float16 and power >= 10):  # 2^-24, the smallest, becomes normal
        return np.zeros(len(rounded))
    lost = 2 * _SMALLEST_NORMAL * 2.0**-power * np.sqrt(rounded.shape[1])
    error: NDArray[np.float64] = lost * norms_of(rounded)
    return error


def _fragments(halves: NDArray[np.float16], groups: int, columns: int) -> NDArray[np.float16]:
    """A chunk of a row has some columns: its four lanes have a quarter each, of which four are multiplied at once."""
    count, dim = halves.shape
    chunks = -(-dim // columns)
    whole = np.zeros((8 * groups, chunks * columns), dtype=np.float16)
    whole[:count, :dim] = halves
    steps = columns // (_LANES * _HALVES)
    parts = whole.reshape(groups, 8, chunks, _LANES, steps, _HALVES)
    return np.ascontiguousarray(parts.transpose(2, 4, 0, 1, 3, 5))
