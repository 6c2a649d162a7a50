"""Whatever an expression says, the database and a plain evaluation of its syntax tree agree on it."""

from __future__ import annotations

import operator
import re
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_infer.gallery.expressions import nodes
from tbps_infer.gallery.expressions.nodes import Node
from tbps_infer.gallery.expressions.parse import parse
from tbps_infer.gallery.expressions.sql import to_sql

Cell = str | int | float | None
Row = Mapping[str, Cell]

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
CALCULATE: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def value(node: Node, row: Row) -> Any:
    """A node's value for a row; None is NULL, and conditions are 1 and 0."""
    if isinstance(node, nodes.Constant):
        return node.value
    if isinstance(node, nodes.Column):
        return row[node.name]
    parts = [value(part, row) for part in node.parts()]
    if isinstance(node, nodes.IsNull):
        return parts[0] is None
    if isinstance(node, nodes.AllOf):
        return _all(parts)
    if isinstance(node, nodes.AnyOf):
        return _not(_all([_not(part) for part in parts]))
    if isinstance(node, nodes.Call) and node.function == "coalesce":
        return next((part for part in parts if part is not None), None)
    if isinstance(node, nodes.Between):
        return _all([_compare("<=", parts[1], parts[0]), _compare("<=", parts[0], parts[2])])
    return None if None in parts else _strict(node, parts)


def _strict(node: Node, parts: list[Any]) -> Any:
    """The value of a node none of whose parts is NULL."""
    match node:
        case nodes.Comparison(sign, _, _):
            return COMPARE[sign](*parts)
        case nodes.Not():
            return not parts[0]
        case nodes.Member(_, values):
            return parts[0] in values
        case nodes.Like(_, pattern, _):
            form = "".join({"%": ".*", "_": "."}.get(sign, re.escape(sign)) for sign in pattern)
            return re.fullmatch(form, parts[0], re.DOTALL | re.IGNORECASE) is not None
        case nodes.Negative():
            return -parts[0]
        case nodes.Arithmetic(_, operators):
            total = parts[0]
            for step, part in zip(operators, parts[1:], strict=True):
                total = CALCULATE[step](total, part)
            return total
        case nodes.Call(function, _):
            return {"lower": str.lower, "upper": str.upper, "length": len, "abs": abs}[function](*parts)  # type: ignore
    raise AssertionError(node)


def _compare(sign: str, left: Any, right: Any) -> bool | None:
    return None if left is None or right is None else COMPARE[sign](left, right)


def _not(value: Any) -> bool | None:
    return None if value is None else not value


def _all(values: list[Any]) -> bool | None:
    if any(value is not None and not value for value in values):
        return False
    return None if None in values else True


def written(node: Node) -> str:
    """A node as text, every part in brackets."""
    match node:
        case nodes.Constant(value):
            return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
        case nodes.Column(name):
            return f'"{name}"'
        case nodes.AllOf(conditions):
            return " AND ".join(f"({written(one)})" for one in conditions)
        case nodes.AnyOf(conditions):
            return " or ".join(f"({written(one)})" for one in conditions)
        case nodes.Call(function, arguments):
            return f"{function}({', '.join(map(written, arguments))})"
        case nodes.Member(_, values):
            end = f"in ({', '.join(written(nodes.Constant(one)) for one in values)})"
        case nodes.Like(_, pattern, _):
            end = f"LIKE {written(nodes.Constant(pattern))}"
        case nodes.IsNull():
            end = "is null"
        case nodes.Between(_, low, high):
            end = f"between ({written(low)}) and ({written(high)})"
        case nodes.Comparison(sign, _, right):
            end = f"{sign} ({written(right)})"
        case nodes.Arithmetic(_, operators):
            end = " ".join(f"{s} ({written(o)})" for s, o in zip(operators, node.operands[1:], strict=True))
        case nodes.Not(condition):
            return f"NOT ({written(condition)})"
        case nodes.Negative(operand):
            return f"-({written(operand)})"
        case _:
            raise AssertionError(node)
    return f"({written(next(node.parts()))}) {end}"


LETTERS = st.text("aBc%_'\"é", max_size=4)
SMALL = st.integers(0, 9)


