"""Metadata filters: which records a search may return, decided before the top-k."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import FilterError
from tbps_infer.formats.sqlite_files import bounded
from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.records import is_current_schema, metadata_columns

if TYPE_CHECKING:
    from tbps_infer.gallery.expressions.nodes import Node

__all__ = ["WHERE_SECONDS", "Filter", "deadline", "matching_records", "matching_rows", "time_bounds", "unusable"]

WHERE_SECONDS = 30.0
_SHOWN_CHARACTERS = 200
_CHECK_EVERY = 500  # SQLite instructions between two looks at the clock: some ten records

_CLOCK = re.compile(r"\b(date|time|datetime|julianday|unixepoch|strftime)\s*\(", re.IGNORECASE)


@dataclass(frozen=True)
class Filter:
    """What a record must satisfy to be searched; conditions are joined by AND, and an empty filter lets all pass.

    Attributes:
        id: Identities, any of which will do, compared as text, as they were written: ``"3"`` is not ``"3.0"``.
        not_id: Identities, none of which will do; a record without one passes.
        camera: Cameras, any of which will do, compared likewise.
        after: The earliest time, included: see `tbps_infer.gallery.times.TIME_WANTED`. A time with a zone is compared
            as an instant; one without is compared with what is shown, whatever the zone of that.
        before: The latest time, excluded. A record without a time passes neither.
        where: An expression over the metadata columns, ``record`` and ``path``, such as
            ``shelf = 3 and time > '2024'``, in the grammar of `tbps_infer.gallery.expressions.grammar`. Values keep
            their types: ``id``, ``camera`` and ``time`` are compared as text, also with a number, and a column of
            numbers as numbers, also with a text that is one. Where a value is missing, a comparison is neither true
            nor false, and the record does not pass.
    """

    camera: tuple[str, ...] = ()
    after: str | None = None
    before: str | None = None
    where: str | None = None
    id: tuple[str, ...] = ()
    not_id: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = (("camera", self.camera), ("id", self.id), ("not_id", self.not_id))
        for name, values in given:
            _require_texts(name, values)

    def __bool__(self) -> bool:
        return self != Filter()

    @property
    def timeless(self) -> bool:
        """Whether it lets the same records of a snapshot pass whenever it is asked: it does not read the clock."""
        return self.where is None or _CLOCK.search(self.where) is None


def _require_texts(name: str, values: object) -> None:
    if not isinstance(values, tuple):
        raise FilterError(f"{name} is {values!r}, want a tuple of texts.", f"Write ({name},).")
    for value in values:
        if not isinstance(value, str) or "\0" in value:  # where there is a NUL, SQLite's JSON ends
            raise FilterError(f"{name} holds {value!r}, want texts, without a NUL.")


def matching_records(
    connection: sqlite3.Connection,
    wanted: Filter,
    everything: NDArray[np.int64],
    *,
    where_seconds: float = WHERE_SECONDS,
) -> NDArray[np.int64]:
    """Numbers int64 ``[m]`` of the records that satisfy a filter, ascending.

    Args:
        connection: To the gallery's records.
        wanted: The filter.
        everything: int64 ``[n]``, the numbers of all records, ascending.
        where_seconds: How long the expression may take.

    Raises:
        FilterError: A time cannot be read, or the expression is not valid, not allowed or took too long.
    """
    found = everything
    conditions, values = _conditions(connection, wanted)
    if conditions:
        found = _chosen(connection, " AND ".join(conditions), values)
    if wanted.not_id:  # most records pass: what does not is the smaller list
        excluded = _chosen(connection, _listed("id"), [json.dumps(wanted.not_id)])
        found = found[~np.isin(found, excluded, assume_unique=True)]
    if wanted.where is not None:
        passing = _matching_expression(connection, wanted.where, where_seconds)
        found = passing if found is everything else np.intersect1d(found, passing, assume_unique=True)
    return found


def _chosen(connection: sqlite3.Connection, condition: str, values: Sequence[str | float]) -> NDArray[np.int64]:
    """Numbers of the records that satisfy a condition of this module's own, ascending.

    They come as one text, which takes less than half the time of a row each, and in runs, one per camera or identity,
    which are merged here in a fraction of the time that ORDER BY takes.
    """
    sql = f"SELECT group_concat(record) FROM record WHERE {condition}"
    with bounded(connection, given=sum(len(value) for value in values if isinstance(value, str))):
        text = connection.execute(sql, values).fetchone()[0]
    return np.sort(np.fromstring(text or "", dtype=np.int64, sep=","), kind="stable")


def _listed(column: str) -> str:
    """A condition with one value, a JSON list of however many: SQLite takes some 32,000 values at most."""
    return f"CAST({column} AS TEXT) IN (SELECT value FROM json_each(?))"


def _conditions(connection: sqlite3.Connection, wanted: Filter) -> tuple[list[str], list[str | float]]:
    conditions: list[str] = []
    values: list[str | float] = []
    for column, texts in (("camera", wanted.camera), ("id", wanted.id)):
        if texts:
            conditions.append(_listed(column))
            values.append(json.dumps(texts))
    for which, comparison, bound in time_bounds(wanted):
        conditions.append(f"{_time_sql(connection, which)} {comparison} ?")
        values.append(bound)
    return conditions, values


_Seconds = Literal["seconds", "clock_seconds"]


def time_bounds(wanted: Filter) -> Iterator[tuple[_Seconds, str, float]]:
    """What a record's time must satisfy: which reading of it, the comparison, and with what.

    Raises:
        FilterError: A time cannot be read.
    """
    from tbps_infer.gallery.times import TIME_WANTED, read_moment

    for name, text, comparison in (("after", wanted.after, ">="), ("before", wanted.before, "<")):
        if text is None:
            continue
        moment = read_moment(text)
        if moment is None:
            raise FilterError(f"{name} is {text!r}, want {TIME_WANTED}.")
        which: _Seconds = "clock_seconds" if moment.zone is None else "seconds"
        yield which, comparison, getattr(moment, which)


def _time_sql(connection: sqlite3.Connection, which: _Seconds) -> str:
    """A record's time in SQL; the previous schema has no seconds as the clock shows them, and misread some times."""
    if is_current_schema(connection):
        return "tbps_time_s" if which == "seconds" else "tbps_clock_s"
    from tbps_infer.gallery.times import read_moment

    def read(value: Value) -> float | None:
        moment = read_moment(value)
        return None if moment is None else getattr(moment, which)

    connection.create_function(f"tbps_{which}", 1, read)
    return f"tbps_{which}(time)"


