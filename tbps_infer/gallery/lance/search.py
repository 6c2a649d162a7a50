"""Searching a dataset: a scan, exact as in a folder, or the index, whose candidates are scored exactly.

A scan multiplies the vectors that Lance reads, some megabytes at a time, by the methods of
`tbps_infer.gallery.search.scan`, whose bound on the error of a product is proven. So nothing rests on Lance's own
arithmetic, and many queries share one pass. The index only proposes rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.lance.conditions import join
from tbps_infer.gallery.lance.table import VECTOR, vectors_of
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import ScanOptions, top_k
from tbps_infer.gallery.vectors import StoredVectors, inner_products

__all__ = ["METRIC", "Best", "nearest", "read_vectors", "scan"]

METRIC = "dot"
_BATCH_BYTES = 16 << 20


class Best(NamedTuple):
    """The best rows of a query, best first, equal scores by id: ids int64 ``[n]`` and scores float32 ``[n]``."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


def read_vectors(
    dataset: Any, conditions: Sequence[str | None], row_bytes: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Row ids and vectors ``[n, dim]`` of the rows that satisfy one of some conditions, in no order."""
    rows = max(16, _BATCH_BYTES // row_bytes)
    for condition in conditions:
        scanner = dataset.scanner(
            columns=[VECTOR], with_row_id=True, filter=condition, batch_size=rows, scan_in_order=False
        )
        for batch in scanner.to_batches():
            if len(batch):
                yield batch.column("_rowid").to_numpy().astype(np.int64), vectors_of(batch)


def scan(
    rows: Iterable[tuple[NDArray[np.int64], NDArray[Any]]],
    queries: NDArray[np.float32],
    k: int,
    max_norm: float,
    threads: int | None = None,
) -> list[Best]:
    """The k best rows of each query, exact.

    Raises:
        DamagedVectorsError: Stored numbers are damaged.
    """
    ids = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for numbers, vectors in rows:
        order = Rows.of(np.argsort(numbers, kind="stable"))  # equal scores are decided in the order of ids
        found = top_k(
            StoredVectors(vectors), order, queries, k, max_norm=max_norm, options=ScanOptions(threads=threads)
        )
        ids = np.concatenate([ids, numbers[order.numbers[found.indices]]], axis=1)
        scores = np.concatenate([scores, found.scores], axis=1)
        best = np.lexsort((ids, -scores), axis=-1)[:, :k]
        ids, scores = np.take_along_axis(ids, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return [Best(*each) for each in zip(ids, scores, strict=True)]


def nearest(
    dataset: Any, query: NDArray[np.float32], k: int, condition: str | None, *, probes: int, candidates: int
) -> Best:
    """The k best of the rows that the index proposes for a query, with exact scores."""
    table = dataset.scanner(
        columns=[VECTOR, "_distance"],
        with_row_id=True,
        filter=join([condition]),
        prefilter=True,
        nearest={
            "column": VECTOR,
            "q": query,
            "k": max(k, candidates),
            "nprobes": probes,
            "metric": METRIC,
        },
    ).to_table()
    ids = table.column("_rowid").to_numpy().astype(np.int64)
    vectors = StoredVectors(vectors_of(table)) if len(ids) else None
    if vectors is None:
        return Best(ids, np.empty(0, dtype=np.float32))
    scores = inner_products(vectors, np.arange(len(ids)), query[None], np.zeros(len(ids), dtype=np.int64))
    order = np.lexsort((ids, -scores))[:k]
    return Best(ids[order], scores[order])
