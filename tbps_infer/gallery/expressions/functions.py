"""The functions of an expression. Each is SQLite's; none makes a large value of a small one, or takes long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tbps_infer.gallery.expressions.nodes import Call, Constant, ExpressionError

__all__ = ["FUNCTIONS", "check_call"]

_MODIFIERS = 8


class Signature(NamedTuple):
    """How many arguments a function takes, and which of them are text written in the expression.

    A column's text is of any length: as a format it would be an output of any length.
    """

    least: int
    most: int
    written: slice = slice(0)


_TIME = Signature(0, 1 + _MODIFIERS, slice(1, None))

FUNCTIONS: Mapping[str, Signature] = {
    "abs": Signature(1, 1),
    "coalesce": Signature(2, 8),
    "date": _TIME,
    "datetime": _TIME,
    "ifnull": Signature(2, 2),
    "julianday": _TIME,
    "length": Signature(1, 1),
    "lower": Signature(1, 1),
    "ltrim": Signature(1, 1),
    "nullif": Signature(2, 2),
    "round": Signature(1, 2),
    "rtrim": Signature(1, 1),
    "strftime": Signature(1, 2 + _MODIFIERS, slice(0, 1)),
    "substr": Signature(2, 3),
    "time": _TIME,
    "trim": Signature(1, 1),
    "typeof": Signature(1, 1),
    "unixepoch": _TIME,
    "upper": Signature(1, 1),
}


def check_call(call: Call) -> None:
    """Raise ExpressionError unless a function gets what it takes."""
    least, most, written = FUNCTIONS[call.function]
    count = len(call.arguments)
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise ExpressionError(f"{call.function} takes {wanted} arguments, and {count} are given")
    for argument in call.arguments[written]:
        if not (isinstance(argument, Constant) and isinstance(argument.value, str)):
            raise ExpressionError(f"the format or a modifier of {call.function} is not a text in single quotes")
