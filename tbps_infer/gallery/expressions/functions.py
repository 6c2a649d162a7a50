"""The functions of an expression. Each is SQLite's; none takes long, or makes much of little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tbps_infer.gallery.expressions.nodes import Call, Constant, ExpressionError, Node

__all__ = ["FUNCTIONS", "check_call"]

_MODIFIERS = 8


class Signature(NamedTuple):
    """How many arguments a function takes."""

    least: int
    most: int


_TIME = Signature(0, 1 + _MODIFIERS)

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
    "strftime": Signature(1, 2 + _MODIFIERS),
    "substr": Signature(2, 3),
    "time": _TIME,
    "trim": Signature(1, 1),
    "typeof": Signature(1, 1),
    "unixepoch": _TIME,
    "upper": Signature(1, 1),
}


def check_call(call: Call) -> None:
    """Raise ExpressionError unless a function gets what it takes."""
    least, most = FUNCTIONS[call.function]
    count = len(call.arguments)
    if not least <= count <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise ExpressionError(f"{call.function} takes {wanted} argument{'s' * (most > 1)}, and {count} are given")
    # A format in a column can be of any length, and what it makes is longer.
    if call.function == "strftime" and not _is_text(call.arguments[0]):
        raise ExpressionError("the format of strftime is not a text in single quotes")


def _is_text(node: Node) -> bool:
    return isinstance(node, Constant) and isinstance(node.value, str)
