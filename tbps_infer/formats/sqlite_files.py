"""SQLite files: opened so that nothing in them is run, and checked to be what their reader takes them for.

SQLite itself survives any file. What it does not see is a table that is really a view without an end, values of
another type than their column's, and pages that are linked so often that some kilobytes hold billions of rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Types", "bounded", "check_types", "open_sqlite", "python_types", "require_tables"]

Types = Mapping[str, str]
"""What the values of columns may be: a key of `_CONDITIONS` for each."""

# SQLite orders numbers before texts before bytes; these are a third of the time that typeof() takes (measured).
_CONDITIONS = {
    "number": "({0} < '') IS TRUE",
    "number or nothing": "({0} < '') IS NOT FALSE",
    "text": "({0} >= '' AND {0} < x'') IS TRUE",
    "text or nothing": "({0} >= '' AND {0} < x'') IS NOT FALSE",
    "no bytes": "({0} < x'') IS NOT FALSE",
}

_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "number": (int, float),
    "number or nothing": (int, float, type(None)),
    "text": (str,),
    "text or nothing": (str, type(None)),
    "no bytes": (int, float, str, type(None)),
}

_BUSY_SECONDS = 30.0
_COLUMNS_AT_ONCE = 500  # a table has up to 2000, and an expression is 1000 deep at most
_STEPS_PER_BYTE = 8  # of SQLite's machine; a row that is looked at column by column takes fewer
_COLUMNS_PER_STEP = 16  # one step more per so many: rows from before a column came have no bytes for it
_MORE_STEPS = 1_000_000
_STEPS_AT_ONCE = 10_000


def open_sqlite(file: Path, mode: str = "mode=rwc") -> sqlite3.Connection:
    """Open a file; transactions are begun and ended by the caller. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def require_tables(connection: sqlite3.Connection, *names: str) -> None:
    """Raise ValueError unless these are tables that hold their own rows, and nothing runs when one is written to."""
    found = {
        name: (kind, page)
        for kind, name, page in connection.execute("SELECT type, name, rootpage FROM sqlite_master")
    }
    for name in names:
        if name not in found:
            raise ValueError(f"no such table: {name}")
        kind, page = found[name]
        if kind != "table" or not page:
            raise ValueError(f"{name} is a {kind if kind != 'table' else 'virtual table'}, want a table")
        if any(hidden for *_, hidden in connection.execute(f"PRAGMA table_xinfo({name})")):
            raise ValueError(f"{name} has computed columns")
    if any(kind == "trigger" for kind, _ in found.values()):
        raise ValueError("it has a trigger")


def check_types(connection: sqlite3.Connection, tables: Mapping[str, Types]) -> None:
    """Read some tables once, and raise ValueError where a value is of another type than it may be.

    Args:
        connection: Its tables are tables (`require_tables`).
        tables: The types of each one's columns. Those that it does not have are left out; others hold no bytes.
    """
    names = {table: [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")] for table in tables}
    with bounded(connection, max(map(len, names.values()))):
        for table, columns in names.items():  # a table of another schema has none
            for start in range(0, len(columns), _COLUMNS_AT_ONCE):
                _check_columns(connection, table, columns[start : start + _COLUMNS_AT_ONCE], tables[table])


def python_types(names: Sequence[str], types: Types) -> tuple[tuple[type, ...], ...]:
    """What the values of some columns may be in Python, for `isinstance`."""
    return tuple(_PYTHON_TYPES[types.get(name, "no bytes")] for name in names)


def _check_columns(connection: sqlite3.Connection, table: str, columns: Sequence[str], types: Types) -> None:
    right = [_CONDITIONS[types.get(name, "no bytes")].format(_quoted(name)) for name in columns]
    sql = f"SELECT {', '.join(right)} FROM {table} WHERE NOT ({' AND '.join(right)}) LIMIT 1"
    for row in connection.execute(sql):
        name = columns[row.index(0)]
        raise ValueError(f"a value of {table}.{name} is of another type, want {types.get(name, 'no bytes')}")


@contextmanager
def bounded(connection: sqlite3.Connection, columns: int = 0, given: int = 0) -> Iterator[None]:
    """Stop when more is read than a file of this size can hold.

    Args:
        connection: What is executed on it inside: a statement that reads a table or an index once, or small ones.
        columns: Of the table that is read column by column.
        given: Bytes of a list that the statement reads besides.

    Raises:
        sqlite3.DatabaseError: More was read.
    """
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    steps_per_byte = _STEPS_PER_BYTE + columns // _COLUMNS_PER_STEP
    left: int = (steps_per_byte * (pages * size + given) + _MORE_STEPS) // _STEPS_AT_ONCE

    def is_endless() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    connection.set_progress_handler(is_endless, _STEPS_AT_ONCE)
    try:
        yield
    except sqlite3.OperationalError as error:
        if left < 0:
            raise sqlite3.DatabaseError("malformed: a table has more rows than its file has room for") from error
        raise
    finally:
        connection.set_progress_handler(None, 0)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
