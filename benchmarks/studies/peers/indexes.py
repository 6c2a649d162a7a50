"""Exact search in the same vectors: faiss and usearch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError

__all__ = ["Search", "open_faiss", "open_usearch"]

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""Queries, float32 ``[m, dim]``, to the rows of their best hits, ``[m, k]``, best first."""


def open_faiss(vectors: NDArray[np.float32], k: int, threads: int) -> Search:
    """Open faiss' flat index of inner products, float32. Raises BackendError when it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise BackendError(f"faiss cannot be imported: {error}.") from error
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(threads)
        rows: NDArray[np.int64] = index.search(queries, k)[1]
        return rows

    return search


def open_usearch(vectors: NDArray[np.float32], k: int, threads: int) -> Search:
    """Open usearch's exact search of float16 rows. Raises BackendError when it is not installed."""
    try:
        from usearch.index import MetricKind, search
    except ImportError as error:
        raise BackendError(f"usearch cannot be imported: {error}.") from error
    half = vectors.astype(np.float16)

    def find(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        matches = search(half, queries.astype(np.float16), k, MetricKind.IP, exact=True, threads=threads)
        return np.asarray(matches.keys, np.int64).reshape(len(queries), -1)

    return find
