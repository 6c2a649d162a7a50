"""Compiles an expression to SQLite's SQL: values are bound, and names of columns and functions are written out."""

from __future__ import annotations

from collections.abc import Sequence

from tbps_infer.gallery.columns import quoted
from tbps_infer.gallery.expressions.nodes import (
    AllOf,
    AnyOf,
    Arithmetic,
    Between,
    Call,
    Cast,
    Column,
    Comparison,
    Constant,
    IsNull,
    Like,
    Member,
    Negative,
    Node,
    Not,
    Scalar,
    known_column,
)

__all__ = ["to_sql"]


def to_sql(expression: Node, columns: Sequence[str]) -> tuple[str, list[Scalar]]:
    """A condition, and the values of its ``?``.

    Args:
        expression: What `tbps_infer.gallery.expressions.parse.parse` gives.
        columns: All that it may read.

    Raises:
        ExpressionError: It names a column that is not there. SQLite would take a quoted one for a text.
    """
    compiler = _Compiler(columns)
    return compiler.sql(expression), compiler.values


class _Compiler:
    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self.values: list[Scalar] = []

    def sql(self, node: Node) -> str:
        """A node in brackets; the order of evaluation is the order of the text, and so is that of the values."""
        match node:
            case Constant(value):
                return self._bound(value)
            case Column(name):
                return self._column(name)
            case Call(function, arguments):
                return f"{function}({self._joined(', ', arguments)})"
            case Cast(operand, kind):
                return f"CAST({self.sql(operand)} AS {kind})"
            case Negative(operand):
                return f"(- {self.sql(operand)})"
        return f"({self._operation(node)})"

    def _operation(self, node: Node) -> str:
        match node:
            case AnyOf(conditions):
                return self._joined(" OR ", conditions)
            case AllOf(conditions):
                return self._joined(" AND ", conditions)
            case Not(condition):
                return f"NOT {self.sql(condition)}"
            case Comparison(operator, left, right):
                return f"{self.sql(left)} {operator} {self.sql(right)}"
            case IsNull(operand):
                return f"{self.sql(operand)} IS NULL"
            case Member(operand, values):
                return f"{self.sql(operand)} IN ({', '.join(map(self._bound, values))})"
            case Between(operand, low, high):
                return f"{self.sql(operand)} BETWEEN {self.sql(low)} AND {self.sql(high)}"
            case Like():
                return self._like(node)
            case Arithmetic():
                return self._arithmetic(node)
        raise AssertionError(node)

    def _like(self, node: Like) -> str:
        like = f"{self.sql(node.operand)} LIKE {self._bound(node.pattern)}"
        return like if node.escape is None else f"{like} ESCAPE {self._bound(node.escape)}"

    def _arithmetic(self, node: Arithmetic) -> str:
        first, *others = map(self.sql, node.operands)
        return first + "".join(f" {sign} {other}" for sign, other in zip(node.operators, others, strict=True))

    def _joined(self, by: str, parts: Sequence[Node]) -> str:
        return by.join(map(self.sql, parts))

    def _bound(self, value: Scalar) -> str:
        self.values.append(value)
        return "?"

    def _column(self, name: str) -> str:
        return quoted(known_column(name, self._columns))
