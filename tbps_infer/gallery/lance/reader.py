"""The read side of a dataset: one version of it, searched as a folder's gallery is."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError, GalleryError, UsageError
from tbps_infer.gallery.columns import ColumnType, Value, find_column
from tbps_infer.gallery.expressions.lance import text_literal
from tbps_infer.gallery.filters import WHERE_SECONDS, Filter
from tbps_infer.gallery.folder import GalleryFacts
from tbps_infer.gallery.lance.conditions import Condition, compile_filter, matching_ids, of_ids
from tbps_infer.gallery.lance.index import IndexFacts, index_facts
from tbps_infer.gallery.lance.outcomes import Outcomes
from tbps_infer.gallery.lance.search import Best, nearest, read_vectors, scan
from tbps_infer.gallery.lance.storage import dataset_uri, lance_errors, open_dataset
from tbps_infer.gallery.lance.table import (
    KEY,
    DatasetFacts,
    column_types,
    details_columns,
    field_name,
    records_of,
    vectors_of,
)
from tbps_infer.gallery.reader import Record
from tbps_infer.gallery.records import Reject
from tbps_infer.gallery.search.queries import best_per_identity, checked_queries
from tbps_infer.gallery.search.results import Hit, SearchOptions, SearchReport, SearchResult
from tbps_infer.gallery.search.rows import Rows, Selection
from tbps_infer.gallery.tombstones import Tombstone
from tbps_infer.gallery.vectors import NORM_MARGIN, DamagedVectorsError, StoredVectors, split_products
from tbps_infer.model_facts import ModelFacts

__all__ = ["LanceGallery"]

_QUERIES_AT_ONCE = 1024
_RECORDS_AT_ONCE = 4096


class LanceGallery:
    """A dataset opened for reading; a context manager, usable from several threads.

    It shows the version that was the newest when it was opened, whatever writers do meanwhile.

    Attributes:
        path: Its URI.
        facts: What ``gallery.json`` says in a folder.
        keeps_crops: Whether it has crops.
        columns: Names of its metadata columns; ``id``, ``camera`` and ``time`` are always there.
        count: How many records it has.
        index: What is known about its index; None where there is none.
    """

    def __init__(self, dataset: Any, uri: str) -> None:
        """Not for callers: use `open`."""
        facts = DatasetFacts.of_schema(dataset.schema, uri)
        self.path = uri
        self.facts: GalleryFacts = facts.gallery
        self.keeps_crops = facts.crops
        self.dataset = dataset
        self.columns = tuple(column_types(dataset.schema))
        with lance_errors(uri, "read"):
            self.count = int(dataset.count_rows())
        self.index: IndexFacts | None = index_facts(dataset)
        self._chosen: tuple[Filter, Selection] | None = None

    @classmethod
    def open(cls, path: Path | str) -> LanceGallery:
        """Open the newest version; raises GalleryError when there is none, or it is not a gallery's."""
        uri = dataset_uri(path)
        return cls(open_dataset(uri), uri)

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return (
            f"<LanceGallery {self.path}: {self.count} records of {self.model.family} {self.model.fingerprint[:12]}>"
        )

    def __enter__(self) -> LanceGallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open; there for those who close what they opened."""

    @property
    def model(self) -> ModelFacts:
        """The model whose embeddings it holds."""
        return self.facts.model

    @property
    def bundle_path(self) -> Path | None:
        """The bundle or checkpoint it was made with; None when not known."""
        return self.facts.bundle_path

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stored number."""
        return self.facts.dtype

    @property
    def indexes(self) -> list[str]:
        """``index`` with what it is, where it has one."""
        index = self.index
        return [] if index is None else [f"index of {index.rows} rows in {index.partitions} partitions"]

    @property
    def bytes(self) -> int:
        """Bytes of the data files of this version."""
        with lance_errors(self.path, "read"):
            files = [file for fragment in self.dataset.get_fragments() for file in fragment.data_files()]
            return sum(file.file_size_bytes or 0 for file in files)

    @property
    def rejects(self) -> list[Reject]:
        """The pictures that could not be embedded, by path."""
        return Outcomes(self.path).rejects()

    @property
    def unreachable(self) -> list[Reject]:
        """The records whose pictures could not be read when they were last looked at, and why; by path."""
        rows = self._rows([KEY, "tbps_unreachable"], "tbps_unreachable IS NOT NULL")
        return sorted((Reject(Path(row[KEY]), row["tbps_unreachable"]) for row in rows), key=lambda each: each.path)

    @property
    def tombstones(self) -> list[Tombstone]:
        """The removed pictures, which embedding leaves out."""
        return Outcomes(self.path).tombstones()

    @property
    def roots(self) -> dict[Path, int]:
        """None: paths are recorded whole."""
        return {}

    def missing_roots(self) -> dict[Path, int]:
        """None: paths are recorded whole."""
        return {}

    def require_model(self, model: ModelFacts) -> None:
        """Raise ModelMismatchError unless the gallery was embedded by this very model."""
        self.facts.require_model(model, self.path)

    def require_bundle(self) -> Path:
        """The bundle or checkpoint that it was made with; raises GalleryError where that is gone."""
        return self.facts.require_bundle(self.path)

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        ids = self.selected(Filter()).rows.numbers
        for start in range(0, len(ids), _RECORDS_AT_ONCE):
            some = self.details(ids[start : start + _RECORDS_AT_ONCE] + 1)
            yield from (some[number] for number in sorted(some))

    def details(self, records: NDArray[np.int64], *, crops: bool = False) -> dict[int, Record]:
        """Some records, by number, with their crops where they are wanted and kept; those that there are."""
        found: dict[int, Record] = {}
        columns = details_columns(self.dataset.schema, crops=crops)
        with lance_errors(self.path, "read"):
            for condition in of_ids(records - 1):
                found |= records_of(
                    self.dataset.scanner(columns=columns, with_row_id=True, filter=condition).to_table()
                )
        return found

    def vectors_of(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 ``[n, dim]``: the stored vectors of some records, by number, in the order given.

        Raises:
            UsageError: There is no record of one of the numbers.
        """
        ids, vectors = self._stored(np.unique(records) - 1)
        known = np.isin(records - 1, ids)
        if not known.all():
            raise UsageError(f"There is no record {records[~known][0]}.", "It may have been removed; search again.")
        return vectors[np.searchsorted(ids, records - 1)].astype(np.float32)

    def raw(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 ``[n, row_bytes]``: some rows, by row ids, as they are stored."""
        ids, vectors = self._stored(np.sort(rows))
        stored: NDArray[np.uint8] = vectors[np.searchsorted(ids, rows)].view(np.uint8)
        return stored

    def column_types(self) -> dict[str, ColumnType]:
        """What the metadata columns hold."""
        return column_types(self.dataset.schema)

    def _stored(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Those of some ids that there are, ascending, and their vectors as they are stored."""
        dim = self.model.layout.dim
        pieces = [(np.empty(0, dtype=np.int64), np.empty((0, dim), dtype=self.dtype))]
        with lance_errors(self.path, "read"):
            pieces += read_vectors(self.dataset, of_ids(ids), self.facts.row_bytes)
        numbers, vectors = (np.concatenate(each) for each in zip(*pieces, strict=True))
        order = np.argsort(numbers)
        return numbers[order], vectors[order]

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
        where: Filter | str | Selection | None = None,
        options: SearchOptions | None = None,
    ) -> SearchResult:
        """Find the records whose embeddings have the largest inner products with each query.

        With the methods ``exact`` and ``scan``, and where there is no index, the result is exact, as in a folder:
        score for score. Otherwise the report says that it is approximate.

        Args:
            queries: As `tbps_infer.gallery.Gallery.search_with_report` takes them, and so are `k` and `where`.
            k: Hits per query.
            where: A filter, its expression, or a selection of this dataset.
            options: How to search; None is `SearchOptions()`.

        Raises:
            UsageError: The queries or k are not valid, or a method is asked for that a dataset does not have.
            FilterError: The filter is not valid.
            GalleryError: The dataset cannot be read, or holds damaged numbers.
        """
        queries = checked_queries(queries, self.model.layout.dim)
        if k < 1:
            raise UsageError(f"k is {k}, want at least 1.")
        options = options or SearchOptions()
        self._refuse_methods(options)
        where = Filter(where=where) if isinstance(where, str) else where or Filter()
        task = _Task(self, where, options)
        hits: list[list[Hit]] = []
        try:
            with lance_errors(self.path, "read"):
                for start in range(0, len(queries), _QUERIES_AT_ONCE):
                    some = queries[start : start + _QUERIES_AT_ONCE]
                    if options.per_id:
                        hits += [best_per_identity(partial(task.hits_of_one, query), k) for query in some]
                    else:
                        hits += task.hits(some, k)
        except DamagedVectorsError as error:
            raise GalleryError(f"{self.path} is damaged: {error}", "Restore it from a copy.") from error
        return SearchResult(hits, task.report())

    def lowest_scores(
        self, queries: NDArray[np.floating[Any]], where: Selection | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """Each record's lowest score over some queries, float32 ``[n]``, and by how much one is off at most.

        Args:
            queries: As for `search_with_report`.
            where: Which records, in whose order the scores come; None is all.

        Raises:
            UsageError, GalleryError: As `search_with_report` does.
        """
        queries = checked_queries(queries, self.model.layout.dim).astype(np.float64)
        selection = where or self.selected(Filter())
        lowest = np.full(len(selection.records), -np.inf, dtype=np.float32)
        with lance_errors(self.path, "read"):
            for ids, vectors in _Task(self, selection, SearchOptions(method="scan")).rows():
                places = np.searchsorted(selection.records, ids + 1)
                lowest[places] = (vectors.astype(np.float64) @ queries.T).min(axis=1)
        finite = np.abs(lowest[np.isfinite(lowest)])
        return lowest, float(finite.max(initial=0)) * float(np.finfo(np.float32).eps)

    def _refuse_methods(self, options: SearchOptions) -> None:
        if options.method in ("sketch", "graph"):
            raise UsageError(
                f"The dataset {self.path} has no {options.method}: that is of galleries in folders.",
                "Leave the method out: its index is searched, where tbps gallery index has built one.",
            )
        if Device.parse(options.device).kind != "cpu":
            raise BackendError(
                f"Datasets are searched on the CPU, and the search device is {options.device}.",
                "Leave the search device out, or fetch a folder with tbps gallery pull URI GALLERY.",
            )
        if self.index is None and (options.method == "index" or options.probes is not None):
            raise UsageError(f"The dataset {self.path} has no index.", "Build it with tbps gallery index URI.")

    def passing(self, where: Filter) -> int:
        """How many records pass a filter."""
        condition = compile_filter(where, self.dataset.schema)
        if condition.expression is not None:
            return len(self.selected(where).records)
        with lance_errors(self.path, "read"):
            return int(self.dataset.count_rows(condition.sql)) if condition.sql else self.count

    def selected(self, where: Filter, seconds: float = WHERE_SECONDS) -> Selection:
        """The records that pass a filter; their rows are Lance's row ids."""
        chosen = self._chosen  # read once: another thread may ask for something else meanwhile
        if chosen is None or chosen[0] != where or not where.timeless:
            ids = matching_ids(self.dataset, compile_filter(where, self.dataset.schema), where, seconds)
            chosen = where, Selection(ids + 1, Rows.of(ids))
            self._chosen = chosen  # kept: whoever asks again, asks the same
        return chosen[1]

    def selection(self, records: NDArray[np.int64]) -> Selection:
        """Some records by number, int64 ``[n]``, ascending; those that this version does not have are left out."""
        known = records[np.isin(records, self.selected(Filter()).records, assume_unique=True)]
        return Selection(known, Rows.of(known - 1))

    def values(self, column: str, most: int) -> list[str]:
        """The first different values of a metadata column, as text and in its order."""
        found = find_column(column, self.columns)
        if found is None:
            return []
        return sorted(self.counts(found))[:most]

    def counts(self, column: str) -> dict[str, int]:
        """How many records hold each value, as text, in a metadata column."""
        name = field_name(find_column(column, self.columns) or column)
        values = self._table([name], f"`{name}` IS NOT NULL").column(name)
        return {str(each["values"]): each["counts"] for each in values.value_counts().to_pylist()}

    def counts_of(self, column: str, values: Sequence[str]) -> dict[str, int]:
        """How many records hold each of some values, as text, in a metadata column; those that there are."""
        return {value: count for value, count in self.counts(column).items() if value in values}

    def times(self) -> NDArray[np.float64]:
        """float64 ``[records, 2]``, in the order of records: when they were, as Unix time and on their clock."""
        with lance_errors(self.path, "read"):
            table = self.dataset.scanner(columns=["tbps_time_s", "tbps_clock_s"], with_row_id=True).to_table()
        order = np.argsort(table.column("_rowid").to_numpy())
        times = [table.column(name).to_numpy()[order] for name in ("tbps_time_s", "tbps_clock_s")]
        return np.stack(times, axis=1).astype(np.float64)

    def begin_again(self) -> bool:
        """True: a version stays what it is."""
        return True

    def first_and_last_time(self) -> tuple[Value, Value] | None:
        """The earliest and the latest time, as they are written in the metadata; None where no record has one."""
        rows = self._rows(["time", "tbps_time_s"], "tbps_time_s IS NOT NULL")
        if not rows:
            return None
        first, last = (pick(rows, key=lambda row: row["tbps_time_s"]) for pick in (min, max))
        return first["time"], last["time"]

    def missing(self, *, every_file: bool = False) -> int:
        """How many records' pictures are not there now, if every file is to be looked at; else 0."""
        return sum(not record.path.exists() for record in self.records()) if every_file else 0

    def records_below(self, paths: Sequence[Path]) -> list[int]:
        """Numbers of the records whose path is one of some absolute paths, or below one, ascending."""
        conditions = []
        for path in paths:
            below = os.path.join(path, "")  # noqa: PTH118 - with a separator at its end
            conditions += [f"`{KEY}` = {text_literal(str(path))}", f"starts_with(`{KEY}`, {text_literal(below)})"]
        ids = self._ids(" OR ".join(conditions)) if conditions else np.empty(0, dtype=np.int64)
        return [int(number) for number in ids + 1]

    def records_before(self, seconds: float) -> NDArray[np.int64]:
        """Numbers int64 ``[n]`` of the records whose time, or else whose embedding, was before a Unix time."""
        return self._ids(f"coalesce(tbps_time_s, tbps_embedded_s) < {seconds!r}") + 1

    def verify(self) -> int:
        """Read every row: all columns decoded, vectors of the model's norm, each path once; how many fragments.

        Raises:
            GalleryError: The dataset cannot be read, or holds what was never written.
        """
        with lance_errors(self.path, "read"):
            self.dataset.validate()
            paths: set[str] = set()
            for batch in self.dataset.scanner(batch_size=_RECORDS_AT_ONCE).to_batches():
                self._check_vectors(vectors_of(batch))
                names = batch.column(KEY).to_pylist()
                if not paths.isdisjoint(names) or len(set(names)) < len(names):
                    raise GalleryError(f"{self.path} is damaged: a path is there twice.", "Restore it from a copy.")
                paths.update(names)
            return len(self.dataset.get_fragments())

    def verify_vectors(self) -> int:
        """Read the vectors alone, as `verify` does."""
        with lance_errors(self.path, "read"):
            for _, vectors in read_vectors(self.dataset, [None], self.facts.row_bytes):
                self._check_vectors(vectors)
            return len(self.dataset.get_fragments())

    def _check_vectors(self, vectors: NDArray[Any]) -> None:
        squared = self.model.layout.squared_norm
        norms = np.einsum("nd,nd->n", *2 * (vectors.astype(np.float64),))
        if not (np.abs(norms - squared) <= (NORM_MARGIN**2 - 1) * squared).all():
            raise GalleryError(f"{self.path} is damaged: a vector is no embedding.", "Restore it from a copy.")

    def _ids(self, condition: str) -> NDArray[np.int64]:
        return matching_ids(self.dataset, Condition(condition), Filter(), WHERE_SECONDS)

    def _table(self, columns: list[str], condition: str | None) -> Any:
        with lance_errors(self.path, "read"):
            return self.dataset.scanner(columns=columns, filter=condition).to_table()

    def _rows(self, columns: list[str], condition: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._table(columns, condition).to_pylist()
        return rows


class _Task:
    """One search: which rows, by which method, and what is known about it at its end."""

    def __init__(self, gallery: LanceGallery, where: Filter | Selection, options: SearchOptions) -> None:
        self._gallery = gallery
        self._options = options
        self._condition: str | None = None
        self._ids: NDArray[np.int64] | None = None
        if isinstance(where, Selection):
            self._ids = where.rows.numbers
        else:
            condition = compile_filter(where, gallery.dataset.schema)
            if condition.expression is None:
                self._condition = condition.sql
            else:
                self._ids = gallery.selected(where).rows.numbers
        self._searched = gallery.count
        if self._ids is not None:
            self._searched = len(self._ids)
        elif isinstance(where, Filter) and where:
            self._searched = gallery.passing(where)
        index = gallery.index if options.method in ("auto", "index") else None
        # Only a condition can be handed to the index; and where it would propose all that pass, these are scanned.
        is_few = self._candidates >= self._searched and options.method == "auto" and options.probes is None
        self._index = None if index is None or self._ids is not None or is_few else index
        self._max_norm = NORM_MARGIN * math.sqrt(gallery.model.layout.squared_norm)

    @property
    def _share(self) -> float:
        return self._searched / self._gallery.count if self._gallery.count else 1.0

    @property
    def _candidates(self) -> int:
        """Where fewer rows pass, the best of them are further away, and their codes tell them apart less well."""
        return min(max(1, self._searched), math.ceil(self._options.candidates / max(self._share, 1e-9)))

    @property
    def _probes(self) -> int:
        """Likewise, and they lie in more partitions."""
        assert self._index is not None
        wanted = self._options.probes or self._index.probes
        return min(self._index.partitions, math.ceil(wanted / max(self._share, 1e-9)))

    def hits_of_one(self, query: NDArray[np.float32], k: int) -> list[Hit]:
        """Hits of one query, ``[dim]``."""
        return self.hits(query[None], k)[0]

    def hits(self, queries: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """Hits of some queries, those below the smallest score left out."""
        smallest = -np.inf if self._options.min_score is None else self._options.min_score
        found = [Best(best.ids[kept], best.scores[kept]) for best in self._best(queries, k)
                 for kept in (best.scores >= smallest,)]  # fmt: skip
        wanted = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *(best.ids for best in found)]))
        ids, vectors = self._gallery._stored(wanted)
        details = self._gallery.details(ids + 1, crops=self._options.crops and self._gallery.keeps_crops)
        layout, stored = self._gallery.model.layout, StoredVectors(vectors)
        starts = [piece.start for piece in layout.slices.values()]
        answers = []
        for query, best in zip(queries, found, strict=True):
            shares = split_products(stored, np.searchsorted(ids, best.ids), query, starts)
            hits = []
            for number, score, share in zip((best.ids + 1).tolist(), best.scores.tolist(), shares, strict=True):
                record, split = details[number], dict(zip(layout.names, share.tolist(), strict=True))
                hits.append(Hit(number, record.path, score, split, record.metadata, crop=record.crop))
            answers.append(hits)
        return answers

    def _best(self, queries: NDArray[np.float32], k: int) -> list[Best]:
        dataset = self._gallery.dataset
        if self._index is not None:
            found = []
            for query in queries:
                found.append(
                    nearest(dataset, query, k, self._condition, probes=self._probes, candidates=self._candidates)
                )
            return found
        return scan(self.rows(), queries, k, self._max_norm, self._options.threads)

    def rows(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Ids int64 ``[n]`` and vectors ``[n, dim]`` of the rows to search, in pieces."""
        dataset, row_bytes = self._gallery.dataset, self._gallery.facts.row_bytes
        if self._ids is None:
            yield from read_vectors(dataset, [self._condition], row_bytes)
        elif len(self._ids) < self._gallery.count / 2:
            yield from read_vectors(dataset, of_ids(self._ids), row_bytes)
        else:  # where most rows are wanted, all are read
            for ids, vectors in read_vectors(dataset, [None], row_bytes):
                wanted = np.isin(ids, self._ids)
                if wanted.any():
                    yield ids[wanted], vectors[wanted]

    def report(self) -> SearchReport:
        """How it went."""
        row_bytes = self._gallery.facts.row_bytes
        index = self._index
        return SearchReport(
            method="scan" if index is None else "index",
            searched=self._searched,
            unindexed=0 if index is None else max(0, self._gallery.count - index.rows),
            bytes_read=self._searched * row_bytes if index is None else None,
            bytes_of_all=self._searched * row_bytes,
            approximate=None if index is None else index.described(self._probes, self._share),
        )
