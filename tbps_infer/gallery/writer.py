"""The one writer of a gallery: rows are appended and synced, then one SQLite transaction names them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.atomic import new_file
from tbps_infer.errors import GalleryError
from tbps_infer.gallery.columns import (
    STANDARD_COLUMNS,
    ColumnType,
    Value,
    column_problem,
    find_column,
    quoted,
    value_type,
)
from tbps_infer.gallery.creation import make_folder, open_facts, require_space, system_errors
from tbps_infer.gallery.folder import (
    DtypeName,
    GalleryFacts,
    belongs_to_other_generation,
    missing_vectors,
    require_length,
    writer_lock,
)
from tbps_infer.gallery.mapping import checked_rows
from tbps_infer.gallery.records import (
    Entry,
    FileStamp,
    Reject,
    add_column,
    column_type,
    committed_rows,
    connect_writer,
    current_generation,
    metadata_columns,
    sqlite_errors,
)
from tbps_infer.gallery.times import read_moment
from tbps_infer.model_facts import ModelFacts

__all__ = ["GalleryWriter"]

_COPY_BYTES = 16 << 20


class GalleryWriter:
    """Creates a gallery or continues one; a context manager.

    A call of `commit` happens as a whole or not at all, also when the process is killed or the disk is full.
    """

    def __init__(
        self, folder: Path, facts: GalleryFacts, resources: ExitStack, connection: sqlite3.Connection
    ) -> None:
        """Not for callers: use `open`."""
        self.path = folder
        self.facts = facts
        self._resources = resources
        self._connection = connection
        self._rows = 0
        self._columns: tuple[str, ...] = ()
        self._handle: int | None = None
        resources.callback(self._close_vectors)
        self._open_vectors()

    @classmethod
    def open(
        cls, path: Path, model: ModelFacts, *, dtype: DtypeName | None = None, bundle_path: Path | None = None
    ) -> GalleryWriter:
        """Continue the gallery at `path`, or create one where nothing, or an empty folder, is.

        Args:
            path: The gallery's folder.
            model: The model whose embeddings will be added.
            dtype: How numbers are stored; None takes the gallery's own, float16 for a new one.
            bundle_path: Where the model was read from, recorded so that a search finds it.

        Raises:
            GalleryBusyError: Another writer is at it.
            ModelMismatchError: The gallery was embedded by another model.
            GalleryError: The folder is something else, is damaged, or cannot be written.
        """
        with ExitStack() as resources, system_errors(path):
            make_folder(path)
            resources.enter_context(writer_lock(path))
            facts = open_facts(path, model, dtype, bundle_path)
            with sqlite_errors(path):
                connection = connect_writer(path)
                resources.callback(connection.close)
                writer = cls(path, facts, resources, connection)
            writer._resources = resources.pop_all()
        return writer

    def __enter__(self) -> GalleryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the gallery back; closing twice is harmless."""
        self._resources.close()

    @property
    def rows(self) -> int:
        """Rows of the vector file that are committed, dead ones included."""
        return self._rows

    def find(self, path: Path) -> Entry | None:
        """What the gallery has recorded about a picture, by its absolute path."""
        names = ", ".join(map(quoted, self._columns))
        with sqlite_errors(self.path):
            found = self._connection.execute(
                f"SELECT tbps_size, tbps_mtime_ns, tbps_sha256, {names} FROM record WHERE path = ?", (str(path),)
            ).fetchone()
        if found is None:
            return None
        return Entry(path, FileStamp(*found[:3]), dict(zip(self._columns, found[3:], strict=True)))

    def commit(
        self,
        embedded: Sequence[Entry] = (),
        vectors: NDArray[np.float32] | None = None,
        *,
        unchanged: Sequence[Entry] = (),
        rejects: Sequence[Reject] = (),
    ) -> None:
        """Record what happened to some pictures, all of it or nothing.

        Args:
            embedded: New or changed pictures. A new one gets the next record number; a changed one keeps its number
                and gets a new row. Metadata columns that an entry does not name keep what they hold.
            vectors: float32 ``[len(embedded), dim]``, their embeddings.
            unchanged: Pictures whose recorded stamp or metadata may have to be brought up to date.
            rejects: Pictures that could not be decoded; their records, if any, go.

        Raises:
            GalleryError: A vector is not an embedding of this model, a column's name cannot be used, a value is of
                another type than its column, or the disk does not take it; the gallery is as it was before the call.
        """
        data = checked_rows(vectors, len(embedded), self.facts) if vectors is not None or embedded else None
        self.commit_stored(embedded, data, unchanged=unchanged, rejects=rejects)

    def commit_stored(
        self,
        embedded: Sequence[Entry],
        data: NDArray[np.uint8] | None,
        *,
        unchanged: Sequence[Entry] = (),
        rejects: Sequence[Reject] = (),
    ) -> None:
        """As `commit`, with embeddings uint8 ``[len(embedded), row_bytes]`` as another gallery stores them."""
        unchanged = [entry for entry in unchanged if self._differs(entry)]
        if data is None and not unchanged and not rejects:
            return
        with self._all_or_nothing():
            if data is not None and len(data):
                require_space(self.path, data.nbytes)
                self._append(data.data.cast("B"))
                self._connection.execute(
                    "INSERT INTO segment VALUES (?, ?, ?)",
                    (self._rows, len(data), hashlib.sha256(data.data).hexdigest()),
                )
            self._add_columns([*embedded, *unchanged])
            for row, entry in enumerate(embedded, self._rows):
                self._put(entry, row)
            for entry in unchanged:
                self._put(entry, None)
            for reject in rejects:
                self._connection.execute("DELETE FROM record WHERE path = ?", (str(reject.path),))
                self._connection.execute(
                    "INSERT INTO reject VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET reason = excluded.reason",
                    (str(reject.path), reject.reason),
                )
            self._connection.execute("COMMIT")
            self._rows += 0 if data is None else len(data)

    def remove(self, records: Sequence[int]) -> int:
        """Remove records by number, all or none; returns how many went. Their rows are dead until `compact`."""
        with self._all_or_nothing():
            gone = sum(
                self._connection.execute("DELETE FROM record WHERE record = ?", (number,)).rowcount
                for number in records
            )
            self._connection.execute("COMMIT")
        return gone

    def compact(self) -> int:
        """Write the rows that records name, in their order, to a new vector file, and drop the others.

        Searches that are open go on with the file they have. Indexes belong to the old file and go with it.

        Returns:
            How many rows were dropped.

        Raises:
            GalleryError: The disk does not take the new file; the gallery is as it was before the call.
        """
        old, generation = self._rows, self.generation + 1
        new_file = self.path / self.facts.vectors_file(generation)
        try:
            with self._all_or_nothing():
                live = [row for (row,) in self._connection.execute("SELECT tbps_row FROM record ORDER BY record")]
                require_space(self.path, len(live) * self.facts.row_bytes)
                segments = self._copy_rows(np.array(live, dtype=np.int64), new_file)
                # Twice, as no two records may have the same row even for a moment.
                self._connection.executemany(
                    "UPDATE record SET tbps_row = ? WHERE tbps_row = ?",
                    [(-1 - new, row) for new, row in enumerate(live)],
                )
                self._connection.execute("UPDATE record SET tbps_row = -1 - tbps_row")
                self._connection.execute("DELETE FROM segment")
                self._connection.executemany("INSERT INTO segment VALUES (?, ?, ?)", segments)
                self._connection.execute("UPDATE state SET generation = ?", (generation,))
                self._connection.execute("COMMIT")
        except BaseException:
            if current_generation(self._connection) != generation:
                new_file.unlink(missing_ok=True)
            raise
        self._open_vectors()
        return old - len(live)

    def _copy_rows(self, rows: NDArray[np.int64], file: Path) -> list[tuple[int, int, str]]:
        """Copy rows to a new file; returns its segments."""
        step = max(1, _COPY_BYTES // self.facts.row_bytes)
        segments = []
        with new_file(file) as temporary, temporary.open("wb") as out:
            if len(rows):
                source = np.memmap(self.path / self.facts.vectors_file(self.generation), dtype=np.uint8, mode="r")
                table = source[: self._rows * self.facts.row_bytes].reshape(self._rows, -1)
            for start in range(0, len(rows), step):
                data = table[rows[start : start + step]]
                out.write(data.data)
                segments.append((start, len(data), hashlib.sha256(data.data).hexdigest()))
        return segments

    def _open_vectors(self) -> None:
        """Open the current generation's file, and remove what a compaction left of others."""
        self.generation = current_generation(self._connection)
        file = self.path / self.facts.vectors_file(self.generation)
        try:
            handle = os.open(file, os.O_RDWR)
        except FileNotFoundError as error:
            raise missing_vectors(file) from error
        if self._handle is not None:
            os.close(self._handle)
        self._handle = handle
        for other in list(self.path.iterdir()):
            if belongs_to_other_generation(other.name, self.facts, self.generation):
                other.unlink(missing_ok=True)
        self._recover()

    def _close_vectors(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _differs(self, entry: Entry) -> bool:
        """Whether recording an entry, which the gallery has already, would change anything."""
        known = self.find(entry.path)
        if known is None or known.stamp != entry.stamp:
            return True
        return any(
            (column := find_column(name, self._columns)) is None or known.metadata[column] != _stored(column, value)
            for name, value in entry.metadata.items()
        )

    def _add_columns(self, entries: Sequence[Entry]) -> None:
        """Add the columns that are not there yet, and refuse values of another type than their column's."""
        found = dict.fromkeys(
            (name, value_type(value)) for entry in entries for name, value in entry.metadata.items()
        )
        for name, kind in sorted(found, key=lambda pair: pair[1] is None):  # a column's values tell its type
            column = find_column(name, self._columns)
            if column is None:
                if problem := column_problem(name):
                    raise GalleryError(f"The metadata column {name!r} {problem}.", "Give it another name.")
                add_column(self._connection, name, kind)
                self._columns = metadata_columns(self._connection)
            elif kind is not None and column not in STANDARD_COLUMNS:
                held = column_type(self._connection, column)
                if held not in (None, kind):
                    raise _other_type(entries, name, kind)

    def _put(self, entry: Entry, row: int | None) -> None:
        """Insert or update one record; `row` None leaves it at its row."""
        values: dict[str, Value] = {
            "tbps_size": entry.stamp.size,
            "tbps_mtime_ns": entry.stamp.mtime_ns,
            "tbps_sha256": entry.stamp.sha256,
        }
        if row is not None:
            values["tbps_row"] = row
        for name, value in entry.metadata.items():
            column = find_column(name, self._columns)
            assert column is not None  # _add_columns has seen to it
            values[column] = _stored(column, value)
            if column == "time":
                moment = read_moment(value)
                values["tbps_time_s"], values["tbps_clock_s"] = (
                    (moment.seconds, moment.clock_seconds) if moment else (None, None)
                )
        path = str(entry.path)
        changes = ", ".join(f"{quoted(name)} = ?" for name in values)
        updated = self._connection.execute(f"UPDATE record SET {changes} WHERE path = ?", (*values.values(), path))
        if updated.rowcount == 0:
            names = ", ".join(map(quoted, ("path", *values)))
            marks = ", ".join("?" * (len(values) + 1))
            self._connection.execute(f"INSERT INTO record ({names}) VALUES ({marks})", (path, *values.values()))
        self._connection.execute("DELETE FROM reject WHERE path = ?", (path,))

    def _append(self, data: memoryview) -> None:
        assert self._handle is not None
        offset = self._rows * self.facts.row_bytes
        while data:
            written = os.pwrite(self._handle, data, offset)
            data, offset = data[written:], offset + written
        os.fsync(self._handle)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            with system_errors(self.path), sqlite_errors(self.path):
                self._connection.execute("BEGIN IMMEDIATE")
                yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._recover()
            raise

    def _recover(self) -> None:
        """Learn what is committed, and cut the vector file to it."""
        if self.generation != current_generation(self._connection):
            self._open_vectors()  # a compaction was committed, and interrupted before it got here
            return
        self._rows = committed_rows(self._connection, self.path)
        self._columns = metadata_columns(self._connection)
        wanted = self._rows * self.facts.row_bytes
        assert self._handle is not None
        length = os.fstat(self._handle).st_size
        require_length(self.path / self.facts.vectors_file(self.generation), length, wanted)
        if length > wanted:
            os.ftruncate(self._handle, wanted)


def _stored(column: str, value: Value) -> Value:
    """A value as it is stored: who, where and when are text."""
    return value if value is None or column not in STANDARD_COLUMNS else str(value)


def _other_type(entries: Sequence[Entry], name: str, kind: ColumnType) -> GalleryError:
    entry = next(each for each in entries if value_type(each.metadata.get(name)) == kind)
    other = "numbers" if kind == "text" else "text"
    return GalleryError(
        f"{name} is {entry.metadata[name]!r} for {entry.path}, and the gallery holds {other} in this column.",
        f"Keep it as text: --text {name}." if other == "text" else "Correct it, or give the column another name.",
    )
