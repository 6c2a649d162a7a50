"""Filters pass what they say, and an expression can neither change nor read anything but the records."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_infer.errors import FilterError
from tbps_infer.gallery import Entry, FileStamp, Filter, Gallery, GalleryWriter
from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.expressions.functions import FUNCTIONS
from tbps_infer.gallery.expressions.nodes import ExpressionError
from tbps_infer.gallery.expressions.parse import parse
from tbps_infer.gallery.filters import matching_records
from tbps_infer.gallery.records import connect_reader
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

MODEL = fake_facts(layout=VectorLayout((Segment("global", 4),)))

ROWS: list[dict[str, Value]] = [
    {"id": 1, "camera": "cam_a", "time": "2024-05-31T08:00:00", "shelf": 3, "Größe m": 1.8},
    {"id": 1, "camera": "cam_b", "time": "2024-05-31T10:00:00+02:00", "shelf": 3},
    {"id": "2", "camera": 3, "time": 1717142400, "shelf": None},
    {"camera": "3", "time": "2023-12-31", "shelf": None, "note": "it's (odd"},
    {"time": "evening", "shelf": 4.5},
    {},
]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    path = tmp_path_factory.mktemp("filters") / "gallery"
    vectors = np.eye(4, dtype=np.float32)[np.arange(len(ROWS)) % 4]
    entries = [Entry(Path(f"/p/{i}.jpg"), FileStamp(1, 2, "secret"), row) for i, row in enumerate(ROWS)]
    with GalleryWriter.open(path, MODEL) as writer:
        writer.commit(entries, vectors)
    with Gallery.open(path) as opened:
        yield opened


def passing(gallery: Gallery, wanted: Filter) -> list[int]:
    """Numbers of the records that a search returns, counted from 0."""
    return sorted(hit.record - 1 for hit in gallery.search(np.ones((1, 4), dtype=np.float32), k=99, where=wanted)[0])


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(), [0, 1, 2, 3, 4, 5]),
        (Filter(camera=("cam_a",)), [0]),
        (Filter(where="shelf = " + "0" * 5000 + "3"), [0, 1]),
        (Filter(camera=("cam_a", "3")), [0, 2, 3]),
        (Filter(camera=("' OR 1 --",)), []),
        (Filter(id=("1",)), [0, 1]),
        (Filter(id=("2", "1"), camera=("3",)), [2]),
        (Filter(not_id=("1",)), [2, 3, 4, 5]),
        (Filter(not_id=("2", "1")), [3, 4, 5]),
        (Filter(id=("1", "2"), not_id=("1",)), [2]),
        (Filter(id=("1) OR (1",)), []),
        # 08:00Z, 10:00+02:00 and 1717142400 are the same instant: included in after, excluded from before.
        (Filter(after="2024-05-31T08:00Z"), [0, 1, 2]),
        (Filter(after="2024-05-31T08:00:00.001Z"), []),
        (Filter(before="2024-05-31T08:00Z"), [3]),
        # Without a zone, what counts is what is shown: 08:00, and 10:00.
        (Filter(after="2024-05-31T08:00"), [0, 1, 2]),
        (Filter(after="2024-05-31T08:00:00.001"), [1]),
        (Filter(before="2024-05-31T10:00"), [0, 2, 3]),
        (Filter(before="2024-05-31T08:00"), [3]),
        (Filter(before="2024-06"), [0, 1, 2, 3]),
        (Filter(after="2024", before="2025"), [0, 1, 2]),
        (Filter(after="1717142400"), [0, 1, 2]),
        (Filter(where="shelf = 3"), [0, 1]),
        (Filter(where="shelf = '3'"), [0, 1]),
        (Filter(where="camera = 3 and id = 2"), [2]),
        (Filter(where="shelf = 3 and time > '2024-05-31T09'"), [1]),
        (Filter(where='"Größe m" > 1.5'), [0]),
        (Filter(where='"gRößE M" > 1.5'), [0]),
        (Filter(where="note = 'it''s (odd'"), [3]),
        (Filter(where="path LIKE '%/2.jpg' or record = 1"), [0, 2]),
        (Filter(where="[shelf] is null"), [2, 3, 5]),
        (Filter(where=r"upper(camera) like 'cam\_%' escape '\' and length(camera) = 5"), [0, 1]),
        (Filter(where="cast(id as integer) < 10 and id not in ('2', 'x') and typeof(id) = 'text'"), [0, 1]),
        (Filter(where="id < 2"), [0, 1]),  # as text: SQLite turns the number into one
        (Filter(where="shelf between -1 and 2 * 2 and not (time is null or camera<>'cam_b')"), [1]),
        (Filter(where="shelf % 2 = 1 and -shelf <= - 3 and ifnull(note, 'x') == 'x'"), [0, 1]),
        (Filter(where="shelf > 3 or `shelf` < 1"), [4]),
        (Filter(where="not shelf = 3"), [4]),
        (Filter(where="strftime('%Y', time) = '2023' or shelf in (4.5, 9)"), [3, 4]),
        (Filter(where="julianday(time) < julianday('2024-01-01')"), [3]),
        (Filter(camera=("cam_b",), where="shelf = 3", after="2024"), [1]),
        (Filter(where="0"), []),
    ],
)
def test_a_filter_passes_what_it_says(gallery: Gallery, wanted: Filter, numbers: list[int]) -> None:
    assert passing(gallery, wanted) == numbers


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("shelff = 3", "there is no column 'shelff'"),
        ('"shelff" = 3', "there is no column 'shelff'"),
        ('camera = "cam_a"', "there is no column 'cam_a'"),
        ("tbps_sha256 = 'secret'", "there is no column 'tbps_sha256'"),
        ("shelf = ", "ends where more was expected"),
        ("(1", "ends where more was expected"),
        ("shelf = 'a", "does not end"),
        ("", "empty"),
        ("  \n", "empty"),
        ("1, 2", "unexpected ',' at character 2"),
        ("1)", r"unexpected '\)' at character 2"),
        ("1 = 1 = 1", "unexpected '=' at character 7"),
        ("shelf in ()", r"unexpected '\)'"),
        ("1 \0", "unexpected"),
        ("shelf = 0x1F", "unexpected '0'"),
        ("shelf = null", "NULL outside of IS NULL"),
        ("shelf not null", "NULL outside of IS NULL"),
        ("round()", "round takes 1 to 2 arguments, and 0 are given"),
        ("lower(id, 2) = ''", "lower takes 1 argument, and 2 are given"),
        ("strftime(note, 'now') = ''", "format of strftime"),
        ("cast(id as blob) = 1", "cast to 'blob'"),
        ("id like camera", "unexpected 'camera'"),
        ("id like '%' escape 'ab'", "one character"),
        ("abs(-9223372036854775807 - 1) > 0", "integer overflow"),
        # Limits.
        ("1" * 10_001, "longer than 10000 characters"),
        ("id = '" + "x" * 1001 + "'", "text is longer than 1000"),
        ("id like '" + "_" * 201 + "'", "more than 200 characters"),
        ("id like '" + "%a" * 11 + "'", "10 %"),
        ("1" + " or 1" * 500, "more than 500 operators and operands"),
        ("1" + "+1" * 4000, "more than 500 operators and operands"),
        ("not " * 2000 + "1", "nested more than 15 deep"),
        ("- " * 4000 + "1", "nested more than 15 deep"),
        ("shelf = 9223372036854775808", "too large"),
        ("shelf = 1e999", "too large"),
        ("shelf = " + "9" * 9000, "too large"),
        ("id = '\udc80'", "surrogates"),
    ],
)
def test_an_expression_that_is_wrong_or_reaches_too_far(gallery: Gallery, expression: str, message: str) -> None:
    with pytest.raises(FilterError, match=message) as raised:
        passing(gallery, Filter(where=expression))
    assert "record, path, id, camera, time, shelf, Größe m, note" in raised.value.hint
    assert passing(gallery, Filter(where="shelf = 3")) == [0, 1]


@pytest.mark.parametrize(
    "wrap", ["({})", "not ({})", "coalesce(1, {})", "cast({} as real)", "({} + 1) between 1 and 3", "- {}"]
)
def test_what_the_limit_of_depth_allows_the_database_takes(gallery: Gallery, wrap: str) -> None:
    expression, nested = "1", 0
    while nested < 100:
        try:
            parse(wrap.format(expression))
        except ExpressionError as error:
            assert "15 deep" in str(error)
            break
        expression, nested = wrap.format(expression), nested + 1
    assert nested > 6
    passing(gallery, Filter(where=expression))


def test_what_the_limit_of_size_allows_the_database_takes(gallery: Gallery) -> None:
    for joined in (" or ", " and ", " + "):
        assert passing(gallery, Filter(where=joined.join(["shelf"] * 490))) == [0, 1, 4]
    assert passing(gallery, Filter(where=f"record in ({','.join(map(str, range(1, 2000)))})")) == list(range(6))


def test_an_expression_that_takes_too_long_is_stopped(gallery: Gallery) -> None:
    slow = " and ".join(["note is null"] * 200)
    with closing(connect_reader(gallery.path)) as connection:
        with pytest.raises(FilterError, match="it was stopped after 0 seconds"):
            matching_records(connection, Filter(where=slow), np.arange(1), where_seconds=0)
        assert len(matching_records(connection, Filter(where=slow), np.arange(1), where_seconds=30)) == 5


def test_every_allowed_function_is_one_of_sqlite(gallery: Gallery) -> None:
    known = {name for (name,) in sqlite3.connect(":memory:").execute("SELECT name FROM pragma_function_list")}
    assert FUNCTIONS.keys() - known <= {"unixepoch"}  # not in the oldest SQLite that Python 3.10 comes with
    assert passing(gallery, Filter(where="abs(round(coalesce(shelf, 0))) > 4")) == [4]


def test_some_records_by_number_are_those_that_there_are(gallery: Gallery) -> None:
    assert gallery.selection(np.array([2, 5, 77])).records.tolist() == [2, 5]
    assert len(gallery.selection(np.array([], dtype=np.int64)).records) == 0


@pytest.mark.parametrize("text", ["yesterday", "12", "2024-02-30", "", "05/31/2024"])
def test_a_time_that_is_none_is_refused(gallery: Gallery, text: str) -> None:
    for wanted in (Filter(after=text), Filter(before=text)):
        with pytest.raises(FilterError, match=f"is {re.escape(repr(text))}, want an ISO 8601"):
            passing(gallery, wanted)


def test_a_camera_is_not_a_sequence_of_letters() -> None:
    with pytest.raises(FilterError, match="want a tuple"):
        Filter(camera="cam_a")  # type: ignore[arg-type]


def test_what_passed_is_remembered_unless_the_clock_decides(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Filter] = []

    def counted(*arguments: Any) -> Any:
        asked.append(arguments[1])
        return matching_records(*arguments)

    monkeypatch.setattr("tbps_infer.gallery.reader.matching_records", counted)
    fixed, other = Filter(where="shelf = 3 and time > '2024'"), Filter(not_id=("1",))
    for wanted in (fixed, fixed, other, other, fixed):
        assert passing(gallery, wanted) == ([0, 1] if wanted is fixed else [2, 3, 4, 5])
    assert asked == [fixed, other, fixed]
    asked.clear()
    for clock in ("julianday(time) < julianday('now')", "TIME () >= '0'", "Date\n('now') > '2'"):
        for _ in range(2):
            passing(gallery, Filter(where=clock))
    assert len(asked) == 6


def test_as_many_identities_as_one_likes(gallery: Gallery) -> None:
    many = tuple(map(str, range(2, 100_000)))  # SQLite takes 32,766 values in a statement
    assert passing(gallery, Filter(id=many)) == [2]
    assert passing(gallery, Filter(not_id=many)) == [0, 1, 3, 4, 5]
    assert passing(gallery, Filter(id=("1", "\udc80", '"', "\\"))) == [0, 1]
    for wrong in ("1\0", 1):
        with pytest.raises(FilterError, match="without a NUL"):
            Filter(id=(wrong,))  # type: ignore[arg-type]


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
}


@settings(max_examples=30, deadline=None)
@given(
    shelves=st.lists(st.none() | st.integers(-5, 5) | st.sampled_from([0.5, -2.5]), min_size=1, max_size=30),
    comparison=st.sampled_from(sorted(COMPARISONS)),
    limit=st.integers(-5, 5),
    cameras=st.sets(st.integers(0, 3)),
)
def test_filters_agree_with_python(
    tmp_path_factory: pytest.TempPathFactory,
    shelves: list[float | None],
    comparison: str,
    limit: int,
    cameras: set[int],
) -> None:
    path = tmp_path_factory.mktemp("filters") / "gallery"
    entries = [
        Entry(Path(f"/{i}"), FileStamp(1, 2, "x"), {"shelf": shelf, "camera": f"c{i % 4}"})
        for i, shelf in enumerate(shelves)
    ]
    with GalleryWriter.open(path, MODEL) as writer:
        writer.commit(entries, np.eye(4, dtype=np.float32)[np.arange(len(shelves)) % 4])
    wanted = Filter(camera=tuple(f"c{number}" for number in cameras), where=f"shelf {comparison} {limit}")
    holds = COMPARISONS[comparison]
    with Gallery.open(path) as gallery:
        assert passing(gallery, wanted) == [
            i
            for i, shelf in enumerate(shelves)
            if shelf is not None and holds(shelf, limit) and (not cameras or i % 4 in cameras)
        ]
