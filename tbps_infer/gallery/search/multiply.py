"""Products of a block of stored vectors with every query at once, with a proven bound on their error.

Two ways, chosen by what was measured (docs/search.md): NumKong's SIMD products read float16 and int8 as they are
stored, without a float32 copy; NumPy's BLAS does float32, and everything where NumKong is not installed. The way
changes the time only: products select candidates, which are scored again in float64.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.vectors import quantise, to_float32

__all__ = [
    "ROUNDOFF",
    "Int8Pairs",
    "Multiplier",
    "multiplier_for",
    "norms_of",
    "numkong_usable",
    "one_blas_thread",
    "sum_error",
]

ROUNDOFF = 2.0**-24
"""Unit roundoff of float32."""


class Multiplier(Protocol):
    """Multiplies blocks with some queries; used by one thread at a time.

    Attributes:
        error: float64 ``[q]``: for a stored row x, a product differs from the exact one by ``error * |x|`` at most.
        working_bytes: Bytes per number that a block takes in the cache.
        uses_blas: Whether it calls BLAS, which has threads of its own.
    """

    error: NDArray[np.float64]
    working_bytes: int
    uses_blas: bool

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Stored ``[n, dim]`` to float32 ``[n, q]``."""

    def for_thread(self) -> Multiplier:
        """One for another thread, with the same queries: this one, where it keeps nothing between two calls."""


def multiplier_for(queries: NDArray[np.float32], dtype: np.dtype[Any], *, numkong: bool | None = None) -> Multiplier:
    """The multiplier for stored numbers of a type, by NumKong where `numkong` says so; None is where it is usable."""
    if dtype == np.float32 or not (numkong_usable() if numkong is None else numkong):
        return _NumpyMultiplier(queries)
    return _HalfMultiplier(queries) if dtype == np.float16 else _Int8Multiplier(queries)


