"""Names of metadata columns: which ones have a meaning, and which ones cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

__all__ = ["STANDARD_COLUMNS", "ColumnType", "Value", "column_problem", "find_column", "quoted", "value_type"]

Value = str | int | float | None
"""What a cell of metadata can hold."""

STANDARD_COLUMNS = ("id", "camera", "time")
"""Columns of text that every gallery has: who it is, which camera saw it, and when (`tbps_infer.gallery.times`)."""

ColumnType = Literal["numbers", "text"]
"""What a metadata column holds; a cell may also be empty."""

# `record` numbers the records in results and filters; SQLite gives the three others a meaning of their own.
_TAKEN = frozenset({"path", "record", "rowid", "oid", "_rowid_"})
_INTERNAL_PREFIX = "tbps_"


def column_problem(name: str) -> str | None:
    """Why a name cannot be a metadata column's, as the end of a sentence; None when it can."""
    if not name.strip() or not name.isprintable():
        return "is empty or holds characters that cannot be printed"
    if name.lower() in _TAKEN:
        return "is reserved"
    if name.lower().startswith(_INTERNAL_PREFIX):
        return f"begins with the reserved {_INTERNAL_PREFIX}"
    return None


def find_column(name: str, columns: Iterable[str]) -> str | None:
    """The column that a name means: names are compared without regard to case, as SQLite does."""
    wanted = name.lower()
    return next((column for column in columns if column.lower() == wanted), None)


def value_type(value: Value) -> ColumnType | None:
    """What a column holds that has a value; None where there is none."""
    if value is None:
        return None
    return "text" if isinstance(value, str) else "numbers"


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
