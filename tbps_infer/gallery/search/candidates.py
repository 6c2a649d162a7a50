"""What decides which rows a search reads: bounds on their scores.

A first stage (`tbps_infer.gallery.search.scan.FirstStage`) goes through the rows that it covers and bounds the score
of each from below and above: the sketch by a few bytes per row, a device by products whose rounding error is known.
Rows that it does not cover, and all rows where there is none, are read and multiplied by the scan. The graph proposes
rows instead, and these are scored. A row stays a candidate while its upper bound reaches the k-th largest lower bound
of its query, and only candidates' vectors are read for exact scores, the most promising first.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.vectors import DamagedVectorsError

__all__ = ["Candidates", "Narrower", "Radius"]

Scorer = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
Radius = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
Narrower = Callable[[NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.float64]]]

# Pairs waiting to be merged, beyond what k asks for; and pairs kept, after which they are scored to be fewer.
_PENDING = 1 << 14
_KEPT = 1 << 20
# Pairs kept for every one asked for, beyond which exact scores of the best are worth what they cost: the floors rise
# from what these have at least to what they have.
_UNDECIDED = 4
# Rows of the first blocks, at least, that give a first floor: what it lets through is merged at once.
_SAMPLE = 1 << 10


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a query and a row; the score of pair i lies in [lower[i], upper[i]], and is known where they meet."""

    owner: NDArray[np.int64]
    index: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> _Pairs:
        return _Pairs(self.owner[chosen], self.index[chosen], self.lower[chosen], self.upper[chosen])


def _joined(parts: list[_Pairs]) -> _Pairs:
    return _Pairs(
        np.concatenate([part.owner for part in parts]),
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.lower for part in parts]),
        np.concatenate([part.upper for part in parts]),
    )


def _by_promise(pairs: _Pairs) -> _Pairs:
    """By query, the greatest upper bounds first."""
    return pairs.take(np.lexsort((-pairs.upper, pairs.owner)))


