"""Metadata filters: which records a search may return, decided before the top-k."""

from __future__ import annotations

import json
import mmap
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import FilterError
from tbps_infer.gallery.columns import Value, find_column
from tbps_infer.gallery.records import is_current_schema, metadata_columns
from tbps_infer.gallery.times import TIME_WANTED, read_moment

__all__ = ["WHERE_FUNCTIONS", "Filter", "Guard", "matching_records"]

WHERE_SECONDS = 30.0
_WHERE_CHARACTERS = 10_000
_WHERE_BYTES = 1 << 30  # by which this process may grow: joins and DISTINCT keep what they have seen
_CHECK_EVERY = 20_000  # SQLite instructions between two looks at the clock: about a millisecond

_CLOCK = re.compile(r"\b(date|time|datetime|julianday|unixepoch|strftime)[`\]]?\s*\(", re.IGNORECASE)

WHERE_FUNCTIONS = frozenset(
    {
        *("abs", "avg", "coalesce", "count", "date", "datetime", "glob", "ifnull", "iif", "instr", "julianday"),
        *("length", "like", "lower", "ltrim", "max", "min", "nullif", "round", "rtrim", "strftime", "substr"),
        *("substring", "sum", "time", "total", "trim", "typeof", "unixepoch", "upper"),
    }
)
"""The SQL functions that an expression may call: none has a side effect or makes a large value of a small one."""


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
        where: An SQLite expression over the metadata columns, ``record`` and ``path``, such as
            ``shelf = 3 and time > '2024'``. Values keep their types: text is compared as text, numbers as numbers.
        records: Record numbers, any of which will do.
    """

    camera: tuple[str, ...] = ()
    after: str | None = None
    before: str | None = None
    where: str | None = None
    id: tuple[str, ...] = ()
    not_id: tuple[str, ...] = ()
    records: tuple[int, ...] = ()

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


class Guard:
    """SQLite's authorizer of one connection: while `confine` holds, it allows only reading the view ``records``.

    Attributes:
        stopped: Why the last confined statement was interrupted, as the end of a sentence; empty when it was not.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns: frozenset[str] | None = None
        self.stopped = ""
        connection.set_authorizer(self._authorize)

    @contextmanager
    def confine(self, columns: Iterable[str], seconds: float) -> Iterator[None]:
        """Confine what is prepared inside to the view's columns, and interrupt it when it takes too much.

        That is more than some seconds, or, where the system tells, more memory than is reasonable.
        """
        end, most = time.monotonic() + seconds, _own_bytes() + _WHERE_BYTES
        self.stopped = ""

        def check() -> int:
            if time.monotonic() > end:
                self.stopped = f"it was stopped after {seconds:g} seconds"
            elif _own_bytes() > most:
                self.stopped = f"it was stopped when it had taken {_WHERE_BYTES >> 20} MiB of memory"
            return int(bool(self.stopped))

        self._columns = frozenset(columns)
        self._connection.set_progress_handler(check, _CHECK_EVERY)
        try:
            yield
        finally:
            self._connection.set_progress_handler(None, 0)
            self._columns = None

    def _authorize(
        self, action: int, first: str | None, second: str | None, _database: str | None, source: str | None
    ) -> int:
        if self._columns is None or action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            # `source` names the view through which a table is read, but also a WITH clause that took the view's name:
            # hence the look at the column. An empty column is a look at how many rows there are.
            through_view = source == "records" and second in {*self._columns, "tbps_root"}
            # The view makes paths absolute by the table of roots, whose folders are part of every path anyway.
            own = first == "record" and (through_view or second == "")
            allowed = first == "records" or own or (first == "root" and source == "records")
            return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in WHERE_FUNCTIONS:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY


def _own_bytes() -> int:
    """Memory of this process that is not a file's; 0 where the system does not tell."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_bytes().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * mmap.PAGESIZE


def matching_records(
    connection: sqlite3.Connection,
    guard: Guard,
    wanted: Filter,
    everything: NDArray[np.int64],
    *,
    where_seconds: float = WHERE_SECONDS,
) -> NDArray[np.int64]:
    """Numbers int64 ``[m]`` of the records that satisfy a filter, ascending.

    Args:
        connection: To the gallery's records.
        guard: Confines the expression to reading records.
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
        passing = _matching_expression(connection, guard, wanted.where, where_seconds)
        found = passing if found is everything else np.intersect1d(found, passing, assume_unique=True)
    return found[np.isin(found, np.array(wanted.records, dtype=np.int64))] if wanted.records else found


