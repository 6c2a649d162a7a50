"""Hits of one query or of several, of one gallery or of several, in one order: exact, whatever is combined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery import Hit, SearchOptions, StoredGallery
from tbps_infer.gallery.search.rows import Selection

__all__ = ["Found", "best_of", "lowest_of", "stacks"]

Found = tuple[str, Hit]
"""A hit and the gallery that it is of."""

_MORE = 4
_MOST_VECTORS = 2048
# Scores are rounded to float32, whose step at a score of 3 is 2.4e-7.
_ROUNDING = 1e-6


def best_of(lists: Iterable[Sequence[Found]], k: int, *, per_id: bool) -> list[Found]:
    """The k best of some lists, each of which holds the k best by one query or of one gallery.

    A record comes once, with its highest score; with `per_id` an identity of a gallery does.
    """
    merged = sorted((found for each in lists for found in each), key=lambda found: -found[1].score)
    best: dict[object, Found] = {}
    for found in merged:
        best.setdefault(_whose(found, per_id), found)
        if len(best) == k:
            break
    return list(best.values())


def lowest_of(
    gallery: StoredGallery, selection: Selection, queries: NDArray[np.float32], k: int, options: SearchOptions
) -> list[Hit]:
    """The k records whose lowest score over some queries is highest; each with that score. It is exact.

    All lowest scores are computed with a known error. The records are then scored exactly, from the highest on, until
    the next one cannot be among the k best even if its score is off by that.

    Args:
        gallery: Where to search.
        selection: Its records that are searched.
        queries: float32 ``[n, dim]``.
        k: How many.
        options: How to search; `per_id` returns the best record of each of k identities.
    """
    estimates, error = gallery.lowest_scores(queries, selection)
    order = np.argsort(-estimates, kind="stable")
    best: dict[object, tuple[float, int]] = {}
    done, asked = 0, _MORE * k
    while True:
        for record, score in _lowest(gallery, selection.records[order[done:asked]], queries):
            whose = _identity(gallery, record) if options.per_id else record
            best[whose] = max(best.get(whose, (-np.inf, 0)), (score, -record))
        done = min(asked, len(order))
        ordered = sorted(best.values(), reverse=True)[:k]
        if done == len(order) or (len(ordered) == k and ordered[-1][0] > estimates[order[done]] + error + _ROUNDING):
            break
        asked = done + min((_MORE - 1) * done, _MOST_VECTORS)
    smallest = -np.inf if options.min_score is None else options.min_score
    hits = _hits(gallery, np.array([-record for _, record in ordered], dtype=np.int64), queries, options)
    return [hit for hit in hits if hit.score >= smallest]


def _lowest(
    gallery: StoredGallery, records: NDArray[np.int64], queries: NDArray[np.float32]
) -> Iterable[tuple[int, float]]:
    """Some records with their lowest scores over some queries, from their vectors as they are stored."""
    for start in range(0, len(records), _MOST_VECTORS):
        some = records[start : start + _MOST_VECTORS]
        scores = gallery.vectors_of(some).astype(np.float64) @ queries.T.astype(np.float64)
        yield from zip(some.tolist(), scores.min(axis=1).tolist(), strict=True)


def _identity(gallery: StoredGallery, record: int) -> object:
    identity = gallery.details(np.array([record], dtype=np.int64))[record].metadata.get("id")
    return record if identity is None else str(identity)


def _hits(
    gallery: StoredGallery, records: NDArray[np.int64], queries: NDArray[np.float32], options: SearchOptions
) -> list[Hit]:
    """Some records as hits of the query that each scores lowest with, best first."""
    lowest: dict[int, Hit] = {}
    plain, selection = replace(options, per_id=False, min_score=None), gallery.selection(np.sort(records))
    for hits in gallery.search_with_report(queries, max(1, len(records)), selection, plain).hits:
        for hit in hits:
            if hit.record not in lowest or hit.score < lowest[hit.record].score:
                lowest[hit.record] = hit
    return sorted(lowest.values(), key=lambda hit: (-hit.score, hit.record))


def stacks(galleries: Mapping[str, StoredGallery], found: Sequence[Found], cosine: float) -> list[int | None]:
    """For each hit the place of the one before that its stored vector is most like, with at least such a cosine.

    Who is on a stack begins none, so that nobody is on a stack of a picture that is not like theirs.
    """
    directions = _directions(galleries, found)
    on: list[int | None] = []
    first: list[int] = []
    for place, direction in enumerate(directions):
        cosines = directions[first] @ direction
        begun = first[int(cosines.argmax())] if first and cosines.max() >= cosine else None
        on.append(begun)
        if begun is None:
            first.append(place)
    return on


def _directions(galleries: Mapping[str, StoredGallery], found: Sequence[Found]) -> NDArray[np.float32]:
    """float32 ``[n, dim]``: the stored vectors of hits, of length 1."""
    vectors: list[NDArray[np.float32] | None] = [None] * len(found)
    for name, gallery in galleries.items():
        places = [place for place, each in enumerate(found) if each[0] == name]
        stored = gallery.vectors_of(np.array([found[place][1].record for place in places], dtype=np.int64))
        for place, vector in zip(places, stored, strict=True):
            vectors[place] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return np.stack([vector for vector in vectors if vector is not None]) if found else np.empty((0, 1), np.float32)


def _whose(found: Found, per_id: bool) -> object:
    gallery, hit = found
    identity = hit.metadata.get("id") if per_id else None
    return (gallery, hit.record) if identity is None else (gallery, "id", str(identity))
