"""The read side of a gallery: one snapshot of its records, and exact search over its memory-mapped vectors."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import Device, SearchBackend
from tbps_infer.errors import GalleryError, UsageError
from tbps_infer.formats.sqlite_files import bounded, open_sqlite
from tbps_infer.gallery.columns import ColumnType, Value, quoted
from tbps_infer.gallery.filters import Filter, matching_records
from tbps_infer.gallery.folder import INDEX_FILES, GalleryFacts, index_files, missing_vectors
from tbps_infer.gallery.mapping import MappedVectors, map_vectors
from tbps_infer.gallery.records import (
    FileStamp,
    Reject,
    check_small_tables,
    check_values,
    column_type,
    committed_rows,
    connect_reader,
    current_generation,
    damaged_records,
    is_current_schema,
    metadata_columns,
    read_rows,
    sqlite_errors,
    types_of,
)
from tbps_infer.gallery.roots import PATH_SQL
from tbps_infer.gallery.search.graph import Graph
from tbps_infer.gallery.search.queries import checked_queries
from tbps_infer.gallery.search.results import Hit, SearchMethod, SearchOptions, SearchResult
from tbps_infer.gallery.search.rows import Rows, Selection
from tbps_infer.gallery.search.run import search_gallery
from tbps_infer.gallery.search.scan import ScanOptions, lowest_products
from tbps_infer.gallery.search.sketch import Sketch
from tbps_infer.gallery.tombstones import Tombstone
from tbps_infer.gallery.vectors import NORM_MARGIN, DamagedVectorsError, StoredVectors
from tbps_infer.model_facts import ModelFacts

if TYPE_CHECKING:
    from tbps_infer.gallery.search.on_device import DeviceStage

__all__ = ["Gallery", "Record"]

_READ_BYTES = 8 << 20
_OPEN_ATTEMPTS = 5
_RECORD_COLUMNS = ("tbps_row", "tbps_size", "tbps_mtime_ns", "tbps_sha256")

_Index = TypeVar("_Index", Sketch, Graph)


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        record: Its number.
        path: The picture, absolute.
        row: Where its embedding lies in `Gallery.vectors`.
        stamp: The file that it was made of.
        metadata: The columns that have values.
        embedded_s: When it was embedded, Unix time; None in galleries of the previous schema.
        crop: Its crop as JPEG, where the gallery keeps crops and was asked for them; else None.
    """

    record: int
    path: Path
    row: int
    stamp: FileStamp
    metadata: Mapping[str, Value]
    embedded_s: float | None = None
    crop: bytes | None = None

    @property
    def picture(self) -> Path | bytes:
        """What to show: the crop where there is one, else the file."""
        return self.path if self.crop is None else self.crop


