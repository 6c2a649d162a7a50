"""Retrieval metrics of text-based person search, exact, in chunks, without sorting a gallery.

A query's ranking enters the metrics only through the ranks of its relevant items, and a rank is a count: how many
scores lie above. So each chunk of the similarity matrix is counted and thrown away, O(chunk · gallery) memory.

Ties are bounded instead of left to a sort: *pessimistic* ranks put every irrelevant item with the same score before a
relevant one, *optimistic* ranks after it. Two average precisions are in use in the field, and a table that mixes
them is wrong by points:

- standard (IRRA, TBPS-CLIP, RaSa, APTM): AP = (1/R) Σ_i i / r_i over the relevant ranks r_1 < … < r_R
- trapezoid (SSAN, LGUR, TIPCB, PLIP): AP = (1/R) Σ_i [(i−1)/(r_i−1) + i/r_i] / 2, first term 1 where r_i = 1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import UsageError

__all__ = [
    "KS",
    "Bound",
    "QueryMetrics",
    "RetrievalMetrics",
    "average_precision",
    "query_metrics",
    "rank_metrics",
    "retrieval_metrics",
]

KS = (1, 5, 10)
CHUNK = 256

# Comparing a row with each relevant score costs one pass per score; from about here on one sort costs less.
_SORT_FROM = 64

Scores = NDArray[np.floating[Any]]
ScoreBlock = Callable[[int, int], Scores]


@dataclass(frozen=True)
class Bound:
    """Metrics under one treatment of ties, all in percent.

    Attributes:
        recall: R@k by k: the share of queries with a relevant item among the first k.
        map_standard: Mean of the standard average precision.
        map_trapezoid: Mean of the trapezoid one; never above the standard one.
        minp: Mean of R / r_R, the inverse negative penalty of the hardest relevant item.
    """

    recall: dict[int, float]
    map_standard: float
    map_trapezoid: float
    minp: float

    def named(self) -> dict[str, float]:
        """The metrics by the field's names, in percent; ``mAP`` is the standard one."""
        recall = {f"R@{k}": value for k, value in self.recall.items()}
        return {**recall, "mAP": self.map_standard, "mAP (trapezoid)": self.map_trapezoid, "mINP": self.minp}


@dataclass(frozen=True)
class RetrievalMetrics:
    """What a set of queries found in a gallery.

    Attributes:
        pessimistic: Ties lost; the headline, and what gates use.
        optimistic: Ties won.
        queries: Queries that have a relevant item; the metrics are means over these.
        unmatched: Queries without one, counted and left out of the means.
        gallery: Items searched.
    """

    pessimistic: Bound
    optimistic: Bound
    queries: int
    unmatched: int
    gallery: int

    def headline(self) -> dict[str, float]:
        """The metrics by the field's names, ties lost, in percent."""
        return self.pessimistic.named()

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; a metric without any query that could count is null."""
        bounds = {
            side: {name: None if math.isnan(value) else value for name, value in bound.named().items()}
            for side, bound in (("pessimistic", self.pessimistic), ("optimistic", self.optimistic))
        }
        return {**bounds, "queries": self.queries, "unmatched": self.unmatched, "gallery": self.gallery}


@dataclass(frozen=True)
class QueryMetrics:
    """The metrics of each query by itself, ties lost; their means are `RetrievalMetrics.headline`.

    Attributes:
        names: The field's names, as `Bound.named` has them.
        values: float64 ``[m, len(names)]``, in percent, of the m queries that have a relevant item.
        indices: int64 ``[m]``, ascending: which queries these are.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    indices: NDArray[np.int64]


def retrieval_metrics(
    queries: Scores,
    gallery: Scores,
    query_identities: NDArray[np.integer[Any]],
    gallery_identities: NDArray[np.integer[Any]],
    *,
    chunk: int = CHUNK,
) -> RetrievalMetrics:
    """Rank a gallery for every query by inner product, and measure.

    Args:
        queries: Floating-point ``[q, dim]``.
        gallery: Floating-point ``[g, dim]``.
        query_identities: Integer ``[q]``.
        gallery_identities: Integer ``[g]``.
        chunk: Queries whose scores are held at once, per thread.

    Raises:
        UsageError: The sizes do not fit, or a score is NaN.
    """
    block = _inner_products(queries, gallery, query_identities, gallery_identities)
    return rank_metrics(block, query_identities, gallery_identities, chunk=chunk)


def query_metrics(
    queries: Scores,
    gallery: Scores,
    query_identities: NDArray[np.integer[Any]],
    gallery_identities: NDArray[np.integer[Any]],
    *,
    chunk: int = CHUNK,
) -> QueryMetrics:
    """As `retrieval_metrics`, each query by itself: what paired comparisons of two models need.

    Raises:
        UsageError: The sizes do not fit, or a score is NaN.
    """
    block = _inner_products(queries, gallery, query_identities, gallery_identities)
    measured = _measure_all(block, query_identities, gallery_identities, KS, chunk, None)
    rows = [lost for _, (lost, _) in measured]
    return QueryMetrics(
        names=tuple(_mean([], KS).named()),
        values=100 * np.array(rows, dtype=np.float64).reshape(len(rows), len(KS) + 3),
        indices=np.array([index for index, _ in measured], dtype=np.int64),
    )


