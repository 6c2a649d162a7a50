"""Rows of a search, and their division between an index and what came after it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_infer.gallery.search.rows import Rows


@given(
    numbers=st.one_of(
        st.permutations(range(12)),
        st.builds(lambda a, b: list(range(a, a + b)), st.integers(0, 9), st.integers(0, 9)),
    ),
    count=st.integers(0, 14),
)
def test_a_split_keeps_rows_and_their_positions(numbers: list[int], count: int) -> None:
    every = Rows.of(np.array(numbers, dtype=np.int64))
    covered, others = every.split(count)
    assert (covered.numbers < count).all()
    assert (others.numbers >= count).all()
    assert len(covered) + len(others) == len(numbers)
    for part in (covered, others):
        positions = part.positions_of(np.arange(len(part)))
        assert (np.diff(positions) > 0).all()
        np.testing.assert_array_equal(every.numbers[positions], part.numbers)


@pytest.mark.parametrize(
    ("numbers", "start", "stop", "in_place"),
    [
        ([4, 5, 6, 7], 1, 3, True),
        ([9, 4, 5, 6], 1, 4, True),
        ([9, 4, 5, 6], 0, 4, False),
        ([4, 6, 5, 7], 0, 4, False),
        ([7, 6, 5, 4], 0, 4, False),
        ([4], 0, 1, True),
    ],
)
def test_rows_behind_one_another_are_read_in_place(numbers: list[int], start: int, stop: int, in_place: bool) -> None:
    stored = Rows.of(np.array(numbers)).stored(start, stop)
    assert isinstance(stored, slice) is in_place
    np.testing.assert_array_equal(np.arange(20)[stored], numbers[start:stop])


@pytest.mark.parametrize(
    ("numbers", "queries", "read", "wanted"),
    [
        ([4, 5, 6, 7], 1, slice(4, 8), None),
        ([4, 6, 7], 1, slice(4, 8), [0, 2, 3]),  # one row for nothing
        ([7, 4, 6], 1, slice(4, 8), [3, 0, 2]),  # in their own order
        ([6, 5, 4], 9, slice(4, 7), [2, 1, 0]),
        ([4, 8, 12], 1, slice(4, 13), [0, 4, 8]),
        ([4, 8, 17], 1, [4, 8, 17], None),  # too few of a run
        ([4, 8, 12], 2, [4, 8, 12], None),  # the rest of the run would be multiplied twice for nothing
    ],
)
def test_a_run_of_which_enough_is_wanted_is_read_as_a_whole(
    numbers: list[int], queries: int, read: slice | list[int], wanted: list[int] | None
) -> None:
    block = Rows.of(np.array([0, *numbers])).block(1, 1 + len(numbers), queries)
    if isinstance(read, slice):
        assert block.stored == read
    else:
        np.testing.assert_array_equal(block.stored, read)
    assert (None if block.wanted is None else block.wanted.tolist()) == wanted
    values = np.arange(20, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(block.of(values[block.stored])[:, 0], numbers)
