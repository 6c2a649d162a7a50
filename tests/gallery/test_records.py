"""Reading the numbers and rows of all records, whether or not they run on side by side."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.records import read_rows

BIG = 2**63 - 10


def records(rows: dict[int, object]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE record (record INTEGER PRIMARY KEY, tbps_row INTEGER NOT NULL UNIQUE)")
    connection.executemany("INSERT INTO record VALUES (?, ?)", rows.items())
    return connection


def runs(start: int, row: int, count: int) -> dict[int, int]:
    return {start + step: row + step for step in range(count)}


@given(
    st.one_of(
        st.builds(runs, st.integers(0, 9) | st.just(BIG), st.integers(0, 9) | st.just(BIG), st.integers(0, 9)),
        st.dictionaries(st.integers(0, 9), st.integers(0, 9), max_size=6).filter(
            lambda rows: len(set(rows.values())) == len(rows)
        ),
    )
)
def test_every_record_comes_with_its_row(rows: dict[int, int]) -> None:
    with closing(records(dict(rows))) as connection:
        numbers, found = read_rows(connection, Path("gallery"), 2**63 - 1)
    assert numbers.dtype == found.dtype == np.int64
    assert list(zip(numbers.tolist(), found.tolist(), strict=True)) == sorted(rows.items())


@pytest.mark.parametrize(
    "rows", [{1: 0, 2: 5}, {1: 3, 2: 4, 3: 5}, {1: -1, 2: 0}, {1: 0, 2: "one"}, {1: 0, 2: b"1"}, {1: 0, 2: 1.5}]
)
def test_a_row_that_was_never_committed_is_refused(rows: dict[int, object]) -> None:
    with closing(records(rows)) as connection, pytest.raises(GalleryError, match="record"):
        read_rows(connection, Path("gallery"), 5)
