"""Compiles an expression to SQLite's SQL: values are bound, and only names of columns and functions are written out."""

from __future__ import annotations

from collections.abc import Sequence

from tbps_infer.gallery.columns import find_column, quoted
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
    ExpressionError,
    IsNull,
    Like,
    Member,
    Negative,
    Node,
    Not,
    Scalar,
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
            case Like(operand, pattern, escape):
                like = f"{self.sql(operand)} LIKE {self._bound(pattern)}"
                return like if escape is None else f"{like} ESCAPE {self._bound(escape)}"
            case Negative(operand):
                return f"- {self.sql(operand)}"
            case Arithmetic(operands, operators):
                rest = (f" {sign} {self.sql(operand)}" for sign, operand in zip(operators, operands[1:], strict=True))
                return self.sql(operands[0]) + "".join(rest)
        raise AssertionError(node)

    def _joined(self, by: str, parts: Sequence[Node]) -> str:
        return by.join(map(self.sql, parts))

    def _bound(self, value: Scalar) -> str:
        self.values.append(value)
        return "?"

    def _column(self, name: str) -> str:
        column = find_column(name, self._columns)
        if column is None:
            raise ExpressionError(f"there is no column {name!r}")
        return quoted(column)
