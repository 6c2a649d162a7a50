"""What the cells of metadata columns hold: numbers, text, times."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any, Protocol

from tbps_infer.errors import TbpsError
from tbps_infer.gallery.columns import STANDARD_COLUMNS, ColumnType, Value, value_type
from tbps_infer.gallery.times import TIME_WANTED, read_moment

__all__ = ["MetadataReader", "Place"]


class Place(Protocol):
    """Where cells were found."""

    @property
    def place(self) -> str:
        """The place in words."""

    def problem(self, message: str, hint: str = "") -> TbpsError:
        """An error about it, to be raised."""


class MetadataReader:
    """Reads cells, and sees to it that a column holds numbers or text, wherever its cells come from.

    Attributes:
        columns: Names of the columns by their lower case, as they were first written.
        unzoned: How many times named no zone.
    """

    def __init__(self, text: Sequence[str], zone: tzinfo) -> None:
        """Make a reader of columns.

        Args:
            text: Columns besides ``id`` and ``camera`` whose values stay as they are written.
            zone: That of times which name none.
        """
        self.columns = {name: name for name in STANDARD_COLUMNS}
        self.unzoned = 0
        self._text = {name.lower() for name in ("id", "camera", *text)}
        self._zone = zone
        self._first: dict[str, tuple[ColumnType, Value, str]] = {}  # a column's type, first value, and its place

    @property
    def types(self) -> dict[str, ColumnType]:
        """What the columns hold that have values, except ``time``."""
        return {name: kind for name, (kind, _, _) in self._first.items()}

    def read(self, place: Place, cells: Mapping[str, Any], *, typed: bool) -> dict[str, Value]:
        """The values of some cells by column.

        Args:
            place: Where they are.
            cells: By column, in any case.
            typed: Whether they have types, as in JSON; otherwise numbers are found among texts, and an empty text is
                no value.

        Raises:
            TbpsError: As ``place`` makes it: a value cannot be stored, is no time, or is of another type than those
                before it.
        """
        values: dict[str, Value] = {}
        for written, cell in cells.items():
            name = self.columns.setdefault(written.lower(), written)
            if typed and not _storable(cell):
                raise place.problem(f"{name} is {cell!r}, want text, a finite 64-bit number, true, false or null.")
            if cell is None or (cell == "" and not typed):
                values[name] = None
            elif name == "time":
                values[name] = self._time(place, cell)
            else:
                values[name] = self._value(name, cell, typed)
                self._check_type(place, name, values[name])
        return values

    def _value(self, name: str, cell: Any, typed: bool) -> Value:
        if name.lower() in self._text:
            return str(cell).lower() if isinstance(cell, bool) else str(cell)
        if isinstance(cell, str):
            number = None if typed else _number(cell)
            return cell if number is None else number
        return float(cell) if isinstance(cell, float) else int(cell)

    def _check_type(self, place: Place, name: str, value: Value) -> None:
        kind = value_type(value)
        assert kind is not None  # there is a value
        first, other, other_place = self._first.setdefault(name, (kind, value, place.place))
        if first != kind:
            raise place.problem(
                f"{name} is {value!r}, and {other!r} in {other_place}: a column holds numbers or text.",
                f"Correct the cell, or keep the column as text: --text {name}.",
            )

    def _time(self, place: Place, cell: str | float) -> str:
        moment = read_moment(cell, self._zone)
        if moment is None:
            raise place.problem(
                f"the time is {cell!r}, want {TIME_WANTED}.", "Rename the column if it is not a point in time."
            )
        self.unzoned += moment.zone is None
        return moment.text(self._zone)


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _number(text: str) -> int | float | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match[2] is None and match[3] is None:
        return int(text) if len(text) < 20 and _fits(int(text)) else None
    value = float(text)
    return value if math.isfinite(value) else None


def _storable(value: object) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (isinstance(value, int | float) and _fits(value))


def _fits(value: float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63
