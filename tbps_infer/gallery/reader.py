"""The read side of a gallery: one snapshot of its records, and exact search over its memory-mapped vectors."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import ModelFacts
from tbps_infer.errors import GalleryError, UsageError
from tbps_infer.gallery.columns import Value, quoted
from tbps_infer.gallery.filters import Filter, Guard, matching_records
from tbps_infer.gallery.folder import GalleryFacts
from tbps_infer.gallery.kernel import DamagedVectorsError, split_products, top_k
from tbps_infer.gallery.records import Reject, committed_rows, connect_reader, metadata_columns, sqlite_errors

__all__ = ["Gallery", "Hit", "Record"]

# A block's scores are kept for this many queries at once; more are searched in turns.
_QUERIES_AT_ONCE = 1024
# Rounding to float16 lengthens a vector by less; a bound on stored norms, relative to the layout's.
_NORM_MARGIN = 1.02


@dataclass(frozen=True, slots=True)
class Hit:
    """One record found by a query.

    Attributes:
        record: Its number in the gallery.
        path: The picture, absolute.
        score: Inner product of the query's and the picture's embedding, as stored.
        split: The score's share of every segment of the model's layout, by name; they sum to the score.
        metadata: The columns in which the record holds a value.
    """

    record: int
    path: Path
    score: float
    split: Mapping[str, float]
    metadata: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `row` is where its embedding lies in `Gallery.vectors`."""

    record: int
    path: Path
    row: int
    metadata: Mapping[str, Value]