def _chosen(connection: sqlite3.Connection, condition: str, values: Sequence[str | float]) -> NDArray[np.int64]:
    """Numbers of the records that satisfy a condition of this module's own, ascending.

    They come as one text, which takes less than half the time of a row each, and in runs, one per camera or identity,
    which are merged here in a fraction of the time that ORDER BY takes.
    """
    text = connection.execute(f"SELECT group_concat(record) FROM record WHERE {condition}", values).fetchone()[0]
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
    for name, text, comparison in (("after", wanted.after, ">="), ("before", wanted.before, "<")):
        if text is None:
            continue
        moment = read_moment(text)
        if moment is None:
            raise FilterError(f"{name} is {text!r}, want {TIME_WANTED}.")
        which: _Seconds = "clock_seconds" if moment.zone is None else "seconds"
        conditions.append(f"{_time_sql(connection, which)} {comparison} ?")
        values.append(getattr(moment, which))
    return conditions, values


_Seconds = Literal["seconds", "clock_seconds"]


def _time_sql(connection: sqlite3.Connection, which: _Seconds) -> str:
    """A record's time in SQL; the previous schema has no seconds as the clock shows them, and misread some times."""
    if is_current_schema(connection):
        return "tbps_time_s" if which == "seconds" else "tbps_clock_s"

    def read(value: Value) -> float | None:
        moment = read_moment(value)
        return None if moment is None else getattr(moment, which)

    connection.create_function(f"tbps_{which}", 1, read)
    return f"tbps_{which}(time)"


def _matching_expression(
    connection: sqlite3.Connection, guard: Guard, expression: str, seconds: float
) -> NDArray[np.int64]:
    columns = ("record", "path", *metadata_columns(connection))
    hint = f"An SQLite expression over these columns was wanted: {', '.join(columns)}."
    _check_expression(expression, columns, hint)
    try:
        with guard.confine(columns, seconds):
            # The line break ends nothing but makes the closing bracket safe from whatever the expression ends with.
            rows = connection.execute(f"SELECT record FROM records WHERE (\n{expression}\n) ORDER BY record")
            return np.fromiter(chain.from_iterable(rows), dtype=np.int64)
    except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
        message = str(error)
        if message == "interrupted":
            message = guard.stopped
        raise FilterError(f"The filter {expression!r} cannot be used: {message}.", hint) from error


_TOKEN = re.compile(
    r"""'(?:[^']|'')*'            # text
      | "(?P<name>(?:[^"]|"")*)"  # a quoted name
      | `(?:[^`]|``)*` | \[[^\]]*\]
      | (?P<stray>['"`\[;\0]|--|/\*)
      | (?P<bracket>[()])
    """,
    re.VERBOSE,
)


def _check_expression(expression: str, columns: tuple[str, ...], hint: str) -> None:
    """Refuse what would not stay inside the brackets put around it, and quoted names that are no column.

    SQLite takes a double-quoted name that is no column for a text, so a mistyped one would silently match nothing.
    """
    if not expression.strip() or len(expression) > _WHERE_CHARACTERS:
        raise FilterError(
            f"The filter is empty or longer than {_WHERE_CHARACTERS} characters: {expression[:40]!r}.", hint
        )
    depth = 0
    for token in _TOKEN.finditer(expression):
        if token["stray"]:
            raise FilterError(f"The filter {expression!r} cannot be used: unexpected {token['stray']!r}.", hint)
        if token["name"] is not None and find_column(token["name"].replace('""', '"'), columns) is None:
            raise FilterError(
                f"The filter {expression!r} cannot be used: there is no column {token['name']!r}.",
                f"Write text in single quotes. {hint}",
            )
        depth += {"(": 1, ")": -1}.get(token["bracket"] or "", 0)
        if depth < 0:
            break
    if depth != 0:
        raise FilterError(f"The filter {expression!r} cannot be used: its brackets do not match.", hint)
