"""Cosines, overlaps and differences: beside loops, and on what has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_infer.verification.bootstrap import bootstrap_interval
from tbps_infer.verification.similarity import CosineSummary, cosines, largest_difference, overlaps


def test_cosines_are_taken_row_by_row_and_of_the_columns_asked_for() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 700, 9)).astype(np.float32)  # more rows than are turned to float64 at once
    for columns in (slice(None), slice(2, 5)):
        got = cosines(left, right, columns)
        for row in (0, 255, 256, 699):
            a, b = left[row, columns].astype(np.float64), right[row, columns].astype(np.float64)
            assert got[row] == pytest.approx(a @ b / math.sqrt((a @ a) * (b @ b)), abs=1e-12)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_has_no_cosine_is_nan_and_keeps_no_limit(value: float, side: int) -> None:
    sides = np.ones((2, 3, 4), np.float32)
    sides[side, 1] = value
    got = cosines(*sides)
    assert np.isnan(got).tolist() == [False, True, False]
    summary = CosineSummary.of(got)
    assert not summary.minimum >= -1
    assert math.isnan(summary.p1) and math.isnan(summary.mean)


@given(
    seed=st.integers(0, 2**32 - 1),
    pictures=st.integers(1, 12),
    levels=st.integers(1, 8),
    k=st.integers(1, 12),
    tie=st.sampled_from([0, 1, 2]),
)
def test_overlap_equals_a_count_of_the_pictures_that_are_near_enough(
    seed: int, pictures: int, levels: int, k: int, tie: int
) -> None:
    k = min(k, pictures)
    wanted, found = np.random.default_rng(seed).integers(0, levels, size=(2, 5, pictures)).astype(np.float64)
    chosen = np.argsort(-found, axis=1, kind="stable")[:, :k]
    got = overlaps(np.sort(wanted, axis=1)[:, -k:], np.take_along_axis(wanted, chosen, axis=1), tie)
    for row in range(5):
        least = sorted(wanted[row], reverse=True)[k - 1] - tie
        assert got[row] == pytest.approx(sum(wanted[row, place] >= least for place in chosen[row]) / k)
        own = set(np.argsort(-wanted[row], kind="stable")[:k].tolist())
        assert got[row] >= len(own & set(chosen[row].tolist())) / k  # ties can only add


def test_equal_similarities_may_trade_places_and_unequal_ones_may_not() -> None:
    best, given_ = np.array([[3.0, 2.0]]), np.array([[3.0, 2.0 - 1e-6]])
    assert overlaps(best, best).tolist() == [1]
    assert overlaps(best, given_).tolist() == [0.5]
    assert overlaps(best, given_, tie=1e-5).tolist() == [1]
    assert overlaps(best, np.array([[np.nan, 3.0]])).tolist() == [0.5]


def test_the_largest_difference_is_nan_where_a_number_is() -> None:
    assert largest_difference([1, -2], [1.5, -1]) == 1
    assert math.isnan(largest_difference([1, np.nan], [1, 1]))


def test_a_bootstrap_in_blocks_is_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    for statistic in (np.mean, np.median):
        whole = bootstrap_interval(values, statistic, draws=40)
        monkeypatch.setattr("tbps_infer.verification.bootstrap._BLOCK", 1)
        np.testing.assert_array_equal(bootstrap_interval(values, statistic, draws=40), whole)
        monkeypatch.undo()
    assert bootstrap_interval(values[:, 0], np.median).shape == (2,)
    assert bootstrap_interval(values).shape == (3, 2)
