"""The SQLite file of a gallery: its tables, how it is opened, and what its errors become.

::

    root       folders that paths are relative to, each with a separator at its end
    record     one row per picture: record (number, never used again), its root and the path below it, its row in the
               vector file, the file's size, mtime and sha256, when it was embedded, why it could not be read when it
               was last looked at, the time in seconds, as an instant and as its clock shows it, and the metadata
               columns: TEXT or NUMERIC
    reject     pictures that could not be decoded, with the reason
    tombstone  pictures that were removed and stay so: sha256 and, unless they were purged, root and path
    segment    runs of rows written together, with the sha256 of their bytes
    state      one row: the generation of the vector file that rows are in
    records    a view of record, the absolute path and the metadata columns: all that a --where expression can read

What SQLite does not name does not exist: rows of the vector file beyond the last segment are remains of a writer that
was stopped.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.formats.sqlite_files import Types, bounded, check_types, open_sqlite, python_types, require_tables
from tbps_infer.gallery.columns import STANDARD_COLUMNS, ColumnType, Value, quoted, value_type
from tbps_infer.gallery.folder import RECORDS_FILE, current_records_file
from tbps_infer.gallery.roots import PATH_SQL

__all__ = [
    "SCHEMA",
    "Entry",
    "FileStamp",
    "Reject",
    "add_column",
    "check_small_tables",
    "check_values",
    "column_type",
    "committed_rows",
    "connect_reader",
    "connect_writer",
    "create_records",
    "create_view",
    "current_generation",
    "damaged_records",
    "empty_log",
    "is_current_schema",
    "metadata_columns",
    "read_rows",
    "sqlite_errors",
    "types_of",
]

_DECLARED: dict[ColumnType, str] = {"numbers": "NUMERIC", "text": "TEXT"}
_VIEW_START = ("record", "path")
_TYPES: dict[str, Types] = {
    "record": {
        **dict.fromkeys(("record", "tbps_root", "tbps_row", "tbps_size", "tbps_mtime_ns"), "number"),
        **dict.fromkeys(("path", "tbps_sha256"), "text"),
        **dict.fromkeys(("tbps_embedded_s", "tbps_time_s", "tbps_clock_s"), "number or nothing"),
        "tbps_unreachable": "text or nothing",
    },
    "root": {"root": "number", "folder": "text"},
    "reject": {"tbps_root": "number", "path": "text", "reason": "text"},
    "tombstone": {"sha256": "text", "tbps_root": "number or nothing", "path": "text or nothing"},
    "segment": {"start": "number", "count": "number", "sha256": "text"},
}
"""What columns hold; metadata are anything but bytes."""

SCHEMA = f"""
CREATE TABLE root (root INTEGER PRIMARY KEY, folder TEXT NOT NULL UNIQUE);
CREATE TABLE record (
    record INTEGER PRIMARY KEY AUTOINCREMENT,
    tbps_root INTEGER NOT NULL,
    path TEXT NOT NULL,
    tbps_row INTEGER NOT NULL UNIQUE,
    tbps_size INTEGER NOT NULL,
    tbps_mtime_ns INTEGER NOT NULL,
    tbps_sha256 TEXT NOT NULL,
    tbps_embedded_s REAL NOT NULL,
    tbps_unreachable TEXT,
    tbps_time_s REAL,
    tbps_clock_s REAL,
    {", ".join(f"{quoted(name)} TEXT" for name in STANDARD_COLUMNS)},
    UNIQUE (tbps_root, path)
);
CREATE INDEX record_camera ON record (CAST(camera AS TEXT));
CREATE INDEX record_id ON record (CAST(id AS TEXT));
CREATE INDEX record_time ON record (tbps_time_s);
CREATE INDEX record_clock ON record (tbps_clock_s);
CREATE INDEX record_sha256 ON record (tbps_sha256);
CREATE INDEX record_unreachable ON record (record) WHERE tbps_unreachable IS NOT NULL;
CREATE TABLE reject (
    tbps_root INTEGER NOT NULL, path TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (tbps_root, path)
);
CREATE TABLE tombstone (sha256 TEXT NOT NULL, tbps_root INTEGER, path TEXT);
CREATE INDEX tombstone_sha256 ON tombstone (sha256);
CREATE INDEX tombstone_path ON tombstone (tbps_root, path);
CREATE TABLE segment (start INTEGER PRIMARY KEY, count INTEGER NOT NULL CHECK (count > 0), sha256 TEXT NOT NULL);
CREATE TABLE state (generation INTEGER NOT NULL);
INSERT INTO state VALUES (0);
"""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether a file has changed: bytes, mtime in nanoseconds, and the sha256 of the content."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture as a gallery records it.

    `path` is absolute, `embedded_s` the Unix time of its embedding or now, `crop` a JPEG, for galleries that keep
    crops.
    """

    path: Path
    stamp: FileStamp
    metadata: Mapping[str, Value]
    embedded_s: float | None = None
    crop: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A picture that could not be embedded, and why, as a sentence."""

    path: Path
    reason: str


@contextmanager
def sqlite_errors(folder: Path) -> Iterator[None]:
    """Turn what SQLite raises about a gallery's records into a GalleryError."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        message = str(error)
        if "full" in message or "disk I/O" in message:
            hint = "Free some disk space and run the same command again; what was committed before is kept."
        elif "malformed" in message or "not a database" in message or "no such" in message:
            hint = f"Restore {RECORDS_FILE} from a copy, or embed the pictures into a new gallery."
        elif "locked" in message or "readonly" in message or "unable to open" in message:
            hint = "Check the folder's permissions, and that no other program holds its records."
        else:
            hint = ""
        raise GalleryError(f"The records of the gallery {folder} cannot be used: {message}.", hint) from error


