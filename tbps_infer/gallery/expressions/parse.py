"""Parses an expression, within limits that make the work for one record small."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any, cast, get_args

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from tbps_infer.gallery.expressions import nodes
from tbps_infer.gallery.expressions.functions import FUNCTIONS, check_call
from tbps_infer.gallery.expressions.grammar import GRAMMAR
from tbps_infer.gallery.expressions.nodes import ExpressionError, Node, Scalar

__all__ = ["ALLOWED", "parse"]

_CHARACTERS = 10_000
_TEXT_CHARACTERS = 1000
_PATTERN_CHARACTERS = 200
_PATTERN_WILDCARDS = 10
_NODES = 500
_DEPTH = 15  # SQLite before 3.46 parses with a stack of 100
_INTEGER_DIGITS = 19
_LARGEST_INTEGER = 2**63 - 1

ALLOWED = (
    "Allowed are and, or, not, =, !=, <, <=, >, >=, in (…), between, like '…', is null, + - * / %, numbers, text in "
    f"single quotes, cast(… as integer, real or text), and the functions {', '.join(FUNCTIONS)}."
)

_REFUSED_WORDS = {
    **dict.fromkeys(("select", "exists", "values", "union", "intersect", "except"), "a subquery"),
    "with": "a common table expression",
    "case": "CASE",
    **dict.fromkeys(("glob", "regexp", "match"), "matching other than LIKE"),
    **dict.fromkeys(("null", "isnull", "notnull"), "NULL outside of IS NULL and IS NOT NULL"),
    "collate": "a collation",
}
_REFUSED_MARKS = (
    (r"--|/\*", "a comment"),
    (r"\|\|", "joining text with ||"),
    (r"->", "looking into JSON"),
    (r"x'", "a blob"),
    (r"[?:@$#]", "a parameter"),
    (r";", "a second statement"),
    (r"[&|~^]", "an operation on bits"),
    (r"\.", "a column of a named table"),
    (r"['\"`[]", "a text or a name that does not end"),
)


def parse(text: str) -> Node:
    """The syntax tree of an expression.

    Raises:
        ExpressionError: It is not of the grammar, or exceeds a limit.
    """
    if not text.strip():
        raise ExpressionError("it is empty")
    if len(text) > _CHARACTERS:
        raise ExpressionError(f"it is longer than {_CHARACTERS} characters")
    try:
        # The parser's stack is a list, and the tree is built as it goes: depth costs it no recursion.
        root = cast(Node, _parser().parse(text))
    except UnexpectedToken as error:
        if error.token.type == "$END":
            raise ExpressionError("it ends where more was expected") from None
        _check_name(error.token)
        raise ExpressionError(
            f"unexpected {str(error.token)!r} at character {(error.token.start_pos or 0) + 1}"
        ) from None
    except UnexpectedCharacters as error:
        raise _unexpected(text, error.pos_in_stream or 0) from None
    _check_size(root)
    return root


def _unexpected(text: str, position: int) -> ExpressionError:
    for mark, meaning in _REFUSED_MARKS:
        if re.compile(mark, re.IGNORECASE).match(text, position):
            return ExpressionError(f"{meaning} is not allowed (character {position + 1})")
    return ExpressionError(f"unexpected {text[position]!r} at character {position + 1}")


def _check_size(root: Node) -> None:
    count, depth, level = 0, 0, [root]
    while level:
        count, depth = count + len(level), depth + 1
        if depth > _DEPTH:
            raise ExpressionError(f"it is nested more than {_DEPTH} deep")
        if count > _NODES:
            raise ExpressionError(f"it has more than {_NODES} operators and operands")
        level = [part for node in level for part in node.parts()]


@cache
def _parser() -> Lark:
    words = {"FUNCTION": _check_function, "NAME": _check_name}  # NAME last: lark 1.3 drops it before another one
    return Lark(GRAMMAR, start="any_of", parser="lalr", lexer="basic", transformer=_Builder(), lexer_callbacks=words)


def _check_name(token: Token) -> Token:
    meaning = _REFUSED_WORDS.get(token.lower())
    if meaning is not None:
        raise ExpressionError(f"{meaning} is not allowed ({str(token)!r}; a column of this name needs double quotes)")
    return token


def _check_function(token: Token) -> Token:
    if token.lower() not in FUNCTIONS:
        _check_name(token)
        raise ExpressionError(f"the function {str(token)!r} is not allowed")
    return token


@v_args(inline=True)
class _Builder(Transformer[Token, Node]):
    """Makes nodes of what the parser has recognised; its methods are named for the grammar's rules."""

    def any_of(self, *conditions: Node) -> Node:
        return nodes.AnyOf(conditions)

    def all_of(self, *conditions: Node) -> Node:
        return nodes.AllOf(conditions)

    def not_(self, condition: Node) -> Node:
        return nodes.Not(condition)

    def comparison(self, left: Node, operator: Token, right: Node) -> Node:
        same = {"==": "=", "<>": "!="}
        return nodes.Comparison(same.get(operator, str(operator)), left, right)  # type: ignore[arg-type]

    def is_null(self, operand: Node, negated: Token | None) -> Node:
        return _negated(nodes.IsNull(operand), negated)

    def member(self, operand: Node, negated: Token | None, *values: Scalar) -> Node:
        return _negated(nodes.Member(operand, values), negated)

    def between(self, operand: Node, negated: Token | None, low: Node, high: Node) -> Node:
        return _negated(nodes.Between(operand, low, high), negated)

    def like(self, operand: Node, negated: Token | None, pattern: str, escape: str | None) -> Node:
        if len(pattern) > _PATTERN_CHARACTERS or pattern.count("%") > _PATTERN_WILDCARDS:
            raise ExpressionError(
                f"a pattern of LIKE has more than {_PATTERN_CHARACTERS} characters or {_PATTERN_WILDCARDS} %"
            )
        if escape is not None and len(escape) != 1:
            raise ExpressionError("what follows ESCAPE is not one character")
        return _negated(nodes.Like(operand, pattern, escape), negated)

    def arithmetic(self, *parts: Any) -> Node:
        return nodes.Arithmetic(parts[::2], tuple(map(str, parts[1::2])))  # type: ignore[arg-type]

    def negative(self, _minus: Token, operand: Node) -> Node:
        return nodes.Negative(operand)

    def constant(self, value: Scalar) -> Node:
        return nodes.Constant(value)

    def column(self, name: Token) -> Node:
        return nodes.Column(str(name))

    def quoted_column(self, name: Token) -> Node:
        mark = name[-1]
        return nodes.Column(name[1:-1] if mark == "]" else name[1:-1].replace(2 * mark, mark))

    def call(self, function: Token, *arguments: Node | None) -> Node:
        call = nodes.Call(function.lower(), tuple(argument for argument in arguments if argument is not None))
        check_call(call)
        return call

    def cast(self, operand: Node, kind: Token) -> Node:
        if kind.lower() not in get_args(nodes.CastType):
            raise ExpressionError(f"cast to {str(kind)!r} is not allowed, only to integer, real or text")
        return nodes.Cast(operand, kind.lower())  # type: ignore[arg-type]

    def text(self, token: Token) -> str:
        value = token[1:-1].replace("''", "'")
        if len(value) > _TEXT_CHARACTERS:
            raise ExpressionError(f"a text is longer than {_TEXT_CHARACTERS} characters")
        return value

    def number(self, token: Token) -> int | float:
        if token.isdigit():
            digits = token.lstrip("0") or "0"  # Python refuses thousands of digits, whatever they are
            value = int(digits) if len(digits) <= _INTEGER_DIGITS else math.inf
        else:
            value = float(token)
        if math.isinf(value) or (isinstance(value, int) and value > _LARGEST_INTEGER):
            raise ExpressionError(f"the number {token[:_INTEGER_DIGITS]}… is too large")
        return value

    def negative_number(self, _minus: Token, value: int | float) -> int | float:
        return -value

    def true(self) -> int:
        return 1

    def false(self) -> int:
        return 0


def _negated(condition: Node, negated: Token | None) -> Node:
    return condition if negated is None else nodes.Not(condition)
