"""Galleries of the previous schema: their records become this version's, in one transaction."""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import timezone

from tbps_infer.gallery.columns import STANDARD_COLUMNS, ColumnType, quoted
from tbps_infer.gallery.records import SCHEMA, add_column, create_view, is_current_schema, metadata_columns
from tbps_infer.gallery.times import read_moment

__all__ = ["convert_records"]

_STANDARD = ("record", "tbps_row", "tbps_size", "tbps_mtime_ns", "tbps_sha256")


def convert_records(connection: sqlite3.Connection) -> None:
    """Convert the records if they are of the previous schema.

    Identities, cameras and times become text, times as they would be written now; another column is of numbers if it
    holds nothing else. The folder that all pictures are below becomes the root. When they were embedded was not
    recorded: they count as embedded now. Killed at any instant, the records are of one schema or of the other.
    """
    if is_current_schema(connection):
        return
    columns = metadata_columns(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'record'").fetchone()
        connection.execute("DROP VIEW records")
        for name in ("record", "reject", "segment", "state"):
            for (index,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (name,)
            ).fetchall():
                connection.execute(f"DROP INDEX {quoted(index)}")
            connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        create_view(connection, STANDARD_COLUMNS)
        _copy(connection, columns)
        for name in ("record", "reject", "segment", "state"):
            connection.execute(f"DROP TABLE old_{name}")
        if last is not None:  # numbers of removed records are not used again
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'record'")
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('record', ?)", last)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _copy(connection: sqlite3.Connection, columns: tuple[str, ...]) -> None:
    paths = connection.execute("SELECT path FROM old_record UNION SELECT path FROM old_reject").fetchall()
    if paths:
        root = os.path.join(os.path.commonpath([os.path.dirname(path) for (path,) in paths]), "")  # noqa: PTH118, PTH120
        connection.execute("INSERT INTO root VALUES (1, ?)", (root,))
        start = len(root) + 1
        for name in columns[len(STANDARD_COLUMNS) :]:
            add_column(connection, name, _old_type(connection, name))
        names = ", ".join(map(quoted, (*_STANDARD, *columns)))
        connection.execute(
            f"INSERT INTO record (tbps_root, path, tbps_embedded_s, {names}) "
            f"SELECT 1, substr(path, ?), ?, {names} FROM old_record",
            (start, time.time()),
        )
        _convert_times(connection)
        connection.execute("INSERT INTO reject SELECT 1, substr(path, ?), reason FROM old_reject", (start,))
    connection.execute("INSERT INTO segment SELECT start, count, sha256 FROM old_segment")
    connection.execute("UPDATE state SET generation = (SELECT generation FROM old_state)")


def _old_type(connection: sqlite3.Connection, name: str) -> ColumnType | None:
    column = quoted(name)
    values, texts = connection.execute(
        f"SELECT count({column}), coalesce(sum(typeof({column}) = 'text'), 0) FROM old_record"
    ).fetchone()
    if not values:
        return None
    return "text" if texts else "numbers"


def _convert_times(connection: sqlite3.Connection) -> None:
    for record, value in connection.execute("SELECT record, time FROM record WHERE time IS NOT NULL").fetchall():
        if (moment := read_moment(value)) is not None:
            connection.execute(
                "UPDATE record SET time = ?, tbps_time_s = ?, tbps_clock_s = ? WHERE record = ?",
                (moment.text(timezone.utc), moment.seconds, moment.clock_seconds, record),
            )