def create_records(folder: Path) -> None:
    """Make the empty tables in a new file."""
    connection = open_sqlite(folder / RECORDS_FILE)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise GalleryError(
                f"The disk of {folder} has no shared memory for SQLite (its journal mode stayed {mode!r}).",
                "Put the gallery on a local disk.",
            )
        connection.executescript(f"BEGIN; {SCHEMA} {_view(STANDARD_COLUMNS)}; COMMIT;")
    finally:
        connection.close()


def connect_writer(folder: Path) -> sqlite3.Connection:
    """Open the records for writing; transactions are begun and ended by the caller."""
    # Every commit is on disk when it returns: a commit is rare beside the embedding it records. What is deleted is
    # overwritten. Hashes lie all over their index: with 2 MB of cache, as SQLite has, commits took a seventh longer.
    first = ("PRAGMA synchronous = FULL", "PRAGMA secure_delete = ON", "PRAGMA cache_size = -65536")
    return _connect(folder, "mode=rw", *first)


def connect_reader(folder: Path) -> sqlite3.Connection:
    """Open the records for reading and begin the transaction that holds one snapshot until it is closed."""
    try:
        return _begin_reading(folder, "mode=ro")
    except sqlite3.OperationalError:
        # On a read-only disk there is no room for SQLite's shared index, and nobody to share it with.
        wal = folder / f"{current_records_file(folder)}-wal"
        if os.access(folder, os.W_OK) or (wal.exists() and wal.stat().st_size > 0):
            raise
        return _begin_reading(folder, "immutable=1")


