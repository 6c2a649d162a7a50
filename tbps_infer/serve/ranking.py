"""Hits of one query or of several, of one gallery or of several, in one order: exact, whatever is combined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery import Gallery, Hit, SearchOptions
from tbps_infer.serve.failures import RefusedError

__all__ = ["Found", "best_of", "lowest_of", "stacks"]

Found = tuple[str, Hit]
"""A hit and the gallery that it is of."""

Search = Callable[[NDArray[np.float32], int, NDArray[np.int64] | None, SearchOptions], Sequence[Sequence[Hit]]]
"""Queries float32 ``[n, dim]``, how many hits, which records, and how; the hits of each query."""

_MORE = 4
_MOST_CANDIDATES = 4096
# Scores are rounded to float32, whose step at a score of 3 is 2.4e-7; the average of some is off by less than this.
_ROUNDING = 1e-5


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


def lowest_of(search: Search, queries: NDArray[np.float32], k: int, options: SearchOptions) -> list[Hit]:
    """The k records whose lowest score over some queries is highest; each with that score.

    No lowest score exceeds the average of the scores, which is the score of the average query. So records are taken
    by that, more and more, until the next one's average is below the k-th lowest score that was found: a threshold
    algorithm (Fagin, Lotem and Naor, 2003), whose result is exact.

    Args:
        search: Searches one gallery.
        queries: float32 ``[n, dim]``.
        k: How many.
        options: How to search; `per_id` returns the best record of each of k identities.

    Raises:
        RefusedError: 422, when the queries have so little in common that thousands of records would have to be read.
    """
    average = queries.astype(np.float64).mean(axis=0).astype(np.float32)[None]
    plain = replace(options, per_id=False, min_score=None)
    asked = min(_MORE * k, _MOST_CANDIDATES)
    while True:
        candidates = search(average, asked, None, plain)[0]
        records = np.sort(np.array([hit.record for hit in candidates], dtype=np.int64))
        lowest: dict[int, Hit] = {}
        for hits in search(queries, max(1, len(records)), records, plain):
            for hit in hits:
                known = lowest.get(hit.record)
                if known is None or hit.score < known.score:
                    lowest[hit.record] = hit
        ordered = sorted(lowest.values(), key=lambda hit: (-hit.score, hit.record))
        best = [hit for _, hit in best_of([[("", hit) for hit in ordered]], k, per_id=options.per_id)]
        exhausted = len(candidates) < asked
        if exhausted or (len(best) == k and best[-1].score >= candidates[-1].score + _ROUNDING):
            smallest = -np.inf if options.min_score is None else options.min_score
            return [hit for hit in best if hit.score >= smallest]
        if asked == _MOST_CANDIDATES:
            raise RefusedError(
                422,
                f"The {len(queries)} sentences have too little in common to rank pictures by all of them.",
                "Say in one sentence what belongs together, or search for any of them.",
            )
        asked = min(_MORE * asked, _MOST_CANDIDATES)


def stacks(galleries: Mapping[str, Gallery], found: Sequence[Found], cosine: float) -> list[int | None]:
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


def _directions(galleries: Mapping[str, Gallery], found: Sequence[Found]) -> NDArray[np.float32]:
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
