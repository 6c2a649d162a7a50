"""What the model's thread is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery import Hit, SearchOptions
from tbps_infer.queries import RocchioWeights

__all__ = ["Combination", "PartExample", "Place", "SearchAnswer", "SearchJob"]

Combination = Literal["mean", "any", "all"]
"""How several sentences make one score: that of their average, the highest of theirs, or the lowest."""

_AS_USUAL = SearchOptions()
_USUAL_WEIGHTS = RocchioWeights()


class Place(NamedTuple):
    """A record of one of a server's galleries."""

    gallery: str
    record: int


class PartExample(NamedTuple):
    """Some segments of a record's stored vector as an example; the others are zero."""

    place: Place
    segments: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SearchJob:
    """One search.

    Attributes:
        texts: Sentences.
        crops: uint8 ``[n, height, width, 3]`` of the model's size: example pictures, averaged with `like`, `parts`.
        like: Records whose stored embeddings are example pictures, too; they are left out of the hits.
        parts: Parts of records, likewise.
        exclude: What is subtracted.
        image_weight: The pictures' share beside sentences.
        exclude_weight: How much is subtracted.
        combine: How several sentences make one score.
        relevant: Records that were judged right.
        not_relevant: Records that were judged wrong.
        rocchio: What the query and these judgements weigh.
        part_weights: Factors of the segments' shares of a score, by name; 1 where there is none.
        k: Hits.
        skip: How many of the best to leave out, for who has seen them.
        galleries: Where to search; empty is the first gallery.
        records: int64 ``[n]`` per gallery, numbers of the records to search, ascending; None is all.
        options: How to search.
        alike: Hits whose stored vectors have at least this cosine are stacked; None stacks none.
        keep_like: Whether the records of `like` may be among the hits.
    """

    texts: tuple[str, ...] = ()
    crops: NDArray[np.uint8] | None = None
    like: tuple[Place, ...] = ()
    parts: tuple[PartExample, ...] = ()
    exclude: tuple[str, ...] = ()
    image_weight: float = 0.5
    exclude_weight: float = 0.5
    combine: Combination = "mean"
    relevant: tuple[Place, ...] = ()
    not_relevant: tuple[Place, ...] = ()
    rocchio: RocchioWeights = _USUAL_WEIGHTS
    part_weights: Mapping[str, float] = field(default_factory=dict)
    k: int = 10
    skip: int = 0
    galleries: tuple[str, ...] = ()
    records: Mapping[str, NDArray[np.int64]] | None = None
    options: SearchOptions = _AS_USUAL
    alike: float | None = None
    keep_like: bool = False

    @property
    def depth(self) -> int:
        """How many of the best have to be known."""
        left_out = 0 if self.keep_like else len(self.like) + len(self.parts)
        return self.skip + self.k + left_out


@dataclass(frozen=True)
class SearchAnswer:
    """What was found.

    Attributes:
        hits: Best first.
        galleries: Which gallery each is of.
        stacks: The rank, from 0 and those that were skipped included, of the better hit that each looks like; None
            where there is none.
        most: The most that each segment can give to a score of this query.
        searched: How many records passed the filter.
        method: How they were searched.
        encode_ms: What encoding the batch took.
        search_ms: What searching for it took.
    """

    hits: tuple[Hit, ...]
    galleries: tuple[str, ...]
    stacks: tuple[int | None, ...]
    most: Mapping[str, float]
    searched: int
    method: str
    encode_ms: float = 0.0
    search_ms: float = 0.0