def _matching_expression(connection: sqlite3.Connection, text: str, seconds: float) -> NDArray[np.int64]:
    from tbps_infer.gallery.expressions.nodes import ExpressionError
    from tbps_infer.gallery.expressions.parse import parse

    columns = ("record", "path", *metadata_columns(connection))
    try:
        with deadline(connection, seconds):
            return matching_rows(connection, parse(text), columns)
    except (ExpressionError, sqlite3.Error, UnicodeError) as error:
        raise unusable(text, columns, error, seconds) from error


def matching_rows(connection: sqlite3.Connection, expression: Node, columns: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of the rows of ``records`` that satisfy an expression, ascending; raises what SQLite does."""
    from tbps_infer.gallery.expressions.sql import to_sql

    condition, values = to_sql(expression, columns)
    rows = connection.execute(f"SELECT record FROM records WHERE {condition} ORDER BY record", values)
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64)


def unusable(text: str, columns: Sequence[str], error: Exception, seconds: float) -> FilterError:
    """What to raise when an expression is not valid, or took more than some seconds."""
    from tbps_infer.gallery.expressions.parse import ALLOWED

    why = f"it was stopped after {seconds:g} seconds" if str(error) == "interrupted" else error
    hint = f"{ALLOWED} The columns are {', '.join(columns)}."
    return FilterError(f"The filter {_shortened(text)} cannot be used: {why}.", hint)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")


@contextmanager
def deadline(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Interrupt what runs inside after some seconds, between two records: the work for one is bounded."""
    end = time.monotonic() + seconds
    connection.set_progress_handler(lambda: int(time.monotonic() > end), _CHECK_EVERY)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