def _ranks(owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 ``[n]``: the place of each pair among those of its query, from 0; the queries are in ascending order."""
    ranks: NDArray[np.int64] = np.arange(len(owners)) - np.searchsorted(owners, owners)
    return ranks


def _require_order(*ascending: NDArray[np.float64]) -> None:
    if not all((low <= high).all() for low, high in itertools.pairwise(ascending)):
        raise DamagedVectorsError("A score lies beyond its bounds: stored numbers are damaged.")


class Candidates:
    """Collects candidates from several threads.

    A row stays as long as its upper bound reaches the k-th largest lower bound of its query: k other rows that are
    surely better are what it takes to drop it, so no row of the true k best is ever dropped, ties included.

    Args:
        queries: How many.
        k: How many rows each query is to get.
        score: Exact scores, float32, of queries (first) and rows (second).
        narrow: Estimates of their scores that cost less, and how far a score may lie from its estimate, both float64
            ``[n]``; None where there is nothing between a block's products and exact scores.

    Attributes:
        floors: float64 ``[q]``: no row with an upper bound below it is among the k best; -inf until k are known.
        scored: How many pairs were scored exactly, or estimated by `narrow`.
    """

    def __init__(self, queries: int, k: int, score: Scorer, narrow: Narrower | None = None) -> None:
        self.k = k
        self.floors = np.full(queries, -np.inf)
        self.scored = 0
        self._score = score
        self._narrow = narrow
        self._queries = queries
        nothing = np.empty(0, dtype=np.int64)
        self._kept = _Pairs(nothing, nothing, np.empty(0), np.empty(0))
        self._pending: list[_Pairs] = []
        self._pending_count = 0
        self._lock = threading.Lock()

    def add(
        self,
        positions: Callable[[NDArray[np.int64]], NDArray[np.int64]],
        tops: NDArray[np.float32],
        slack: NDArray[np.float64],
        radius: Radius | None = None,
    ) -> None:
        """Take in a block of rows.

        Args:
            positions: Tells the positions of some of its n rows, both int64 ``[m]``.
            tops: float32 ``[n, q]``, finite: estimates of the scores, with their radii added.
            slack: float64 ``[q]``: how far a score may lie from its estimate, beyond the radius.
            radius: Tells the radii, not negative, of some rows (first, of the n) and queries; None for zeros. They
                are asked for where it matters alone: for all pairs they took as long as the estimates (measured).
        """
        floors = self._with_own(tops, slack, radius)
        # Rounded down, and one further down: a sum's own rounding is in the slack, a comparison's is not.
        limits = np.nextafter((floors - slack).astype(np.float32), np.float32(-np.inf))
        found = np.flatnonzero(tops >= limits)
        if not len(found):
            return
        index, owner = np.divmod(found, self._queries)
        top = tops.reshape(-1)[found].astype(np.float64)
        bottom = top if radius is None else top - 2 * radius(index, owner)
        self._take(_Pairs(owner, positions(index), bottom - slack[owner], top + slack[owner]))

    def add_pairs(
        self,
        owner: NDArray[np.int64],
        positions: NDArray[np.int64],
        estimates: NDArray[np.float32],
        slack: NDArray[np.float64],
    ) -> None:
        """Take in single pairs of a query and a row, no pair twice.

        Args:
            owner: int64 ``[n]``, the queries.
            positions: int64 ``[n]``, the indices of the rows.
            estimates: float32 ``[n]``, finite.
            slack: float64 ``[q]``: how far a score may lie from its estimate.
        """
        middle, spread = estimates.astype(np.float64), slack[owner]
        self._take(_Pairs(owner, positions, middle - spread, middle + spread))

    def add_scored(self, owner: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Score single pairs, given as in `add_pairs`, and take them in."""
        scores = self._score(owner, positions).astype(np.float64)
        self._take(_Pairs(owner, positions, scores, scores))

    def _take(self, pairs: _Pairs) -> None:
        with self._lock:
            self._pending.append(pairs)
            self._pending_count += len(pairs)
            # At once as long as a query has no floor: every block after that is compared with it. Later as many as
            # were kept, for a merge sorts them all.
            due = max(_PENDING, 2 * self.k * self._queries, len(self._kept))
            if self._pending_count >= due or np.isneginf(self.floors).any():
                self._merge()

    def unsettled(self) -> int:
        """How many pairs have no known score."""
        self._merge()
        return int((self._kept.lower < self._kept.upper).sum())

    def take_rows(self, most: int | None) -> NDArray[np.int64]:
        """Take rows out whose scores are not known, with all their pairs, for whoever adds them again more precisely.

        Args:
            most: Of each query the rows with the greatest upper bounds, so many; None for all.

        Returns:
            Positions int64 ``[n]``, ascending.
        """
        self._merge()
        pairs = self._kept
        chosen = pairs.lower < pairs.upper
        if most is not None:
            pairs = _by_promise(pairs)
            chosen = (pairs.lower < pairs.upper) & (_ranks(pairs.owner) < most)
        rows = np.unique(pairs.index[chosen])
        taken = np.isin(pairs.index, rows)
        self.scored += int(taken.sum())
        self._kept = pairs.take(~taken)
        return rows

    def finish(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores float32 and row indices int64 ``[q, k]``, best first, equal scores by index; needs k rows or more.

        Rows are scored from the most promising down, until no other row's upper bound reaches the k-th score.
        """
        self._merge()
        pairs = _by_promise(self._kept)
        first = _ranks(pairs.owner) < self.k
        best = self._best(self._settled(pairs.take(first)))
        pairs = self._narrowed(pairs.take(~first & self._may_be_best(pairs)))
        done, size, rank = 0, self.k, _ranks(pairs.owner)
        while True:
            chosen = (rank >= done) & (rank < done + size) & self._may_be_best(pairs)
            if not chosen.any():
                break
            best = self._best(_joined([best, self._settled(pairs.take(chosen))]))
            done, size = done + size, 2 * size
        if len(best) != self.k * self._queries:
            raise DamagedVectorsError("Rows were lost to bounds that are no numbers: stored numbers are damaged.")
        shape = (self._queries, self.k)
        return best.lower.reshape(shape).astype(np.float32), best.index.reshape(shape)

    def _with_own(
        self, tops: NDArray[np.float32], slack: NDArray[np.float64], radius: Radius | None
    ) -> NDArray[np.float64]:
        """The floors, raised by the k-th best of the block's first rows where there is none yet."""
        floors = self.floors
        if len(tops) < self.k or not np.isneginf(floors).any():
            return floors
        lowest = tops[: max(_SAMPLE, 8 * self.k)].astype(np.float64)
        if radius is not None:
            lowest -= 2 * radius(np.arange(len(lowest))[:, None], np.arange(self._queries)[None])
        place = len(lowest) - self.k
        own = np.partition(lowest, place, axis=0)[place] - slack
        raised: NDArray[np.float64] = np.maximum(floors, own)
        return raised

    def _merge(self) -> None:
        """Raise the floors by what came in, and drop what lies below them."""
        if self._pending:
            pairs = _joined([self._kept, *self._pending])
            self._raise_floors(pairs)
            pairs = pairs.take(self._may_be_best(pairs))
            if len(pairs) > _UNDECIDED * self.k * self._queries:
                best = np.zeros(len(pairs), dtype=bool)
                best[self._raise_floors(pairs)] = True
                pairs = _joined([self._settled(pairs.take(best)), pairs.take(~best)])
                self._raise_floors(pairs)
                pairs = pairs.take(self._may_be_best(pairs))
            self._kept = pairs
            self._pending, self._pending_count = [], 0
            if len(self._kept) > max(_KEPT, 4 * self.k * self._queries):
                # Too much lies too close together: exact scores tell it apart, and k of each query remain.
                self._kept = self._best(self._settled(self._kept))

    def _raise_floors(self, pairs: _Pairs) -> NDArray[np.int64]:
        """Raise the floors to the k-th largest lower bounds; returns the indices of the k largest of each query."""
        # The others of the k have lower bounds at the floor or above it: so few are sorted.
        high = np.flatnonzero(pairs.lower >= self.floors[pairs.owner])
        high = high[np.lexsort((-pairs.lower[high], pairs.owner[high]))]
        rank = _ranks(pairs.owner[high])
        kth = high[rank == self.k - 1]
        floors = self.floors.copy()
        floors[pairs.owner[kth]] = pairs.lower[kth]
        self.floors = floors
        return high[rank < self.k]

    def _may_be_best(self, pairs: _Pairs) -> NDArray[np.bool_]:
        reached: NDArray[np.bool_] = pairs.upper >= self.floors[pairs.owner]
        return reached

    def _narrowed(self, pairs: _Pairs) -> _Pairs:
        """Those of some pairs that may still be among the best with narrower bounds, most promising first."""
        open_ones = np.flatnonzero(pairs.lower < pairs.upper)
        if self._narrow is None or not len(open_ones):
            return pairs
        self.scored += len(open_ones)
        estimates, error = self._narrow(pairs.owner[open_ones], pairs.index[open_ones])
        lower, upper = pairs.lower.copy(), pairs.upper.copy()
        lower[open_ones] = np.maximum(lower[open_ones], estimates - error)
        upper[open_ones] = np.minimum(upper[open_ones], estimates + error)
        _require_order(lower, upper)
        pairs = _Pairs(pairs.owner, pairs.index, lower, upper)
        return _by_promise(pairs.take(self._may_be_best(pairs)))

    def _settled(self, pairs: _Pairs) -> _Pairs:
        """The pairs with their exact scores for bounds."""
        open_ones = np.flatnonzero(pairs.lower < pairs.upper)
        self.scored += len(open_ones)
        scores = pairs.lower.copy()
        scores[open_ones] = self._score(pairs.owner[open_ones], pairs.index[open_ones])
        _require_order(pairs.lower, scores, pairs.upper)
        return _Pairs(pairs.owner, pairs.index, scores, scores)

    def _best(self, pairs: _Pairs) -> _Pairs:
        """Of pairs with exact scores, the k best of each query, in order; the floors rise to the k-th."""
        pairs = pairs.take(np.lexsort((pairs.index, -pairs.lower, pairs.owner)))
        rank = _ranks(pairs.owner)
        pairs, rank = pairs.take(rank < self.k), rank[rank < self.k]
        kth = np.flatnonzero(rank == self.k - 1)
        floors = self.floors.copy()
        floors[pairs.owner[kth]] = np.maximum(floors[pairs.owner[kth]], pairs.lower[kth])
        self.floors = floors
        return pairs