def _numbers(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    signs: st.SearchStrategy[nodes.ArithmeticOperator] = st.sampled_from(["+", "-"])
    return st.one_of(
        st.builds(nodes.Negative, inner),
        st.tuples(inner, inner, inner, signs, signs).map(lambda t: nodes.Arithmetic(t[:3], t[3:])),
        st.builds(lambda a, b: nodes.Arithmetic((a, b), ("*",)), inner, inner),
        st.builds(lambda a, b: nodes.Call("coalesce", (a, b)), inner, inner),
        inner.map(lambda a: nodes.Call("abs", (a,))),
    )


NUMBER: st.SearchStrategy[Node] = st.recursive(
    st.builds(nodes.Constant, SMALL | st.sampled_from([0.5, 2.25])) | st.just(nodes.Column("n")),
    _numbers,
    max_leaves=4,
)
TEXT: st.SearchStrategy[Node] = st.recursive(
    st.builds(nodes.Constant, LETTERS) | st.just(nodes.Column("t")),
    lambda inner: st.builds(lambda a, b: nodes.Call("coalesce", (a, b)), inner, inner),
    max_leaves=3,
)
SIGN = st.sampled_from(sorted(COMPARE))
CONDITION: st.SearchStrategy[Node] = st.recursive(
    st.one_of(
        st.builds(nodes.Comparison, SIGN, NUMBER, NUMBER),
        st.builds(nodes.Comparison, SIGN, TEXT, TEXT),
        st.builds(nodes.Between, NUMBER, NUMBER, NUMBER),
        st.builds(nodes.Member, NUMBER, st.lists(st.integers(-9, 9), min_size=1, max_size=3).map(tuple)),
        st.builds(nodes.Member, TEXT, st.lists(LETTERS, min_size=1, max_size=3).map(tuple)),
        st.builds(nodes.Like, TEXT, st.text("aBc%_é", max_size=4), st.none()),
        st.builds(nodes.IsNull, NUMBER | TEXT),
        NUMBER,
    ),
    lambda inner: st.one_of(
        st.builds(nodes.Not, inner),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: nodes.AllOf(tuple(some))),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: nodes.AnyOf(tuple(some))),
    ),
    max_leaves=5,
)
ROWS = st.lists(
    st.fixed_dictionaries({"n": st.none() | st.integers(-9, 9) | st.just(0.5), "t": st.none() | LETTERS}),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(tree=CONDITION, rows=ROWS)
def test_the_database_and_python_agree(tree: Node, rows: list[Row]) -> None:
    assert parse(written(tree)) == tree
    condition, values = to_sql(tree, ("n", "t"))
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE records (n NUMERIC, t TEXT)")
    connection.executemany("INSERT INTO records VALUES (:n, :t)", rows)
    found = connection.execute(f"SELECT rowid - 1 FROM records WHERE {condition} ORDER BY 1", values).fetchall()
    connection.close()
    assert [row for (row,) in found] == [row for row, cells in enumerate(rows) if value(tree, cells)]


@settings(max_examples=100, deadline=None)
@given(text=st.text("ab1'\"([)], .=<>+-*/%_|;xX~\0é", max_size=30) | st.text(max_size=20))
def test_whatever_is_written_is_parsed_or_refused_in_a_sentence(text: str) -> None:
    try:
        parse(text)
    except nodes.ExpressionError as error:
        assert str(error)


def test_what_binds_stronger() -> None:
    for short, long in [
        ("n = 1 or n = 2 and not t = 'a'", "(n = 1) or ((n = 2) and (not (t = 'a')))"),
        ("n + 2 * -n - 1 > 0 and n between 1 + 1 and 3 or t is not null",
         "((((n + (2 * (-n)) - 1) > 0) and (n between (1 + 1) and 3)) or (not (t is null)))"),
        ("not n not in (1, -2)", "not (not (n in (1, -2)))"),
        ("n<>1", "n != 1"),
        ("n==true", "n = 1"),
    ]:  # fmt: skip
        assert parse(short) == parse(long)
    assert parse("\"a\"\"b\" = `c``d` and [e f] = 'it''s'") == nodes.AllOf(
        (
            nodes.Comparison("=", nodes.Column('a"b'), nodes.Column("c`d")),
            nodes.Comparison("=", nodes.Column("e f"), nodes.Constant("it's")),
        )
    )