def empty_log(folder: Path, catch_up: Callable[[], bool], begin_again: Callable[[], None]) -> bool:
    """Write SQLite's log back into the records and empty it, though this process reads them all the time.

    A log begins anew only when no reader needs any of it. So, while no writer can begin, the reader takes in all that
    is committed, the log is written back, and the reader begins its transaction again, for which it needs no log.

    Args:
        folder: The gallery.
        catch_up: Makes the reader read what is committed; False when it cannot, and nothing more is done.
        begin_again: Ends the reader's transaction and begins the next.

    Returns:
        Whether the log is empty now. It is not while a writer or another reader is at work.

    Raises:
        sqlite3.Error: The records cannot be written to.
    """
    with closing(connect_writer(folder)) as hold, closing(connect_writer(folder)) as log:
        for connection in (hold, log):
            connection.execute("PRAGMA busy_timeout = 0")
        hold.execute("BEGIN IMMEDIATE")
        if not catch_up():
            return False
        log.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        begin_again()
        hold.execute("ROLLBACK")
        return bool(log.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


def _begin_reading(folder: Path, mode: str) -> sqlite3.Connection:
    return _connect(folder, mode, "PRAGMA temp_store = MEMORY", "BEGIN")


def committed_rows(connection: sqlite3.Connection, folder: Path) -> int:
    """How many rows of the vector file the segments name; raises GalleryError when they contradict the records."""
    rows, total = connection.execute(
        "SELECT coalesce(max(start + count), 0), coalesce(sum(count), 0) FROM segment"
    ).fetchone()
    last = connection.execute("SELECT coalesce(max(tbps_row), -1) FROM record").fetchone()[0]
    if rows != total or not isinstance(rows, int) or not isinstance(last, int) or last >= rows:
        raise damaged_records(folder, f"the segments name {total} rows up to row {rows}, and the records row {last}")
    return int(rows)


def damaged_records(folder: Path, why: str) -> GalleryError:
    """What to raise when the records contradict themselves."""
    return GalleryError(
        f"The records of the gallery {folder} are damaged: {why}.",
        f"Restore {RECORDS_FILE} from a copy, or embed the pictures into a new gallery.",
    )


def current_generation(connection: sqlite3.Connection) -> int:
    """Which vector file holds the rows: see `GalleryFacts.vectors_file`."""
    rows = connection.execute("SELECT generation FROM state LIMIT 2").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], int) or rows[0][0] < 0:
        raise sqlite3.DatabaseError("malformed state: it does not tell the generation of the vector file")
    return int(rows[0][0])


def check_values(connection: sqlite3.Connection, folder: Path) -> None:
    """Read all records, and raise GalleryError where a value is of a type that was never written."""
    _check_types(connection, folder, _TYPES)


def check_small_tables(connection: sqlite3.Connection, folder: Path) -> None:
    """As `check_values`, but for the records themselves: whoever takes one of them out looks at its values.

    To read 200,000 records took as long as all else that opening them does (measured).
    """
    _check_types(connection, folder, {table: types for table, types in _TYPES.items() if table != "record"})


def _check_types(connection: sqlite3.Connection, folder: Path, tables: Mapping[str, Types]) -> None:
    try:
        check_types(connection, tables)
    except ValueError as error:
        raise damaged_records(folder, str(error)) from error


def types_of(names: Sequence[str]) -> tuple[tuple[type, ...], ...]:
    """The types, for `isinstance`, of some columns of a record; metadata are anything but bytes."""
    return python_types(names, _TYPES["record"])


