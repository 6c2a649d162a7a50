"""The rows of records and rejects as the one writer changes them: each call inside the writer's transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.columns import (
    STANDARD_COLUMNS,
    Value,
    column_problem,
    find_column,
    quoted,
    value_type,
)
from tbps_infer.gallery.records import Entry, FileStamp, Reject, add_column, column_type, metadata_columns, types_of
from tbps_infer.gallery.roots import PATH_SQL, Roots
from tbps_infer.gallery.storable import other_type, refuse_unstorable
from tbps_infer.gallery.times import read_moment

__all__ = ["RecordTable", "Recorded"]

_STAMP = ("tbps_size", "tbps_mtime_ns", "tbps_sha256")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a gallery has recorded about a picture.

    Attributes:
        stamp: The file that was embedded.
        metadata: All columns.
        unreachable: Whether the file could not be read when it was last looked at.
    """

    stamp: FileStamp
    metadata: Mapping[str, Value]
    unreachable: bool

    def differs(self, stamp: FileStamp, metadata: Mapping[str, Value]) -> bool:
        """Whether recording the same picture with this stamp and metadata would change anything."""
        return self.unreachable or self.stamp != stamp or any(map(self._differs, metadata, metadata.values()))

    def _differs(self, name: str, value: Value) -> bool:
        column = name if name in self.metadata else find_column(name, self.metadata)
        return column is None or self.metadata[column] != _stored(column, value)


class RecordTable:
    """Finds, inserts and changes records by their absolute paths.

    Attributes:
        roots: What paths are stored relative to.
        columns: Names of the metadata columns.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.roots = Roots(connection)
        self.columns = metadata_columns(connection)

    def load(self) -> None:
        """Learn what is committed."""
        self.roots.load()
        self.columns = metadata_columns(self._connection)

    def number(self, path: Path) -> int | None:
        """The record of a path; None when it has none."""
        sql = "SELECT record FROM record WHERE tbps_root = ? AND path = ?"
        for place in self.roots.places(path):
            if row := self._connection.execute(sql, place).fetchone():
                return int(row[0])
        return None

    def find(self, paths: Iterable[Path]) -> dict[Path, Recorded]:
        """What is recorded about some pictures, those that have a record: a statement for each root above them."""
        wanted: dict[int, dict[str, Path]] = {}
        for path in paths:
            for root, below in self.roots.places(path):
                wanted.setdefault(root, {})[below] = path
        names = ("path", "tbps_unreachable", *_STAMP, *self.columns)
        types = types_of(names)
        sql = (
            f"SELECT {', '.join(map(quoted, names))} FROM record "
            "WHERE tbps_root = ? AND path IN (SELECT value FROM json_each(?))"
        )
        found: dict[Path, Recorded] = {}
        for root in reversed(self.roots.numbers):  # what is below the longest root counts
            names_below = wanted.get(root, {})
            for row in self._connection.execute(sql, (root, json.dumps([*names_below]))) if names_below else ():
                if not all(map(isinstance, row, types)):
                    raise sqlite3.DatabaseError(f"malformed: a value of {row[0]!r} is of another type")
                stamp, values = FileStamp(*row[2:5]), row[5:]
                found[names_below[row[0]]] = Recorded(
                    stamp, dict(zip(self.columns, values, strict=True)), row[1] is not None
                )
        return found

    def of_content(self, sha256: str) -> list[Path]:
        """The paths of the records whose file had this content."""
        sql = f"SELECT {PATH_SQL} FROM record WHERE tbps_sha256 = ? ORDER BY record"
        return [Path(path) for (path,) in self._connection.execute(sql, (sha256,))]

    def add_columns(self, entries: Sequence[Entry]) -> None:
        """Add the columns that are not there yet, and refuse values of another type than their column's."""
        refuse_unstorable(entries)
        found = dict.fromkeys(
            (name, value_type(value)) for entry in entries for name, value in entry.metadata.items()
        )
        for name, kind in sorted(found, key=lambda pair: pair[1] is None):  # a column's values tell its type
            column = find_column(name, self.columns)
            if column is None:
                if problem := column_problem(name):
                    raise GalleryError(f"The metadata column {name!r} {problem}.", "Give it another name.")
                add_column(self._connection, name, kind)
                self.columns = metadata_columns(self._connection)
            elif kind is not None and column not in STANDARD_COLUMNS:
                held = column_type(self._connection, column)
                if held is not None and held != kind:
                    entry = next(each for each in entries if value_type(each.metadata.get(name)) == kind)
                    raise other_type(entry, name, held)

    def put(self, entry: Entry, row: int | None) -> None:
        """Insert or update one record; `row` None leaves it at its row."""
        values: dict[str, Value] = {
            "tbps_size": entry.stamp.size,
            "tbps_mtime_ns": entry.stamp.mtime_ns,
            "tbps_sha256": entry.stamp.sha256,
            "tbps_unreachable": None,
        }
        if row is not None:
            embedded_s = time.time() if entry.embedded_s is None else entry.embedded_s
            values |= {"tbps_row": row, "tbps_embedded_s": embedded_s}
        values |= self._metadata(entry.metadata)
        number = self.number(entry.path)
        if number is not None:
            changes = ", ".join(f"{quoted(name)} = ?" for name in values)
            self._connection.execute(f"UPDATE record SET {changes} WHERE record = ?", (*values.values(), number))
        else:
            place = dict(zip(("tbps_root", "path"), self.roots.place(entry.path), strict=True))
            names = ", ".join(map(quoted, (*place, *values)))
            marks = ", ".join("?" * (len(place) + len(values)))
            self._connection.execute(
                f"INSERT INTO record ({names}) VALUES ({marks})", (*place.values(), *values.values())
            )
        self.drop_reject(entry.path)

    def move(self, old: Path, new: Path) -> None:
        """Give a record another path, and its number, row and metadata with it."""
        root, path = self.roots.place(new)
        self._connection.execute(
            "UPDATE record SET tbps_root = ?, path = ? WHERE record = ?", (root, path, self.number(old))
        )

    def mark_unreachable(self, problem: Reject) -> None:
        """Keep a record and note why its file could not be read."""
        self._connection.execute(
            "UPDATE record SET tbps_unreachable = ? WHERE record = ?", (problem.reason, self.number(problem.path))
        )

    def reject(self, reject: Reject) -> None:
        """List a picture as rejected; its record, if any, goes."""
        self._connection.execute("DELETE FROM record WHERE record = ?", (self.number(reject.path),))
        self.drop_reject(reject.path)
        self._connection.execute(
            "INSERT INTO reject VALUES (?, ?, ?)", (*self.roots.place(reject.path), reject.reason)
        )

    def drop_reject(self, path: Path) -> None:
        """Take a picture off the list of rejects."""
        for place in self.roots.places(path):
            self._connection.execute("DELETE FROM reject WHERE tbps_root = ? AND path = ?", place)

    def _metadata(self, metadata: Mapping[str, Value]) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for name, value in metadata.items():
            column = find_column(name, self.columns)
            assert column is not None  # add_columns has seen to it
            values[column] = _stored(column, value)
            if column == "time":
                moment = read_moment(value)
                values["tbps_time_s"], values["tbps_clock_s"] = (
                    (moment.seconds, moment.clock_seconds) if moment else (None, None)
                )
        return values


def _stored(column: str, value: Value) -> Value:
    """A value as it is stored: who, where and when are text."""
    return value if value is None or column not in STANDARD_COLUMNS else str(value)
