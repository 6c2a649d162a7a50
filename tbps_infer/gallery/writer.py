"""The one writer of a gallery: rows are appended and synced, then one SQLite transaction names them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.atomic import new_file
from tbps_infer.errors import UsageError
from tbps_infer.formats.sqlite_files import open_sqlite
from tbps_infer.gallery.columns import ColumnType, Value
from tbps_infer.gallery.conversion import convert_records
from tbps_infer.gallery.creation import make_folder, open_facts, require_space, system_errors
from tbps_infer.gallery.folder import (
    SCHEMA_VERSION,
    DtypeName,
    GalleryFacts,
    belongs_to_other_generation,
    missing_vectors,
    next_records_file,
    require_length,
    require_own_files,
    writer_lock,
)
from tbps_infer.gallery.mapping import checked_rows
from tbps_infer.gallery.own_vectors import as_column, as_ids, as_rows
from tbps_infer.gallery.record_table import Recorded, RecordTable
from tbps_infer.gallery.records import (
    Entry,
    FileStamp,
    Reject,
    check_small_tables,
    check_values,
    committed_rows,
    connect_writer,
    current_generation,
    is_current_schema,
    sqlite_errors,
)
from tbps_infer.gallery.roots import PATH_SQL, relocate, remove_unused
from tbps_infer.gallery.tombstones import Tombstone, add_tombstone, bury, forget_paths, forget_tombstone, is_removed
from tbps_infer.model_facts import ModelFacts

__all__ = ["GalleryWriter", "open_writer"]

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
        self._table = RecordTable(connection)
        self._rows = 0
        self._handle: int | None = None
        resources.callback(self._close)
        self._open_vectors()

    @classmethod
    def open(
        cls, path: Path | str, model: ModelFacts, *, dtype: DtypeName | None = None, bundle_path: Path | None = None
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
        path = Path(path)
        with ExitStack() as resources, system_errors(path):
            make_folder(path)
            resources.enter_context(writer_lock(path))
            facts = open_facts(path, model, dtype, bundle_path)
            with sqlite_errors(path), ExitStack() as undo:
                connection = connect_writer(path)
                undo.callback(connection.close)
                (check_small_tables if is_current_schema(connection) else check_values)(connection, path)
                require_own_files(path, facts.records_file, facts.vectors_file(current_generation(connection)))
                convert_records(connection)
                if facts.schema != SCHEMA_VERSION:
                    facts = replace(facts, schema=SCHEMA_VERSION)
                    facts.write(path)
                undo.pop_all()
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

    @property
    def keeps_crops(self) -> bool:
        """False: a folder has none."""
        return False

    def find(self, path: Path) -> Entry | None:
        """What the gallery has recorded about a picture, by its absolute path."""
        known = self.find_all([path]).get(path)
        return None if known is None else Entry(path, known.stamp, known.metadata)

    def find_all(self, paths: Iterable[Path]) -> dict[Path, Recorded]:
        """What the gallery has recorded about some pictures, those of them that have a record."""
        with sqlite_errors(self.path):
            return self._table.find(paths)

    def stamp(self, path: Path) -> FileStamp | None:
        """The stamp of a picture that has a record, by its absolute path."""
        found = self.find(path)
        return None if found is None else found.stamp

    def of_content(self, sha256: str) -> list[Path]:
        """The paths of the records whose file had this content."""
        with sqlite_errors(self.path):
            return self._table.of_content(sha256)

    @property
    def has_tombstones(self) -> bool:
        """Whether anything was removed on purpose: most galleries need not be asked for each picture."""
        with sqlite_errors(self.path):
            return bool(self._connection.execute("SELECT EXISTS (SELECT 1 FROM tombstone)").fetchone()[0])

    def was_removed(self, path: Path, sha256: str | None = None) -> bool:
        """Whether a picture was removed on purpose: see `tbps_infer.gallery.tombstones`."""
        with sqlite_errors(self.path):
            return is_removed(self._connection, self._table.roots, path, sha256)

    def add_tombstones(self, tombstones: Sequence[Tombstone]) -> None:
        """Keep the tombstones of another gallery, except those of pictures that have a record here."""
        with self._all_or_nothing():
            for each in tombstones:
                is_here = each.path is not None and self._table.number(each.path) is not None
                if not is_here and not self._table.of_content(each.sha256):
                    add_tombstone(self._connection, self._table.roots, each)
            self._connection.execute("COMMIT")

    def roots(self) -> list[Path]:
        """The folders that paths are recorded relative to."""
        with sqlite_errors(self.path):
            rows = self._connection.execute("SELECT folder FROM root ORDER BY folder")
            return [Path(folder) for (folder,) in rows]

    def paths_below(self, folder: Path, *, rejects: bool = False) -> list[Path]:
        """The paths of the records, or of the rejects, that are a folder or below it, by path."""
        sql = f"SELECT {PATH_SQL} AS whole FROM {'reject' if rejects else 'record'} ORDER BY whole"
        with sqlite_errors(self.path):
            paths = [Path(path) for (path,) in self._connection.execute(sql)]
        return [path for path in paths if path.is_relative_to(folder)]

    def add_roots(self, folders: Sequence[Path]) -> None:
        """Record the new pictures below some folders relative to these."""
        with self._all_or_nothing():
            self._table.roots.add(folders)
            self._connection.execute("COMMIT")

    def relocate(self, old: Path, new: Path) -> int:
        """Record the pictures below a folder as being below another; returns how many.

        Raises:
            GalleryError: Nothing is recorded below `old`, or a picture is recorded at its new place already.
        """
        with self._all_or_nothing():
            moved = relocate(self._connection, old, new)
            self._connection.execute("COMMIT")
        self._table.load()
        return moved

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
        """Record what happened to some pictures, all of it or nothing.

        Args:
            embedded: New or changed pictures. A new one gets the next record number; a changed one keeps its number
                and gets a new row. Metadata columns that an entry does not name keep what they hold. Tombstones of
                their paths and content go: whoever is to honour them asks `was_removed` before.
            vectors: float32 ``[len(embedded), dim]``, their embeddings.
            unchanged: Pictures whose recorded stamp or metadata may have to be brought up to date.
            rejects: Pictures that could not be decoded; their records, if any, go.
            unreachable: Recorded pictures that could not be read, and why; their records stay.
            moved: Old paths of recorded pictures with what they are now; records, numbers and rows stay.

        Raises:
            GalleryError: A vector is not an embedding of this model, a column's name cannot be used, a value is of
                another type than its column, or the disk does not take it; the gallery is as it was before the call.
        """
        data = checked_rows(vectors, len(embedded), self.facts) if vectors is not None or embedded else None
        known = self.find_all(entry.path for entry in unchanged)
        changes = [
            entry
            for entry in unchanged
            if entry.path not in known or known[entry.path].differs(entry.stamp, entry.metadata)
        ]
        if data is None and not (changes or rejects or unreachable or moved):
            return
        with self._all_or_nothing():
            for old, entry in moved:
                self._table.move(old, entry.path)
                forget_tombstone(self._connection, self._table.roots, entry.path, entry.stamp.sha256)
            self._record(embedded, data, [*(entry for _, entry in moved), *changes])
            for problem in unreachable:
                self._table.mark_unreachable(problem)
            for reject in rejects:
                self._table.reject(reject)
            self._connection.execute("COMMIT")
            self._rows += 0 if data is None else len(data)

    def add(
        self,
        ids: Sequence[str | int] | NDArray[Any],
        vectors: NDArray[np.floating[Any]],
        metadata: Mapping[str, Sequence[Value | datetime] | NDArray[Any]] | None = None,
        *,
        paths: Sequence[Path | str] | None = None,
    ) -> None:
        """Record vectors that another program made (`ModelFacts.of_vectors`), all of them or none.

        Args:
            ids: What the column ``id`` holds, as text.
            vectors: ``[len(ids), dim]`` of norm 1.
            metadata: More columns, each with a value per vector; arrays and what has a ``tolist`` too.
            paths: The pictures. A path that is recorded already gets the new vector and keeps its number. When not
                given, there are none, and each id stands for itself.

        Raises:
            UsageError: The vectors are no numbers ``[n, dim]``, a time is none, lengths differ, or an id or a path is
                there twice.
            GalleryError: As `commit`.
        """
        names = as_ids(ids)
        columns: dict[str, list[Value]] = {"id": [*names]}
        for name, values in (metadata or {}).items():
            if name.lower() == "id":
                raise UsageError(f"The column {name} is the ids.", "Give it once, as ids.")
            columns[name] = as_column(name, values)
        places = [self._place(each) for each in names] if paths is None else [Path(each).absolute() for each in paths]
        rows = as_rows(vectors)
        for name, count in (*((name, len(values)) for name, values in columns.items()), ("paths", len(places))):
            if count != len(rows):
                raise UsageError(f"There are {len(rows)} vectors and {count} values of {name}.", "Give one for each.")
        if len(set(places)) < len(places):
            twice = next(place for place in places if places.count(place) > 1)
            raise UsageError(f"{twice} is there twice.", "Give every vector a path of its own, or an id of its own.")
        self.commit(
            [
                Entry(place, _stamp(place, row), dict(zip(columns, values, strict=True)))
                for place, row, values in zip(places, rows, zip(*columns.values(), strict=True), strict=True)
            ],
            rows,
        )

    def _place(self, name: str) -> Path:
        """What stands for the path of a vector without a picture: a name in the gallery that no file has."""
        return self.path.absolute() / f"id={name.replace('%', '%25').replace('/', '%2F')}"

    def commit_stored(self, embedded: Sequence[Entry], data: NDArray[np.uint8] | None) -> None:
        """As `commit`, with embeddings uint8 ``[len(embedded), row_bytes]`` as another gallery stores them."""
        if data is None:
            return
        with self._all_or_nothing():
            self._record(embedded, data, [])
            self._connection.execute("COMMIT")
            self._rows += len(data)

    def commit_batches(
        self,
        columns: Mapping[str, ColumnType],  # noqa: ARG002 - the protocol's
        batches: Iterator[tuple[Sequence[Entry], NDArray[np.uint8]]],
    ) -> None:
        """Commit batches of rows, each as `commit_stored` does."""
        for each in batches:
            self.commit_stored(*each)

    def _record(self, embedded: Sequence[Entry], data: NDArray[np.uint8] | None, unchanged: Sequence[Entry]) -> None:
        """Append rows and name them, and bring unchanged entries up to date, inside a transaction."""
        if data is not None and len(data):
            require_space(self.path, data.nbytes)
            self._append(data.data.cast("B"))
            self._connection.execute(
                "INSERT INTO segment VALUES (?, ?, ?)",
                (self._rows, len(data), hashlib.sha256(data.data).hexdigest()),
            )
        self._table.add_columns([*embedded, *unchanged])
        buried = self.has_tombstones
        for row, entry in enumerate(embedded, self._rows):
            self._table.put(entry, row)
            if buried:
                forget_tombstone(self._connection, self._table.roots, entry.path, entry.stamp.sha256)
        for entry in unchanged:
            self._table.put(entry, None)

    def remove(self, records: Sequence[int], *, tombstones: bool = True) -> int:
        """Remove records by number, all or none; returns how many went. Their rows are dead until `compact`.

        Args:
            records: Their numbers.
            tombstones: Whether embedding the same pictures again leaves them out.
        """
        gone = 0
        with self._all_or_nothing():
            for number in records:
                if tombstones:
                    bury(self._connection, number)
                gone += self._connection.execute("DELETE FROM record WHERE record = ?", (number,)).rowcount
            self._connection.execute("COMMIT")
        return gone

    def remove_paths(self, paths: Sequence[Path]) -> int:
        """Remove records by their paths, without tombstones; returns how many went."""
        numbers = [number for path in paths if (number := self._table.number(path)) is not None]
        return self.remove(numbers, tombstones=False)

    def forget_rejects(self, paths: Sequence[Path]) -> None:
        """Take pictures off the list of rejects."""
        with self._all_or_nothing():
            for path in paths:
                self._table.drop_reject(path)
            self._connection.execute("COMMIT")

    def rewrite_records(self) -> None:
        """Write the records to a new file that holds nothing which was removed, and remove the old one.

        Tombstones keep their hashes only. The old file is not written to: readers that have it open go on with it.
        """
        with self._all_or_nothing():
            forget_paths(self._connection)
            remove_unused(self._connection)
            self._connection.execute("COMMIT")
        name = next_records_file(self.facts.records_file)
        with system_errors(self.path), sqlite_errors(self.path):
            require_space(self.path, (self.path / self.facts.records_file).stat().st_size)
            with new_file(self.path / name) as temporary:
                self._connection.execute("VACUUM INTO ?", (str(temporary),))
                with closing(open_sqlite(temporary)) as fresh:
                    fresh.execute("PRAGMA journal_mode = WAL")
            facts = replace(self.facts, records_file=name)
            facts.write(self.path)
            self.facts = facts
            self._connection.close()
            self._connection = connect_writer(self.path)
            self._table = RecordTable(self._connection)
            self._open_vectors()

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
            with suppress(sqlite3.Error, OSError):  # what led here says more
                if current_generation(self._connection) != generation:
                    new_file.unlink(missing_ok=True)
            raise
        with system_errors(self.path), sqlite_errors(self.path):
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

    def _close(self) -> None:
        self._connection.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

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
        self._table.load()
        wanted = self._rows * self.facts.row_bytes
        assert self._handle is not None
        length = os.fstat(self._handle).st_size
        require_length(self.path / self.facts.vectors_file(self.generation), length, wanted)
        if length > wanted:
            os.ftruncate(self._handle, wanted)


def _stamp(path: Path, vector: NDArray[np.float32]) -> FileStamp:
    """The stamp of a picture, or, where there is none, of the vector itself."""
    try:
        status, content = path.stat(), path.read_bytes()
    except OSError:
        return FileStamp(0, 0, hashlib.sha256(vector.tobytes()).hexdigest())
    return FileStamp(status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest())


def open_writer(path: Path | str) -> GalleryWriter:
    """The writer of an existing gallery, every value of whose records has been looked at."""
    path = Path(path)
    facts = GalleryFacts.read(path)
    with ExitStack() as undo, sqlite_errors(path):
        writer = undo.enter_context(GalleryWriter.open(path, facts.model))
        check_values(writer._connection, path)
        undo.pop_all()
    return writer