def sum_error(dim: int, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounding error of an inner product in float32, per unit of the other vector's norm.

    |computed - exact| <= gamma(dim) sum|x_i q_i| <= gamma(dim) |x||q| for any order of summation (Higham, Accuracy
    and Stability of Numerical Algorithms, 3.1); 4 more for rounding operands and results once.
    """
    return (dim + 4) * ROUNDOFF * 1.01 * norms


def norms_of(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Euclidean norms float64 ``[n]`` of vectors ``[n, dim]``."""
    exact = vectors.astype(np.float64, copy=False)
    norms: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", exact, exact))  # linalg.norm takes ten times as long
    return norms


class _NumpyMultiplier:
    """A float32 copy of the block, and BLAS."""

    def __init__(self, queries: NDArray[np.float32]) -> None:
        self._transposed = np.ascontiguousarray(queries.T)
        self.error = sum_error(queries.shape[1], norms_of(queries))
        self.working_bytes = 4
        self.uses_blas = True
        self._buffer = np.empty((0, queries.shape[1]), dtype=np.float32)

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        if block.dtype != np.float32:
            if len(self._buffer) < len(block):
                self._buffer = np.empty(block.shape, dtype=np.float32)
            copy = self._buffer[: len(block)]
            if block.dtype == np.float16:
                block = to_float32(block, copy)
            else:
                np.copyto(copy, block)
                block = copy
        with np.errstate(invalid="ignore", over="ignore"):  # damaged numbers: the caller looks at the products
            products: NDArray[np.float32] = block @ self._transposed
        return products

    def for_thread(self) -> Multiplier:
        other = copy(self)
        other._buffer = self._buffer[:0].copy()
        return other


class _HalfMultiplier:
    """NumKong on float16 rows and queries rounded to float16; products and sums are float32."""

    def __init__(self, queries: NDArray[np.float32]) -> None:
        # Scaled by a power of two into the middle of float16's range, whatever the query's length.
        largest = np.abs(queries).max(axis=1, initial=0)
        exponents = np.clip(-np.frexp(largest)[1], -126, 126)  # both powers are normal numbers
        halves = (queries * np.ldexp(np.float32(1), exponents)[:, None]).astype(np.float16)
        self._unscale = np.ldexp(np.float32(1), -exponents)
        rounded = halves.astype(np.float64) * np.ldexp(1.0, -exponents)[:, None]
        self.error = norms_of(queries - rounded) + sum_error(queries.shape[1], norms_of(rounded))
        self.working_bytes = 2
        self.uses_blas = False
        self._product = _numkong_product(halves, "float16")

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore", over="ignore"):
            products: NDArray[np.float32] = np.multiply(
                self._product(block), self._unscale, dtype=np.float32, casting="unsafe"
            )
            return products

    def for_thread(self) -> Multiplier:
        return self


class _Int8Multiplier:
    """NumKong on int8 rows and queries rounded to int8; products are exact integers."""

    def __init__(self, queries: NDArray[np.float32]) -> None:
        values, self._scales = quantise(queries)
        rounded = values.astype(np.float64) * self._scales[:, None]
        self.error = norms_of(queries - rounded) + 4 * ROUNDOFF * norms_of(rounded)
        self.working_bytes = 1
        self.uses_blas = False
        self._product = _numkong_product(values, "int8")

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        products: NDArray[np.float32] = np.multiply(
            self._product(block), self._scales, dtype=np.float32, casting="unsafe"
        )
        return products

    def for_thread(self) -> Multiplier:
        return self


class Int8Pairs:
    """NumKong on int8 rows and a single query as the sum of two int8 vectors, the second 254 times as fine.

    Between a block's products, whose error is what rounding a query to int8 changes, and exact scores, which take
    twenty times as long as this (measured at 6656 numbers).

    Attributes:
        error: float64 ``[q]``: for a stored row x, an estimate differs from the exact product by ``error * |x|``.
    """

    def __init__(self, queries: NDArray[np.float32]) -> None:
        exact = queries.astype(np.float64)
        coarse, coarse_scales = quantise(queries)
        rounded = coarse * coarse_scales.astype(np.float64)[:, None]
        fine, fine_scales = quantise((exact - rounded).astype(np.float32))
        rounded += fine * fine_scales.astype(np.float64)[:, None]
        self._values = np.stack((coarse, fine), axis=1)
        self._scales = np.stack((coarse_scales, fine_scales), axis=1).astype(np.float64)
        self.error = norms_of(exact - rounded) + 4 * ROUNDOFF * norms_of(rounded)

    def __call__(self, rows: NDArray[np.int8], query: int) -> NDArray[np.float64]:
        """Estimates float64 ``[n]`` of the products of stored rows ``[n, dim]`` with one of the queries."""
        import numkong

        products: NDArray[np.float64] = np.asarray(numkong.cdist(rows, self._values[query], "dot"), dtype=np.float64)
        estimates: NDArray[np.float64] = products @ self._scales[query]
        return estimates


def _numkong_product(
    queries: NDArray[Any], dtype: Literal["float16", "int8"]
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """``[n, dim]`` to ``[n, q]``, in the type that NumKong sums in."""
    import numkong

    if len(queries) == 1:  # its packed product is for many: for one query it is three times slower (measured)
        # Its own float64 result: with a float32 `out` the same product took three times as long (measured).
        return lambda block: np.asarray(numkong.cdist(block, queries, "dot"))
    packed = numkong.dots_pack(queries, dtype=dtype)
    return lambda block: np.asarray(numkong.dots_packed(block, packed))


@cache
def numkong_usable() -> bool:
    """Whether NumKong is installed and keeps to the bounds that `Multiplier.error` states on this processor.

    They rest on float16 products being summed in float32 and int8 products in int32: true of every routine of the
    version this was written for, and looked at here because a wrong selection would show in no other way.
    """
    try:
        import numkong  # noqa: F401
    except ImportError:
        return False
    # Not numpy.random, whose import takes longer than all of this. Sums that grow large show a narrow accumulator.
    waves = np.sin(np.arange(40 * 700, dtype=np.float64) ** 1.5).reshape(40, 700)
    for stored in ((1.4 * waves + 1).astype(np.float16), np.rint(127 * waves).astype(np.int8)):
        for count in (1, 5):
            queries = (np.abs(waves[:count]) + 0.5).astype(np.float32)
            multiplier = multiplier_for(queries, stored.dtype, numkong=True)
            exact = stored.astype(np.float64) @ queries.T.astype(np.float64)
            allowed = norms_of(stored)[:, None] * multiplier.error
            if not (np.abs(multiplier(stored) - exact) <= allowed).all():
                return False
    rows, queries = np.rint(127 * waves).astype(np.int8), (waves[:3] + 0.5).astype(np.float32)
    pairs = Int8Pairs(queries)
    estimates = np.stack([pairs(rows, query) for query in range(len(queries))], axis=1)
    off = np.abs(estimates - rows.astype(np.float64) @ queries.T.astype(np.float64))
    return bool((off <= norms_of(rows)[:, None] * pairs.error).all())


_blas_lock = threading.Lock()
_blas_users = 0
_blas_before: Any = None


def _forget_blas_users() -> None:
    """In a child process: it has the lock, as it was, but not the threads that would give it back."""
    global _blas_lock, _blas_users
    _blas_lock, _blas_users = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_blas_users)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to the calling thread, in each of the threads that the search runs itself.

    Waking BLAS's threads for every block took longer than the block's product on a busy machine (measured). In some
    builds of OpenBLAS the setting is the process's, in others the calling thread's: so every thread sets it, and
    gives back what the first one of those now running found. Leaving by `__exit__` also gives up the say over the
    process's setting, which threadpoolctl leaves with one thread at a time.
    """
    from threadpoolctl import ThreadpoolController

    global _blas_users, _blas_before
    with _blas_lock:
        limit = ThreadpoolController().limit(limits=1, user_api="blas").__enter__()
        if _blas_users == 0:
            _blas_before = limit
        _blas_users += 1
        before = _blas_before
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            before.__exit__(None, None, None)
