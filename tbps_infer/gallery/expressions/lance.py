"""Compiles an expression to the SQL of Lance (DataFusion), as far as that means exactly what SQLite's does.

Values have one type per column there, and other rules where types meet. So comparisons of a column with values of its
own type, membership, ranges, patterns and what joins them are compiled; the rest is left to SQLite
(`tbps_infer.gallery.lance.conditions`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from tbps_infer.gallery.columns import ColumnType
from tbps_infer.gallery.expressions.nodes import (
    AllOf,
    AnyOf,
    Between,
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

__all__ = ["OtherRulesError", "text_literal", "to_lance"]

_LARGEST_EXACT = 2**53
_NO_AFFINITY = "path"
"""SQLite computes it, so that it takes no value for text there that is none."""


class OtherRulesError(Exception):
    """Raised for an expression that Lance could take for something else than SQLite does."""


def to_lance(expression: Node, columns: Mapping[str, ColumnType], name_of: Callable[[str], str]) -> str:
    """A condition in Lance's SQL that the same rows satisfy as in SQLite.

    Args:
        expression: What `tbps_infer.gallery.expressions.parse.parse` gives.
        columns: All that it may read, and what they hold.
        name_of: What stands for a column in the SQL.

    Raises:
        OtherRulesError: There is no such condition.
        ExpressionError: It names a column that is not there.
    """
    return _Compiler(columns, name_of).condition(expression)


def text_literal(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


class _Compiler:
    def __init__(self, columns: Mapping[str, ColumnType], name_of: Callable[[str], str]) -> None:
        self._columns = columns
        self._name_of = name_of

    def condition(self, node: Node) -> str:
        match node:
            case AllOf(conditions):
                return self._joined(" AND ", conditions)
            case AnyOf(conditions):
                return self._joined(" OR ", conditions)
            case Not(condition):
                return f"(NOT {self.condition(condition)})"
            case IsNull(Column(name)):
                return f"({self._name_of(self._found(name))} IS NULL)"
            case Comparison(operator, left, right):
                return self._comparison(operator, left, right)
            case Member(Column(name), values):
                return f"({self._sql(name)} IN ({', '.join(self._literal(name, value) for value in values)}))"
            case Between(operand, low, high):
                return f"({self._comparison('>=', operand, low)} AND {self._comparison('<=', operand, high)})"
            case Like(Column(name), pattern, escape):
                return self._like(name, pattern, escape)
        self._require_columns(node)
        raise OtherRulesError

    def _joined(self, by: str, conditions: Sequence[Node]) -> str:
        return f"({by.join(map(self.condition, conditions))})"

    def _comparison(self, operator: str, left: Node, right: Node) -> str:
        for node in (left, right):
            self._require_columns(node)
        match left, _plain(left), right, _plain(right):
            case Column(name), _, Column(other), _ if self._kind(name) == self._kind(other):
                return f"({self._sql(name)} {operator} {self._sql(other)})"
            case Column(name), _, _, str() | int() | float() as value:
                return f"({self._sql(name)} {operator} {self._literal(name, value)})"
            case _, str() | int() | float() as value, Column(name), _:
                return f"({self._literal(name, value)} {operator} {self._sql(name)})"
        raise OtherRulesError

    def _like(self, name: str, pattern: str, escape: str | None) -> str:
        """A regular expression: Lance's LIKE tells letters' cases apart, and its ILIKE folds more than A to Z."""
        if self._kind(name) != "text":
            raise OtherRulesError
        form, signs = "", iter(pattern)
        for sign in signs:
            if sign == escape:
                literal = next(signs, None)
                if literal is None:
                    raise OtherRulesError
                form += _either_case(literal)
            else:
                form += {"%": ".*", "_": "."}.get(sign) or _either_case(sign)
        return f"regexp_like({self._sql(name)}, {text_literal(f'^(?s:{form})$')})"

    def _literal(self, name: str, value: Scalar) -> str:
        """A value as the column's type has SQLite take it."""
        column = self._found(name)
        if self._kind(name) == "text":
            if isinstance(value, float) or (column == _NO_AFFINITY and not isinstance(value, str)):
                raise OtherRulesError
            return text_literal(str(value))
        if isinstance(value, str) or abs(value) > _LARGEST_EXACT:
            raise OtherRulesError
        return repr(float(value))

    def _found(self, name: str) -> str:
        return known_column(name, self._columns)

    def _kind(self, name: str) -> ColumnType:
        return self._columns[self._found(name)]

    def _sql(self, name: str) -> str:
        return self._name_of(self._found(name))

    def _require_columns(self, node: Node) -> None:
        level = [node]
        while level:
            for each in level:
                if isinstance(each, Column):
                    self._found(each.name)
            level = [part for each in level for part in each.parts()]


def _plain(node: Node) -> Scalar | None:
    """The value that a node spells out."""
    match node:
        case Constant(value):
            return value
        case Negative(Constant(int() | float() as value)):
            return -value
    return None


def _either_case(sign: str) -> str:
    if sign.isascii() and sign.isalpha():
        return f"[{sign.lower()}{sign.upper()}]"
    return re.escape(sign) if sign.isascii() else sign
