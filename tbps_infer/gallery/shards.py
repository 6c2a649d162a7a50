"""Several galleries of one model, searched as one: scores are exact, so that they are comparable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.search.queries import best_of_each
from tbps_infer.gallery.search.results import Hit, SearchOptions, SearchReport, SearchResult
from tbps_infer.gallery.times import read_moment
from tbps_infer.model_facts import ModelFacts

if TYPE_CHECKING:
    from tbps_infer.gallery.protocols import SearchableGallery

__all__ = ["GalleryShards"]

T = TypeVar("T")


class GalleryShards:
    """Galleries that are searched together; a context manager. Their hits name the gallery that they are from.

    Raises:
        ModelMismatchError: They were embedded by different models.
    """

    def __init__(
        self,
        shards: Mapping[str, SearchableGallery],
        problems: Mapping[str, GalleryError] | None = None,
        *,
        allow_partial: bool = False,
    ) -> None:
        """Take opened galleries by name, and what those that could not be opened raised."""
        self._shards = dict(shards)
        self._problems = dict(problems or {})
        self._allow_partial = allow_partial
        self._first = next(iter(self._shards.values()))
        for shard in self._shards.values():
            shard.require_model(self._first.model)
        self.path = ", ".join(self._shards)
        self.columns = tuple(dict.fromkeys(name for shard in self._shards.values() for name in shard.columns))
        self.count = sum(shard.count for shard in self._shards.values())

    def __enter__(self) -> GalleryShards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every shard."""
        with ExitStack() as stack:
            for shard in self._shards.values():
                stack.callback(shard.close)

    @property
    def model(self) -> ModelFacts:
        """The model whose embeddings they hold."""
        return self._first.model

    def require_model(self, model: ModelFacts) -> None:
        """Raise ModelMismatchError unless they were embedded by this very model."""
        self._first.require_model(model)

    def require_bundle(self) -> Path:
        """The bundle that the first whose bundle is there was embedded with; raises GalleryError where none is."""
        for shard in self._shards.values():
            try:
                return shard.require_bundle()
            except GalleryError:
                continue
        return self._first.require_bundle()

    def search(
        self,
        queries: NDArray[np.floating[Any]],
        k: int = 10,
        where: Filter | str | None = None,
        options: SearchOptions | None = None,
    ) -> list[list[Hit]]:
        """The hits of `search_with_report`."""
        return self.search_with_report(queries, k, where, options).hits

    def search_with_report(
        self,
        queries: NDArray[np.floating[Any]],
        k: int = 10,
        where: Filter | str | None = None,
        options: SearchOptions | None = None,
    ) -> SearchResult:
        """Search every shard, and merge what they find by scores; equal scores come in the order of the shards.

        Raises:
            GalleryError: A shard cannot be searched, and all are wanted, or no shard can.
            TbpsError: As a single gallery's search does.
        """
        options = options or SearchOptions()
        results = self._from_each(lambda shard: shard.search_with_report(queries, k, where, options))
        hits = []
        for number in range(len(next(iter(results.values())).hits)):
            found = [replace(hit, gallery=name) for name, result in results.items() for hit in result.hits[number]]
            found.sort(key=lambda hit: -hit.score)
            hits.append(best_of_each(found)[:k] if options.per_id else found[:k])
        return SearchResult(hits, self._merged({name: result.report for name, result in results.items()}))

    def _merged(self, reports: Mapping[str, SearchReport]) -> SearchReport:
        every = list(reports.values())
        read = [report.bytes_read for report in every]
        approximate = [f"{name}: {r.approximate}" for name, r in reports.items() if r.approximate is not None]
        return SearchReport(
            method=next(
                (r.method for r in every if r.approximate is not None or r.method == "graph"), every[0].method
            ),
            searched=sum(report.searched for report in every),
            unindexed=sum(report.unindexed for report in every),
            bytes_read=None if None in read else sum(each for each in read if each is not None),
            bytes_of_all=sum(report.bytes_of_all for report in every),
            device=next((report.device for report in every if report.device is not None), None),
            approximate="; ".join(approximate) or None,
            left_out=tuple(f"{name}: {error.message}" for name, error in self._problems.items()),
        )

    def passing(self, where: Filter) -> int:
        """How many records pass a filter."""
        return sum(self._from_each(lambda shard: shard.passing(where)).values())

    def values(self, column: str, most: int) -> list[str]:
        """The first different values of a metadata column, as text and in its order."""
        found = self._from_each(lambda shard: shard.values(column, most) if column in shard.columns else [])
        return sorted({value for values in found.values() for value in values})[:most]

    def first_and_last_time(self) -> tuple[Value, Value] | None:
        """The earliest and the latest time, as they are written in the metadata; None where no record has one."""
        found = self._from_each(lambda shard: shard.first_and_last_time())
        times = [time for pair in found.values() if pair is not None for time in pair]
        moments = {time: moment.seconds for time in times if (moment := read_moment(time)) is not None}
        return (min(moments, key=moments.__getitem__), max(moments, key=moments.__getitem__)) if moments else None

    @property
    def roots(self) -> dict[Path, int]:
        """The folders that paths are recorded relative to, with the number of records below each."""
        return self._summed(lambda shard: shard.roots)

    def missing_roots(self) -> dict[Path, int]:
        """Folders of pictures that are not there now, with the number of records below each."""
        return self._summed(lambda shard: shard.missing_roots())

    def _summed(self, ask: Callable[[SearchableGallery], Mapping[Path, int]]) -> dict[Path, int]:
        found: Counter[Path] = Counter()
        for roots in self._from_each(ask).values():
            found.update(roots)
        return dict(found)

    def _from_each(self, ask: Callable[[SearchableGallery], T]) -> dict[str, T]:
        """What every shard answers; one that fails is left out from then on, where that is allowed."""
        answers: dict[str, T] = {}
        for name, shard in list(self._shards.items()):
            if name in self._problems:
                continue
            try:
                answers[name] = ask(shard)
            except GalleryError as error:
                if not self._allow_partial or len(self._problems) == len(self._shards) - 1:
                    raise
                self._problems[name] = error
        return answers
