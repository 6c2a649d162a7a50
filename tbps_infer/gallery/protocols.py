"""What can be searched, and what takes rows: a folder with one writer, a dataset with many, several as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.reader import Record
from tbps_infer.gallery.record_table import Recorded
from tbps_infer.gallery.records import Entry, FileStamp, Reject
from tbps_infer.gallery.search.results import Hit, SearchOptions, SearchResult
from tbps_infer.gallery.search.rows import Selection
from tbps_infer.model_facts import ModelFacts

__all__ = ["RowWriter", "SearchableGallery", "StoredGallery"]


class SearchableGallery(Protocol):
    """One snapshot of a gallery, or of several, usable from several threads; a context manager.

    `tbps_infer.gallery.Gallery` says what its members do.
    """

    @property
    def path(self) -> Path | str:
        """The folder or URI."""

    @property
    def model(self) -> ModelFacts:
        """The model whose embeddings it holds."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its metadata columns."""

    @property
    def count(self) -> int:
        """How many records it has."""

    def __enter__(self) -> SearchableGallery: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def close(self) -> None:
        """Give it back."""

    def require_model(self, model: ModelFacts) -> None:
        """Raise ModelMismatchError unless the gallery was embedded by this very model."""

    def require_bundle(self) -> Path:
        """The bundle or checkpoint that it was embedded with; raises GalleryError where that is gone."""

    def search(
        self,
        queries: NDArray[np.floating[Any]],
        k: int = 10,
        where: Filter | str | None = None,
        options: SearchOptions | None = None,
    ) -> list[list[Hit]]:
        """The hits of `search_with_report`."""

    def search_with_report(
        self,
        queries: NDArray[np.floating[Any]],
        k: int = 10,
        where: Filter | str | None = None,
        options: SearchOptions | None = None,
    ) -> SearchResult:
        """Find the records whose embeddings have the largest inner products with each query."""

    def passing(self, where: Filter) -> int:
        """How many records pass a filter."""

    def values(self, column: str, most: int) -> list[str]:
        """The first different values of a metadata column, as text and in its order."""

    def first_and_last_time(self) -> tuple[Value, Value] | None:
        """The earliest and the latest time, as they are written in the metadata."""

    @property
    def roots(self) -> dict[Path, int]:
        """The folders that paths are recorded relative to, with the number of records below each; or none."""

    def missing_roots(self) -> dict[Path, int]:
        """Folders of pictures that are not there now, with the number of records below each."""


class StoredGallery(SearchableGallery, Protocol):
    """One gallery by itself, whose records have numbers."""

    def search_with_report(
        self,
        queries: NDArray[np.floating[Any]],
        k: int = 10,
        where: Filter | str | Selection | None = None,
        options: SearchOptions | None = None,
    ) -> SearchResult:
        """Find the records whose embeddings have the largest inner products with each query."""

    def lowest_scores(
        self, queries: NDArray[np.floating[Any]], where: Selection | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """Each record's lowest score over some queries, float32 ``[n]``, and by how much one is off at most."""

    def selected(self, where: Filter) -> Selection:
        """The records that pass a filter."""

    def selection(self, records: NDArray[np.int64]) -> Selection:
        """Some records by number, ascending; those that there are not are left out."""

    def vectors_of(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 ``[n, dim]``: the stored vectors of some records, by number; raises UsageError without one."""

    def times(self) -> NDArray[np.float64]:
        """float64 ``[records, 2]``, in the order of records: when they were, as Unix time and on their clock."""

    def counts_of(self, column: str, values: Sequence[str]) -> dict[str, int]:
        """How many records hold each of some values, as text, in a metadata column; those that there are."""

    def begin_again(self) -> bool:
        """Let go of what a snapshot holds back, where it is still the newest; returns whether it is."""

    def records(self) -> Iterator[Record]:
        """Every record, in order."""

    def details(self, records: NDArray[np.int64], *, crops: bool = False) -> Mapping[int, Record]:
        """Some records, by number, with their crops where they are wanted and kept; those that there are."""

    def records_below(self, paths: Sequence[Path]) -> list[int]:
        """Numbers of the records whose path is one of some absolute paths, or below one, ascending."""

    def records_before(self, seconds: float) -> NDArray[np.int64]:
        """Numbers of the records whose time, or else whose embedding, was before a Unix time."""

    def verify(self) -> int:
        """Read everything and compare it with what was written; how many pieces that were."""


class RowWriter(Protocol):
    """What adds, changes and removes records; a context manager. See `tbps_infer.gallery.GalleryWriter`."""

    @property
    def path(self) -> Path | str:
        """The folder or URI."""

    def __enter__(self) -> RowWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def keeps_crops(self) -> bool:
        """Whether entries are to have crops."""

    def find(self, path: Path) -> Entry | None:
        """What is recorded about a picture, by its absolute path."""

    def find_all(self, paths: Iterable[Path]) -> dict[Path, Recorded]:
        """What is recorded about some pictures, those of them that have a record; asked for all that are given."""

    def stamp(self, path: Path) -> FileStamp | None:
        """The stamp of a picture that has a record."""

    @property
    def has_tombstones(self) -> bool:
        """Whether anything was removed on purpose."""

    def of_content(self, sha256: str) -> list[Path]:
        """The paths of the records whose file had this content, where moved files are followed."""

    def was_removed(self, path: Path, sha256: str | None = None) -> bool:
        """Whether a picture was removed on purpose."""

    def roots(self) -> list[Path]:
        """The folders that paths are recorded relative to; none where they are recorded whole."""

    def add_roots(self, folders: Sequence[Path]) -> None:
        """Record the new pictures below some folders relative to these, where paths are."""

    def paths_below(self, folder: Path, *, rejects: bool = False) -> list[Path]:
        """The paths of the records, or of the rejects, that are a folder or below it, by path."""

    def commit(
        self,
        embedded: Sequence[Entry] = (),
        vectors: NDArray[np.float32] | None = None,
        *,
        unchanged: Sequence[Entry] = (),
        rejects: Sequence[Reject] = (),
        unreachable: Sequence[Reject] = (),
        moved: Sequence[tuple[Path, Entry]] = (),
    ) -> None:
        """Record what happened to some pictures."""

    def remove(self, records: Sequence[int], *, tombstones: bool = True) -> int:
        """Remove records by number; returns how many went."""

    def remove_paths(self, paths: Sequence[Path]) -> int:
        """Remove records by their paths, without tombstones; returns how many went."""

    def forget_rejects(self, paths: Sequence[Path]) -> None:
        """Take pictures off the list of rejects."""