class Gallery:
    """A gallery opened for reading; a context manager, usable from several threads.

    It shows the records that were committed when it was opened, whatever a writer does meanwhile.

    Attributes:
        path: The folder.
        facts: What its ``gallery.json`` says.
        columns: Names of its metadata columns; ``id``, ``camera`` and ``time`` are always there.
        vectors: float16 or float32 ``[rows, dim]``, memory-mapped, rows of replaced pictures included.
    """

    def __init__(self, path: Path, facts: GalleryFacts, connection: sqlite3.Connection) -> None:
        """Not for callers: use `open`."""
        self.path = path
        self.facts = facts
        self._connection = connection
        self._guard = Guard(connection)
        self._lock = threading.Lock()
        self.columns = metadata_columns(connection)
        self.vectors = _map_vectors(path, facts, committed_rows(connection, path))
        count = int(connection.execute("SELECT count(*) FROM record").fetchone()[0])
        pairs = connection.execute("SELECT record, tbps_row FROM record ORDER BY record")
        flat = np.fromiter((value for pair in pairs for value in pair), dtype=np.int64, count=2 * count)
        self._records, self._rows = flat[0::2].copy(), flat[1::2].copy()

    @classmethod
    def open(cls, path: Path | str) -> Gallery:
        """Open a gallery; raises GalleryError when the folder is none, or is damaged."""
        path = Path(path)
        facts = GalleryFacts.read(path)
        with sqlite_errors(path):
            connection = connect_reader(path)
            try:
                return cls(path, facts, connection)
            except BaseException:
                connection.close()
                raise

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the snapshot; closing twice is harmless."""
        self._connection.close()

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
    def count(self) -> int:
        """How many records it has."""
        return len(self._records)

    @property
    def rejects(self) -> list[Reject]:
        """The pictures that could not be embedded, by path."""
        rows = self._fetch("SELECT path, reason FROM reject ORDER BY path")
        return [Reject(Path(path), reason) for path, reason in rows]

    def require_model(self, model: ModelFacts) -> None:
        """Raise ModelMismatchError unless the gallery was embedded by this very model."""
        self.facts.require_model(model, self.path)

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        sql = f"{self._select_records} WHERE record BETWEEN ? AND ? ORDER BY record"
        for start in range(0, self.count, 4096):
            numbers = self._records[start : start + 4096].tolist()
            yield from map(self._record, self._fetch(sql, (numbers[0], numbers[-1])))

    def search(self, queries: NDArray[np.float32], k: int = 10, where: Filter | None = None) -> list[list[Hit]]:
        """Find the records whose embeddings have the largest inner products with each query.

        The result is exact: the score of a hit is the inner product with the embedding as stored, summed in float64
        and rounded to float32, the same for a query alone or among others. Equal scores come in the order of records.

        Args:
            queries: float32 ``[n, dim]``, embeddings by the gallery's model (`require_model`).
            k: Hits per query, at least 1; fewer come back when fewer records pass the filter.
            where: What a record must satisfy; None lets all pass.

        Returns:
            For each query its hits, best first.

        Raises:
            UsageError: The queries are of another shape or type, or hold NaN or infinity; or k is below 1.
            FilterError: The filter is not valid.
            GalleryError: The stored vectors are damaged.
        """
        self._check_queries(queries)
        if k < 1:
            raise UsageError(f"k is {k}, want at least 1.")
        records, rows = self._selected(where or Filter())
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            some = queries[start : start + _QUERIES_AT_ONCE]
            scores, found = self._top_k(rows, some, k)
            details = self._details(records[np.unique(found)])
            for query, query_scores, indices in zip(some, scores, found, strict=True):
                shares = split_products(self.vectors, rows[indices], query, self._segment_starts)
                found_records = zip(records[indices].tolist(), query_scores.tolist(), shares, strict=True)
                hits.append([self._hit(details[number], score, share) for number, score, share in found_records])
        return hits

    def verify(self) -> int:
        """Read everything and compare it with the checksums; the number of segments that were compared.

        Raises:
            GalleryError: The records are damaged, or a segment of the vector file is not what was written.
        """
        problem = self._fetch("PRAGMA integrity_check")[0][0]
        if problem != "ok":
            raise GalleryError(f"The records of {self.path} are damaged: {problem}.", "Restore them from a copy.")
        segments = self._fetch("SELECT start, count, sha256 FROM segment ORDER BY start")
        for number, (start, count, sha256) in enumerate(segments):
            digest = hashlib.sha256()
            for first in range(start, start + count, 1024):
                digest.update(np.ascontiguousarray(self.vectors[first : min(first + 1024, start + count)]).data)
            if digest.hexdigest() != sha256:
                raise GalleryError(
                    f"Segment {number} (rows {start} to {start + count - 1}) of {self.path / self.facts.vectors_file}"
                    " not what was written: its sha256 differs.",
                    "Restore the file from a copy, or embed the pictures into a new gallery.",
                )
        return len(segments)

    def _check_queries(self, queries: NDArray[np.float32]) -> None:
        dim = self.model.layout.dim
        if queries.ndim != 2 or queries.shape[1] != dim or queries.dtype != np.float32:
            raise UsageError(f"The queries are {queries.dtype}{list(queries.shape)}, want float32[n, {dim}].")
        wrong = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        if len(wrong):
            raise UsageError(f"Query {wrong[0]} holds NaN or infinity, want finite numbers.")

    def _selected(self, where: Filter) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers and rows of the records that pass, in order."""
        if not where:
            return self._records, self._rows
        with self._lock, sqlite_errors(self.path):
            passing = matching_records(self._connection, self._guard, where)
        return passing, self._rows[np.searchsorted(self._records, passing)]

    def _top_k(
        self, rows: NDArray[np.int64], queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        norm = _NORM_MARGIN * math.sqrt(self.model.layout.squared_norm)
        try:
            return top_k(self.vectors, rows, queries, k, max_norm=norm)
        except DamagedVectorsError as error:
            raise GalleryError(
                f"{self.path / self.facts.vectors_file} is damaged: {error}", "Restore the file from a copy."
            ) from error

    def _details(self, records: NDArray[np.int64]) -> dict[int, Record]:
        sql = f"{self._select_records} WHERE record = ?"
        with self._lock, sqlite_errors(self.path):
            rows = [self._connection.execute(sql, (number,)).fetchone() for number in records.tolist()]
        return {row[0]: self._record(row) for row in rows}

    @property
    def _select_records(self) -> str:
        return f"SELECT {', '.join(map(quoted, ('record', 'path', 'tbps_row', *self.columns)))} FROM record"

    def _record(self, row: tuple[Any, ...]) -> Record:
        return Record(row[0], Path(row[1]), row[2], self._metadata(row[3:]))

    def _hit(self, found: Record, score: float, shares: NDArray[np.float32]) -> Hit:
        split = dict(zip(self.model.layout.names, shares.tolist(), strict=True))
        return Hit(found.record, found.path, score, split, found.metadata)

    def _metadata(self, values: tuple[Value, ...]) -> dict[str, Value]:
        return {name: value for name, value in zip(self.columns, values, strict=True) if value is not None}

    @property
    def _segment_starts(self) -> list[int]:
        return [piece.start for piece in self.model.layout.slices.values()]

    def _fetch(self, sql: str, values: tuple[Value, ...] = ()) -> list[Any]:
        with self._lock, sqlite_errors(self.path), closing(self._connection.execute(sql, values)) as rows:
            return rows.fetchall()


def _map_vectors(path: Path, facts: GalleryFacts, rows: int) -> NDArray[Any]:
    file = path / facts.vectors_file
    shape = (rows, facts.model.layout.dim)
    try:
        length = file.stat().st_size
        if length < rows * facts.row_bytes:
            raise GalleryError(
                f"{file} has {length} bytes, and its records name {rows * facts.row_bytes}: it was cut short.",
                "Restore the file from a copy, or embed the pictures into a new gallery.",
            )
        if rows == 0:
            return np.empty(shape, dtype=facts.dtype)
        return np.memmap(file, dtype=facts.dtype, mode="r", shape=shape)
    except OSError as error:
        raise GalleryError(
            f"{file} cannot be read: {error.strerror or error}.", "Copy the whole folder, or embed again."
        ) from error