class Gallery:
    """A gallery opened for reading; a context manager, usable from several threads.

    It shows the records that were committed when it was opened, whatever a writer does meanwhile.

    Attributes:
        path: The folder.
        facts: What its ``gallery.json`` says.
        columns: Names of its metadata columns; ``id``, ``camera`` and ``time`` are always there.
        generation: Which vector file it reads; compaction begins a new one.
    """

    def __init__(
        self, path: Path, facts: GalleryFacts, connection: sqlite3.Connection, mapped: MappedVectors
    ) -> None:
        """Not for callers: use `open`."""
        self.path = path
        self.facts = facts
        self._connection = connection
        self._lock = threading.Lock()
        self.columns = metadata_columns(connection)
        self.generation = current_generation(connection)
        self._is_current = is_current_schema(connection)
        self._path_sql, self._embedded_sql = (PATH_SQL, "tbps_embedded_s") if self._is_current else ("path", "NULL")
        self._mapped = mapped
        self._indexes: dict[str, Any] = {}
        self._devices: dict[tuple[Device, SearchBackend], DeviceStage] = {}
        self._selection: tuple[Filter, Selection] | None = None
        self._types = types_of(("record", "path", "tbps_embedded_s", *_RECORD_COLUMNS, *self.columns))
        records, rows = read_rows(connection, path, len(mapped.stored))
        self._all = Selection(records, Rows.of(rows))

    @classmethod
    def open(cls, path: Path | str) -> Gallery:
        """Open a gallery; raises GalleryError when the folder is none, or is damaged."""
        path = Path(path)
        facts = GalleryFacts.read(path)
        for attempt in range(_OPEN_ATTEMPTS):
            with sqlite_errors(path):
                connection = connect_reader(path)
                try:
                    check_small_tables(connection, path)
                    generation = current_generation(connection)
                    mapped = map_vectors(path, facts, generation, committed_rows(connection, path))
                    return cls(path, facts, connection, mapped)
                except FileNotFoundError as error:
                    # A compaction ended between the two looks: the next look sees what it made.
                    connection.close()
                    if attempt == _OPEN_ATTEMPTS - 1:
                        raise missing_vectors(path / facts.vectors_file(generation)) from error
                except BaseException:
                    connection.close()
                    raise
        raise AssertionError("every attempt returns or raises")

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:  # an empty gallery is a gallery
        return True

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"<Gallery {self.path}: {self.count} records of {facts.model.family} {facts.model.fingerprint[:12]}, "
            f"{facts.dtype_name}[{self.model.layout.dim}]>"
        )

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the snapshot and give devices' memory back; closing twice is harmless."""
        while self._devices:
            self._devices.popitem()[1].close()
        self._connection.close()

    def begin_again(self) -> bool:
        """End the snapshot's transaction and begin the next, where nothing is committed in between.

        Returns:
            Whether it is the same snapshot; of another one the gallery knows too little and has to be opened.
        """
        version = "PRAGMA data_version"
        with self._lock, sqlite_errors(self.path):
            before = self._connection.execute(version).fetchone()
            for statement in ("COMMIT", "BEGIN"):
                self._connection.execute(statement)
            self._connection.execute("SELECT count(*) FROM segment").fetchone()  # only now does it begin
            return bool(self._connection.execute(version).fetchone() == before)

    @property
    def model(self) -> ModelFacts:
        """The model whose embeddings it holds."""
        return self.facts.model

    @property
    def bundle_path(self) -> Path | None:
        """The bundle or checkpoint it was last embedded with; None when not known."""
        return self.facts.bundle_path

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stored number."""
        return self.facts.dtype

    @property
    def stored(self) -> StoredVectors:
        """The vectors as they are stored, memory-mapped, rows of replaced and removed pictures included."""
        return self._mapped.stored

    @property
    def vectors(self) -> NDArray[Any]:
        """float16, float32 or int8 ``[rows, dim]``: the stored numbers; int8 has its scales in `stored`."""
        return self._mapped.stored.values

    @property
    def count(self) -> int:
        """How many records it has."""
        return len(self._all.records)

    @property
    def indexes(self) -> list[str]:
        """Names of its indexes, ``sketch`` and ``graph``."""
        return list(index_files(self.path, self.generation))

    @property
    def keeps_crops(self) -> bool:
        """False: a folder has none."""
        return False

    @property
    def bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    @property
    def rejects(self) -> list[Reject]:
        """The pictures that could not be embedded, by path."""
        rows = self._fetch(f"SELECT {self._path_sql} AS whole, reason FROM reject ORDER BY whole")
        return [Reject(Path(path), reason) for path, reason in rows]

    @property
    def unreachable(self) -> list[Reject]:
        """The records whose pictures could not be read when they were last looked at, and why; by path."""
        if not self._is_current:
            return []
        rows = self._fetch(
            f"SELECT {self._path_sql} AS whole, tbps_unreachable FROM record "
            "WHERE tbps_unreachable IS NOT NULL ORDER BY whole"
        )
        return [Reject(Path(path), reason) for path, reason in rows]

    @property
    def tombstones(self) -> list[Tombstone]:
        """The removed pictures, which embedding leaves out."""
        rows = self._fetch(f"SELECT sha256, {PATH_SQL} FROM tombstone") if self._is_current else []
        return [Tombstone(sha256, None if path is None else Path(path)) for sha256, path in rows]

    @cached_property
    def roots(self) -> dict[Path, int]:
        """The folders that paths are recorded relative to, with the number of records below each."""
        if not self._is_current:
            folders = [record.path.parent for record in self.records()]
            return {Path(os.path.commonpath(folders)): len(folders)} if folders else {}
        rows = self._fetch(
            "SELECT folder, (SELECT count(*) FROM record WHERE tbps_root = root) FROM root ORDER BY folder"
        )
        return {Path(folder): count for folder, count in rows}

    def missing_roots(self) -> dict[Path, int]:
        """Those of `roots` that are not there now and have records: pictures that moved, or a disk that is away."""
        return {folder: count for folder, count in self.roots.items() if count and not folder.is_dir()}

    def require_model(self, model: ModelFacts) -> None:
        """Raise ModelMismatchError unless the gallery was embedded by this very model."""
        self.facts.require_model(model, self.path)

    def require_bundle(self) -> Path:
        """The bundle or checkpoint that it was last embedded with; raises GalleryError where that is gone."""
        return self.facts.require_bundle(self.path)

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        sql = f"{self._select_records} WHERE record BETWEEN ? AND ? ORDER BY record"
        for start in range(0, self.count, 4096):
            numbers = self._all.records[start : start + 4096].tolist()
            yield from map(self._record, self._fetch(sql, (numbers[0], numbers[-1])))

    def embeddings(self, where: Filter | None = None) -> NDArray[np.float32]:
        """float32 ``[n, dim]``: the stored vectors of all records, or of those that pass, in the order of records."""
        return self.stored.exact(self.selected(where or Filter())[1].numbers).astype(np.float32)

    def vectors_of(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 ``[n, dim]``: the stored vectors of some records, by number, in the order given.

        Raises:
            UsageError: There is no record of one of the numbers.
        """
        known = np.isin(records, self._all.records)
        if not known.all():
            raise UsageError(f"There is no record {records[~known][0]}.", "It may have been removed; search again.")
        rows = self._all.rows.numbers[np.searchsorted(self._all.records, records)]
        return self.stored.exact(rows).astype(np.float32)

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

        Unless the method is ``graph`` the result is exact: the score of a hit is the inner product with the
        embedding as stored, summed in float64 and rounded to float32, the same for a query alone or among others,
        whatever the method. Equal scores come in the order of records.

        Args:
            queries: float32 ``[n, dim]``, embeddings by the gallery's model (`require_model`), or what
                `tbps_infer.queries` composes of them. Other floating types are converted; ``[dim]`` is one query.
            k: Hits per query, at least 1; fewer come back when fewer records pass the filter.
            where: What a record must satisfy, a `Filter` or its expression, or which records are searched; None lets
                all pass.
            options: How to search; None is `SearchOptions()`.

        Raises:
            UsageError: The queries are of another shape or type, or hold NaN or infinity; or k is below 1; or a
                method is asked for that the gallery has no index for.
            FilterError: The filter is not valid.
            GalleryError: The stored vectors or the index are damaged.
        """
        queries = checked_queries(queries, self.model.layout.dim)
        if isinstance(where, str):
            where = Filter(where=where)
        if k < 1:
            raise UsageError(f"k is {k}, want at least 1.")
        options = options or SearchOptions()
        if where and options.method == "graph":
            raise UsageError(
                "An approximate search cannot be filtered: its graph proposes rows without regard to the filter.",
                "Leave the approximate method out; the exact search is fast where few records pass.",
            )
        selection = where if isinstance(where, Selection) else self.selected(where or Filter())
        return search_gallery(self, selection, queries, k, options)

    def lowest_scores(
        self, queries: NDArray[np.floating[Any]], where: Selection | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """Each record's lowest score over some queries, float32 ``[n]``, and by how much one is off at most.

        It tells which records to look at: `search` gives exact scores.

        Args:
            queries: As for `search_with_report`.
            where: Which records, in whose order the scores come; None is all.

        Raises:
            UsageError, GalleryError: As `search_with_report` does.
        """
        queries = checked_queries(queries, self.model.layout.dim)
        norm = NORM_MARGIN * math.sqrt(self.model.layout.squared_norm)
        rows, options = (where or self._all).rows, ScanOptions(release=self.scan_release)
        try:
            return lowest_products(self.stored, rows, queries, max_norm=norm, options=options)
        except DamagedVectorsError as error:
            raise self.damaged(error, "scan") from error

    def selected(self, where: Filter) -> Selection:
        """The records that pass a filter."""
        if not where:
            return self._all
        with self._lock, sqlite_errors(self.path):
            if self._selection is None or self._selection[0] != where or not where.timeless:
                passing = matching_records(self._connection, where, self._all.records)
                self._selection = where, self._selection_of(passing)  # kept: whoever asks again, asks the same
            return self._selection[1]

    def passing(self, where: Filter) -> int:
        """How many records pass a filter."""
        return len(self.selected(where).records)

    def selection(self, records: NDArray[np.int64]) -> Selection:
        """Some records by number, int64 ``[n]``, ascending; those that this snapshot does not have are left out."""
        known = np.isin(records, self._all.records, assume_unique=True)
        return self._selection_of(records if known.all() else records[known])

    def _selection_of(self, records: NDArray[np.int64]) -> Selection:
        return Selection(records, Rows.of(self._all.rows.numbers[self._positions(records)]))

    def column_types(self) -> dict[str, ColumnType]:
        """What the metadata columns hold; text where one has no value yet."""
        with self._lock, sqlite_errors(self.path):
            return {name: column_type(self._connection, name) or "text" for name in self.columns}

    def values(self, column: str, most: int) -> list[str]:
        """The first different values of a metadata column, as text and in its order."""
        text = f"CAST({quoted(column)} AS TEXT)"
        sql = f"SELECT DISTINCT {text} FROM record WHERE {text} IS NOT NULL ORDER BY 1 LIMIT ?"
        return [value for (value,) in self._fetch(sql, (most,))]

    def counts_of(self, column: str, values: Sequence[str]) -> dict[str, int]:
        """How many records hold each of some values, as text, in a metadata column; those that there are."""
        text = f"CAST({quoted(column)} AS TEXT)"
        sql = f"SELECT {text}, count(*) FROM record WHERE {text} IN (SELECT value FROM json_each(?)) GROUP BY 1"
        return dict(self._fetch(sql, (json.dumps(list(values)),)))

    def times(self) -> NDArray[np.float64]:
        """float64 ``[records, 2]``, in the order of records: when they were, as Unix time and as the clock showed it.

        The latter is in seconds since 1970-01-01T00:00 of the same clock; both are NaN where a record has no time.
        Galleries of the previous schema know the first only, and have it in both.
        """
        clock = "tbps_clock_s" if self._is_current else "tbps_time_s"
        rows = self._fetch(f"SELECT tbps_time_s, {clock} FROM record ORDER BY record")
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def first_and_last_time(self) -> tuple[Value, Value] | None:
        """The earliest and the latest time, as they are written in the metadata; None where no record has one."""
        sql = "SELECT time FROM record WHERE tbps_time_s IS NOT NULL ORDER BY tbps_time_s"
        first, last = self._fetch(f"{sql} LIMIT 1"), self._fetch(f"{sql} DESC LIMIT 1")
        if not first:
            return None
        times = first[0][0], last[0][0]
        if any(isinstance(time, bytes) for time in times):
            raise damaged_records(self.path, "a time is of another type than its column's")
        return times

    def _positions(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices int64 ``[n]`` of some records, by number, among all; most galleries have no gaps to search for."""
        known = self._all.records
        if len(records) and known[-1] - known[0] == len(known) - 1:
            offsets: NDArray[np.int64] = records - known[0]
            return offsets
        return np.searchsorted(known, records)

    def details(self, records: NDArray[np.int64], *, crops: bool = False) -> dict[int, Record]:  # noqa: ARG002
        """Some records, by number; those that there are. A folder keeps no crops."""
        sql = f"{self._select_records} WHERE record = ?"
        with self._lock, sqlite_errors(self.path):
            rows = [self._connection.execute(sql, (number,)).fetchone() for number in records.tolist()]
        missing = [number for number, row in zip(records.tolist(), rows, strict=True) if row is None]
        if missing and np.isin(missing, self._all.records).any():
            raise damaged_records(self.path, "malformed: a record is not where its number leads")
        return {row[0]: self._record(row) for row in rows if row is not None}

    def missing(self, *, every_file: bool = False) -> int:
        """How many records' pictures are not there now: all below roots that are away, or every file if wanted."""
        if every_file:
            return sum(not record.path.exists() for record in self.records())
        return sum(self.missing_roots().values())

    def records_below(self, paths: Sequence[Path]) -> list[int]:
        """Numbers of the records whose path is one of some absolute paths, or below one, ascending."""
        condition = " OR ".join(["whole = ? OR substr(whole, 1, ?) = ?"] * len(paths)) or "0"
        values: list[Value] = []
        for path in paths:
            below = os.path.join(path, "")  # noqa: PTH118 - with a separator at its end
            values += [str(path), len(below), below]
        rows = self._fetch(
            f"SELECT record FROM (SELECT record, {self._path_sql} AS whole FROM record) "
            f"WHERE {condition} ORDER BY record",
            tuple(values),
        )
        return [record for (record,) in rows]

    def records_before(self, seconds: float) -> NDArray[np.int64]:
        """Numbers int64 ``[n]`` of the records whose time, or else whose embedding, was before a Unix time."""
        sql = f"SELECT record FROM record WHERE coalesce(tbps_time_s, {self._embedded_sql}) < ? ORDER BY record"
        rows = self._fetch(sql, (seconds,))
        return np.array([record for (record,) in rows], dtype=np.int64)

    def copy_records(self, file: Path) -> None:
        """Write the records of this snapshot to a new file, with SQLite's online backup."""
        with self._lock, sqlite_errors(self.path), closing(open_sqlite(file)) as copy:
            self._connection.backup(copy)

    def raw_slice(self, first: int, last: int) -> memoryview:
        """The bytes of rows first to last+1 as they are stored."""
        return np.ascontiguousarray(self._mapped.raw[first:last]).data

    def raw(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 ``[n, row_bytes]``: some rows as they are stored."""
        return self._mapped.raw[rows]

    def release(self, first: int, last: int) -> None:
        """Give the memory of mapped rows first to last+1 back, where the file is large enough for that to matter."""
        if self._mapped.release is not None:
            self._mapped.release(first, last)

    @property
    def scan_release(self) -> Callable[[int, int], None] | None:
        """`release` for a scan; None where the file is so small that it would only cost time."""
        return self._mapped.release

    @property
    def sketch(self) -> Sketch | None:
        """The sketch, which bounds scores; None where it was not built."""
        return self._index("sketch", Sketch)

    @property
    def graph(self) -> Graph | None:
        """The graph of approximate searches; None where it was not built."""
        return self._index("graph", Graph)

    def _index(self, name: str, kind: type[_Index]) -> _Index | None:
        with self._lock:
            file = index_files(self.path, self.generation).get(name)
            if name not in self._indexes and file is not None:
                try:
                    self._indexes[name] = kind.read(file, self.model.layout.dim)
                except GalleryError:
                    if file.exists():  # else a compaction has just removed it
                        raise
            index: _Index | None = self._indexes.get(name)
            return index

    def on_device(self, device: Device, backend: SearchBackend = "auto") -> DeviceStage:
        """The vectors on a device, copied there by the first search; raises BackendError without the device."""
        with self._lock:
            if (device, backend) not in self._devices:
                from tbps_infer.gallery.search.on_device import open_device_stage

                self._devices[device, backend] = open_device_stage(self.stored, device, backend)
            return self._devices[device, backend]

    def damaged(self, error: DamagedVectorsError, method: SearchMethod) -> GalleryError:
        """What to raise when a search by a method finds that stored numbers are damaged."""
        file = self.path / self.facts.vectors_file(self.generation)
        if method not in INDEX_FILES:
            return GalleryError(f"{file} is damaged: {error}", "Restore the file from a copy.")
        return GalleryError(
            f"{file} or its {method} {INDEX_FILES[method].format(self.generation)} is damaged: {error}",
            f"tbps gallery verify GALLERY tells which: a {method} is built again, vectors are restored from a copy.",
        )

    def verify(self) -> int:
        """Read everything and compare it with the checksums; the number of segments that were compared.

        Raises:
            GalleryError: The records are damaged, or a segment of the vector file, the sketch or the graph is not
                what was written.
        """
        with self._lock, sqlite_errors(self.path):
            check_values(self._connection, self.path)
            problem = str(self._connection.execute("PRAGMA integrity_check").fetchone()[0])
        if problem != "ok":
            raise damaged_records(self.path, " ".join(problem.split()))
        segments = self.verify_vectors()
        indexes = index_files(self.path, self.generation)
        if "sketch" in indexes:
            Sketch.verify(indexes["sketch"], self.model.layout.dim)
        if "graph" in indexes:
            Graph.verify(indexes["graph"])
        return segments

    def verify_vectors(self) -> int:
        """Read the vector file alone and compare it with its checksums, as `verify` does."""
        segments = self._fetch("SELECT start, count, sha256 FROM segment ORDER BY start")
        for number, (start, count, sha256) in enumerate(segments):
            digest = hashlib.sha256()
            step = max(1, _READ_BYTES // self.facts.row_bytes)
            for first in range(start, start + count, step):
                last = min(first + step, start + count)
                digest.update(np.ascontiguousarray(self._mapped.raw[first:last]).data)
                self.release(first, last)
            if digest.hexdigest() != sha256:
                file = self.path / self.facts.vectors_file(self.generation)
                raise GalleryError(
                    f"Segment {number} (rows {start} to {start + count - 1}) of "
                    f"{file} is not what was written: its sha256 differs.",
                    "Restore the file from a copy, or embed the pictures into a new gallery.",
                )
        return len(segments)

    @property
    def _select_records(self) -> str:
        path = f"CASE typeof(path) WHEN 'text' THEN {self._path_sql} END"  # bytes joined to a text would be one
        names = ", ".join(("record", path, self._embedded_sql, *map(quoted, (*_RECORD_COLUMNS, *self.columns))))
        return f"SELECT {names} FROM record"

    def _record(self, row: tuple[Any, ...]) -> Record:
        if not all(map(isinstance, row, self._types)):
            raise damaged_records(self.path, f"a value of record {row[0]} is of another type than its column's")
        return Record(row[0], Path(row[1]), row[3], FileStamp(*row[4:7]), self._metadata(row[7:]), row[2])

    def _metadata(self, values: tuple[Value, ...]) -> dict[str, Value]:
        return {name: value for name, value in zip(self.columns, values, strict=True) if value is not None}

    def _fetch(self, sql: str, values: tuple[Value, ...] = ()) -> list[Any]:
        with self._lock, sqlite_errors(self.path), bounded(self._connection, len(self.columns)):
            return self._connection.execute(sql, values).fetchall()