def read_rows(
    connection: sqlite3.Connection, folder: Path, committed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of all records int64 ``[n]``, ascending, and their rows int64 ``[n]``, all below `committed`.

    They come out of an index. Where nothing was removed or replaced, numbers and rows run on side by side, which is
    looked at in a third of the time; else as two texts, which takes half the time of a row each out of the table.

    Raises:
        GalleryError: A record has no row, or one that was never committed.
    """
    side_by_side = _rows_side_by_side(connection)
    if side_by_side is not None and side_by_side[1][-1] < committed:
        return side_by_side
    sql = (
        "SELECT count(*), total(typeof(tbps_row) = 'integer' AND tbps_row >= 0), "
        "group_concat(record), group_concat(tbps_row) FROM record"
    )
    with bounded(connection):
        count, right, *texts = connection.execute(sql).fetchone()
    if right != count:
        raise damaged_records(folder, "a record has no row in the vector file")
    records, rows = (np.fromstring(text or "", dtype=np.int64, sep=",") for text in texts)
    if rows.max(initial=-1) >= committed:  # an index that is out of order hides it from SQLite's own max()
        raise damaged_records(folder, f"a record has row {rows.max()}, and {committed} were committed")
    if (records[1:] > records[:-1]).all():
        return records, rows
    order = np.argsort(records)
    return records[order], rows[order]


def _rows_side_by_side(connection: sqlite3.Connection) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The numbers of all records and their rows, if both rise by one from record to record; None if not."""
    ends = connection.execute("SELECT record, tbps_row FROM record ORDER BY record LIMIT 1").fetchone()
    last = connection.execute("SELECT max(record) FROM record").fetchone()[0]
    if ends is None or not all(isinstance(each, int) for each in (*ends, last)) or ends[1] < 0:
        return None
    first, row = ends
    with bounded(connection):
        count, right = connection.execute(
            "SELECT count(*), total(tbps_row IS record - ?) FROM record", (first - row,)
        ).fetchone()
    if not count == right == last - first + 1:
        return None
    steps = np.arange(count, dtype=np.int64)
    return first + steps, row + steps


def _check_schema(connection: sqlite3.Connection, folder: Path) -> None:
    """Raise GalleryError unless the tables are tables, and the view is the one that was made."""
    try:
        require_tables(connection, "record", "reject", "segment", "state")
        columns = metadata_columns(connection)
        if is_current_schema(connection):
            require_tables(connection, "root", "tombstone")
        views = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'").fetchall()
        if views not in ([("records", _view(columns))], [("records", _old_view(columns))]):
            raise ValueError("its view is not the one that was made")
    except ValueError as error:
        raise damaged_records(folder, str(error)) from error


def is_current_schema(connection: sqlite3.Connection) -> bool:
    """Whether the records are of this version's schema; the previous one had absolute paths, and no roots."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'root'").fetchone()[0])


def metadata_columns(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Names of the metadata columns, in the order in which they came."""
    names = [str(row[1]) for row in connection.execute("PRAGMA table_info(records)")]
    return tuple(names[len(_VIEW_START) :])


def column_type(connection: sqlite3.Connection, name: str) -> ColumnType | None:
    """What a metadata column holds: as it was declared, else as its first value tells; None where it has none."""
    declared = next(str(row[2]) for row in connection.execute("PRAGMA table_info(record)") if row[1] == name)
    if declared in _DECLARED.values():
        return next(kind for kind, text in _DECLARED.items() if text == declared)
    column = quoted(name)
    first = connection.execute(f"SELECT {column} FROM record WHERE {column} IS NOT NULL LIMIT 1").fetchone()
    return None if first is None else value_type(first[0])


def add_column(connection: sqlite3.Connection, name: str, kind: ColumnType | None) -> None:
    """Add a metadata column, empty for every record so far, inside the caller's transaction; of any type for None."""
    columns = (*metadata_columns(connection), name)
    connection.execute("DROP VIEW records")
    connection.execute(f"ALTER TABLE record ADD COLUMN {quoted(name)} {_DECLARED[kind] if kind else ''}")
    create_view(connection, columns)


def create_view(connection: sqlite3.Connection, columns: tuple[str, ...]) -> None:
    """Make the view of some metadata columns, inside the caller's transaction."""
    connection.execute(_view(columns))


def _view(columns: tuple[str, ...]) -> str:
    names = ", ".join(("record", f"{PATH_SQL} AS path", *map(quoted, columns)))
    return f"CREATE VIEW records AS SELECT {names} FROM record"


def _old_view(columns: tuple[str, ...]) -> str:
    """The view of the previous schema."""
    return f"CREATE VIEW records AS SELECT {', '.join(map(quoted, (*_VIEW_START, *columns)))} FROM record"


def _connect(folder: Path, mode: str, *first: str) -> sqlite3.Connection:
    """Open the records, execute some statements, and look at the schema: only then are they known to be readable."""
    file = folder / current_records_file(folder)
    if not file.is_file():
        file = folder / current_records_file(folder)  # a purge may have ended between the two looks
    if not file.is_file():
        raise GalleryError(
            f"The gallery {folder} has no {file.name}.",
            "Copy the whole folder, or embed the pictures into a new gallery.",
        )
    connection = open_sqlite(file, mode)
    try:
        for statement in first:
            connection.execute(statement)
        _check_schema(connection, folder)
    except BaseException:
        connection.close()
        raise
    return connection