def rank_metrics(
    block: ScoreBlock,
    query_identities: NDArray[np.integer[Any]],
    gallery_identities: NDArray[np.integer[Any]],
    *,
    ks: Sequence[int] = KS,
    chunk: int = CHUNK,
    threads: int | None = None,
) -> RetrievalMetrics:
    """Measure rankings given by blocks of scores, whatever made them.

    Args:
        block: From a range of queries ``(start, stop)`` to their scores ``[stop − start, g]``, higher is nearer.
            It is called from several threads at once.
        query_identities: Integer ``[q]``.
        gallery_identities: Integer ``[g]``.
        ks: The k of Rank-k.
        chunk: Queries per block of scores.
        threads: CPU threads; the usable cores when None.

    Raises:
        UsageError: A score is NaN.
    """
    measured = [query for _, query in _measure_all(block, query_identities, gallery_identities, ks, chunk, threads)]
    bounds = [_mean([query[side] for query in measured], ks) for side in (0, 1)]
    return RetrievalMetrics(
        pessimistic=bounds[0],
        optimistic=bounds[1],
        queries=len(measured),
        unmatched=len(query_identities) - len(measured),
        gallery=len(gallery_identities),
    )


def average_precision(ranks: NDArray[np.integer[Any]]) -> tuple[float, float]:
    """The standard and the trapezoid average precision of relevant ranks, ascending and counted from 1."""
    count = np.arange(1, len(ranks) + 1)
    precision = count / ranks
    before = np.where(ranks == 1, 1.0, (count - 1) / np.maximum(ranks - 1, 1))
    return float(precision.mean()), float(((before + precision) / 2).mean())


_TwoBounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def _inner_products(
    queries: Scores,
    gallery: Scores,
    query_identities: NDArray[np.integer[Any]],
    gallery_identities: NDArray[np.integer[Any]],
) -> ScoreBlock:
    """Blocks of scores; raises UsageError when the sizes do not fit."""
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise UsageError(f"queries are {queries.shape} and the gallery {gallery.shape}: want [q, dim] and [g, dim]")
    if len(queries) != len(query_identities) or len(gallery) != len(gallery_identities):
        raise UsageError(
            f"{len(queries)} queries with {len(query_identities)} identities and {len(gallery)} gallery items "
            f"with {len(gallery_identities)}: want one identity each"
        )
    columns = np.ascontiguousarray(gallery.astype(np.float32, copy=False).T)

    def block(start: int, stop: int) -> Scores:
        scores: Scores = queries[start:stop].astype(np.float32, copy=False) @ columns
        return scores

    return block


def _measure_all(
    block: ScoreBlock,
    query_identities: NDArray[np.integer[Any]],
    gallery_identities: NDArray[np.integer[Any]],
    ks: Sequence[int],
    chunk: int,
    threads: int | None,
) -> list[tuple[int, _TwoBounds]]:
    """The queries that have a relevant item, in order, each with what was measured of it."""
    from tbps_infer.cores import usable_cores

    order = np.argsort(gallery_identities, kind="stable")
    ordered = np.asarray(gallery_identities)[order]
    first = np.searchsorted(ordered, query_identities, side="left")
    last = np.searchsorted(ordered, query_identities, side="right")
    starts = range(0, len(query_identities), chunk)

    def measure(start: int) -> list[tuple[int, _TwoBounds]]:
        scores = block(start, min(start + chunk, len(query_identities)))
        if np.isnan(scores).any():
            raise UsageError(
                "A similarity is NaN.", "Verify the model: tbps export does, on real crops and captions."
            )
        return [
            (start + i, _measure_query(row, order[first[start + i] : last[start + i]], ks))
            for i, row in enumerate(scores)
            if first[start + i] < last[start + i]
        ]

    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        return [query for part in pool.map(measure, starts) for query in part]


def _measure_query(row: Scores, relevant: NDArray[np.intp], ks: Sequence[int]) -> _TwoBounds:
    """R@k…, both average precisions and INP of one query, ties lost and ties won."""
    own = np.sort(row[relevant])[::-1]
    above, level = _counts(row, own)
    # own is descending, so what precedes each score among its own kind follows from its place.
    own_above = np.searchsorted(-own, -own, side="left")
    own_level = np.searchsorted(-own, -own, side="right") - own_above
    place = np.arange(1, len(own) + 1)
    best = place + (above - own_above)
    worst = best + (level - own_level)
    return _of_ranks(worst, ks), _of_ranks(best, ks)


def _counts(row: Scores, own: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many scores of a row lie above, and how many level with, each of some of its scores."""
    if len(own) >= _SORT_FROM:
        ascending = np.sort(row)
        right = np.searchsorted(ascending, own, side="right")
        return len(row) - right, right - np.searchsorted(ascending, own, side="left")
    # Nothing below the least relevant score counts, and with a good model that is most of the gallery.
    near = row[row >= own[-1]]
    above = np.array([np.count_nonzero(near > score) for score in own])
    return above, np.array([np.count_nonzero(near == score) for score in own])


def _of_ranks(ranks: NDArray[np.int64], ks: Sequence[int]) -> NDArray[np.float64]:
    hits = [float(ranks[0] <= k) for k in ks]
    return np.array([*hits, *average_precision(ranks), len(ranks) / ranks[-1]])


def _mean(rows: list[NDArray[np.float64]], ks: Sequence[int]) -> Bound:
    values = 100 * np.mean(rows, axis=0) if rows else np.full(len(ks) + 3, np.nan)
    standard, trapezoid, minp = (float(value) for value in values[len(ks) :])
    return Bound({k: float(value) for k, value in zip(ks, values, strict=False)}, standard, trapezoid, minp)
