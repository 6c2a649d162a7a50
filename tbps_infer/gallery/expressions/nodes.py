"""The syntax tree of a filter's expression: plain values that know nothing of the language they are compiled to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

from tbps_infer.gallery.columns import find_column

__all__ = [
    "AllOf",
    "AnyOf",
    "Arithmetic",
    "ArithmeticOperator",
    "Between",
    "Call",
    "Cast",
    "CastType",
    "Column",
    "Comparison",
    "ComparisonOperator",
    "Constant",
    "ExpressionError",
    "IsNull",
    "Like",
    "Member",
    "Negative",
    "Node",
    "Not",
    "Scalar",
    "known_column",
]

ComparisonOperator = Literal["=", "!=", "<", "<=", ">", ">="]
ArithmeticOperator = Literal["+", "-", "*", "/", "%"]
CastType = Literal["integer", "real", "text"]
Scalar = str | int | float
"""What an expression can spell out; true and false are the integers 1 and 0."""


class ExpressionError(ValueError):
    """Raised with what is wrong with an expression, as the end of a sentence."""


def known_column(name: str, columns: Iterable[str]) -> str:
    """The column that a name in an expression means; raises ExpressionError where there is none."""
    column = find_column(name, columns)
    if column is None:
        raise ExpressionError(f"there is no column {name!r}")
    return column


@dataclass(frozen=True)
class Node:
    """Part of an expression."""

    def parts(self) -> Iterator[Node]:
        """The nodes directly below this one."""
        for field in fields(self):
            value = getattr(self, field.name)
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, Node):
                    yield one


@dataclass(frozen=True)
class Constant(Node):
    """A text or a number."""

    value: Scalar


@dataclass(frozen=True)
class Column(Node):
    """The value in a column, whose name is compared without regard to case."""

    name: str


@dataclass(frozen=True)
class Negative(Node):
    """A number with the other sign."""

    operand: Node


@dataclass(frozen=True)
class Arithmetic(Node):
    """Operands joined by operators of one precedence, from left to right; there is one operator less."""

    operands: tuple[Node, ...]
    operators: tuple[ArithmeticOperator, ...]


@dataclass(frozen=True)
class Call(Node):
    """A function of `tbps_infer.gallery.expressions.functions`."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Cast(Node):
    """A value as another type."""

    operand: Node
    type: CastType


@dataclass(frozen=True)
class Comparison(Node):
    """Whether two values are in an order."""

    operator: ComparisonOperator
    left: Node
    right: Node


@dataclass(frozen=True)
class Member(Node):
    """Whether a value is one of some."""

    operand: Node
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Between(Node):
    """Whether a value lies between two, both included."""

    operand: Node
    low: Node
    high: Node


@dataclass(frozen=True)
class Like(Node):
    """Whether a text has a pattern's form: ``%`` is any text, ``_`` any character; the escape makes either plain."""

    operand: Node
    pattern: str
    escape: str | None


@dataclass(frozen=True)
class IsNull(Node):
    """Whether there is no value."""

    operand: Node


@dataclass(frozen=True)
class Not(Node):
    """Whether a condition is false."""

    condition: Node


@dataclass(frozen=True)
class AllOf(Node):
    """Whether all conditions hold."""

    conditions: tuple[Node, ...]


@dataclass(frozen=True)
class AnyOf(Node):
    """Whether one condition holds."""

    conditions: tuple[Node, ...]
