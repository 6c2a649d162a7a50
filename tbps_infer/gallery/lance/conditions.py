"""Filters over a dataset: what Lance evaluates itself, and the rest, which SQLite does on the same values."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.formats.sqlite_files import open_sqlite
from tbps_infer.gallery.columns import ColumnType, quoted
from tbps_infer.gallery.expressions.lance import OtherRulesError, text_literal, to_lance
from tbps_infer.gallery.expressions.nodes import ExpressionError, Node
from tbps_infer.gallery.filters import Filter, deadline, matching_rows, time_bounds, unusable
from tbps_infer.gallery.lance.storage import lance_errors
from tbps_infer.gallery.lance.table import KEY, column_types, field_name

__all__ = ["Condition", "compile_filter", "join", "matching_ids", "of_ids"]

_RECORD_SQL = "(CAST(_rowid AS BIGINT) + 1)"
_DECLARED: dict[ColumnType, str] = {"numbers": "NUMERIC", "text": "TEXT"}
_TIMES = {"seconds": "tbps_time_s", "clock_seconds": "tbps_clock_s"}
_ROWS_AT_ONCE = 1 << 14
_IDS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class Condition:
    """What a row must satisfy.

    Attributes:
        sql: In Lance's SQL; None where all rows do.
        expression: What is left for SQLite, of the rows that satisfy the former.
    """

    sql: str | None = None
    expression: Node | None = None


def compile_filter(where: Filter, schema: Any) -> Condition:
    """A filter as a condition; raises FilterError where it is not valid."""
    parts = [_listed(column, texts) for column, texts in (("camera", where.camera), ("id", where.id)) if texts]
    if where.not_id:
        parts.append(f"({_listed('id', where.not_id)} IS NOT TRUE)")
    parts += [f"{_TIMES[which]} {comparison} {bound!r}" for which, comparison, bound in time_bounds(where)]
    expression = None
    if where.where is not None:
        from tbps_infer.gallery.expressions.parse import parse

        columns = _columns(schema)
        try:
            expression = parse(where.where)
            parts.append(to_lance(expression, columns, _sql_name))
            expression = None
        except OtherRulesError:
            pass
        except ExpressionError as error:
            raise unusable(where.where, list(columns), error, 0) from error
    return Condition(join(parts), expression)


def join(parts: Sequence[str | None]) -> str | None:
    """Conditions that hold together; None holds always."""
    return " AND ".join(part for part in parts if part is not None) or None


def of_ids(ids: NDArray[np.int64]) -> list[str]:
    """Conditions that some rows satisfy by their ids, each for as many as Lance takes well at once.

    No row has a negative id, which Lance refuses to compare with.
    """
    ids = ids[ids >= 0]
    pieces = (ids[start : start + _IDS_AT_ONCE].tolist() for start in range(0, len(ids), _IDS_AT_ONCE))
    return [f"_rowid IN ({', '.join(map(str, piece))})" for piece in pieces]


def matching_ids(dataset: Any, condition: Condition, where: Filter, seconds: float) -> NDArray[np.int64]:
    """Row ids int64 ``[n]`` that satisfy a condition, ascending.

    Raises:
        FilterError: SQLite refuses the expression, or took more than some seconds for it.
    """
    with lance_errors(dataset.uri, "read"):
        if condition.expression is None:
            rows = dataset.scanner(columns=[], with_row_id=True, filter=condition.sql).to_table()
            return np.sort(rows.column("_rowid").to_numpy().astype(np.int64))
        assert where.where is not None
        try:
            return _matching_in_sqlite(dataset, condition, condition.expression, seconds)
        except (ExpressionError, sqlite3.Error, UnicodeError) as error:
            raise unusable(where.where, list(_columns(dataset.schema)), error, seconds) from error


def _matching_in_sqlite(dataset: Any, condition: Condition, expression: Node, seconds: float) -> NDArray[np.int64]:
    """Give the columns that the expression names to SQLite, some rows at a time."""
    columns = _columns(dataset.schema)
    declared = ", ".join(
        "record INTEGER" if name == "record" else f"{quoted(name)} {'' if name == KEY else _DECLARED[kind]}"
        for name, kind in columns.items()
    )
    fields = [field_name(name) for name in columns if name != "record"]
    end, found = time.monotonic() + seconds, [np.empty(0, dtype=np.int64)]
    with closing(open_sqlite(Path("records"), "mode=memory")) as connection:
        connection.execute(f"CREATE TABLE records ({declared})")
        marks = ", ".join("?" * len(columns))
        for batch in dataset.scanner(
            columns=fields, with_row_id=True, filter=condition.sql, batch_size=_ROWS_AT_ONCE
        ).to_batches():
            rows = zip(
                (batch.column("_rowid").to_numpy().astype(np.int64) + 1).tolist(),
                *(batch.column(field).to_pylist() for field in fields),
                strict=True,
            )
            with deadline(connection, max(0.0, end - time.monotonic())):
                connection.execute("DELETE FROM records")
                connection.executemany(f"INSERT INTO records VALUES ({marks})", rows)
                found.append(matching_rows(connection, expression, list(columns)) - 1)
    return np.sort(np.concatenate(found))


def _columns(schema: Any) -> Mapping[str, ColumnType]:
    return {"record": "numbers", KEY: "text", **column_types(schema)}


def _sql_name(column: str) -> str:
    return _RECORD_SQL if column == "record" else f"`{field_name(column)}`"


def _listed(column: str, texts: Sequence[str]) -> str:
    return f"(`{column}` IN ({', '.join(map(text_literal, texts))}))"
