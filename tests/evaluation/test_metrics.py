"""Retrieval metrics against a slow loop that sorts, with ties and queries without a match."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_infer.errors import UsageError
from tbps_infer.evaluation.metrics import average_precision, rank_metrics, retrieval_metrics


@pytest.mark.parametrize(
    ("ranks", "standard", "trapezoid"), [([2], 0.50, 0.25), ([1, 3], 0.833, 0.792), ([5, 9, 20], 0.191, 0.134)]
)
def test_the_two_formulas_on_known_ranks(ranks: list[int], standard: float, trapezoid: float) -> None:
    assert average_precision(np.array(ranks)) == pytest.approx((standard, trapezoid), abs=5e-4)


@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 9),
    gallery=st.integers(1, 90),
    identities=st.integers(1, 5),
    levels=st.integers(1, 12),
    chunk=st.integers(1, 10),
)
def test_metrics_equal_a_sort(
    seed: int, queries: int, gallery: int, identities: int, levels: int, chunk: int
) -> None:
    """Scores on few levels tie often; identities above the gallery's leave queries unmatched."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, size=(queries, gallery)).astype(np.float32)
    query_ids, gallery_ids = rng.integers(0, identities + 1, queries), rng.integers(0, identities, gallery)
    got = rank_metrics(lambda a, b: scores[a:b], query_ids, gallery_ids, ks=(1, 3), chunk=chunk, threads=2)
    matched = [i for i in range(queries) if query_ids[i] in gallery_ids]
    assert (got.queries, got.unmatched, got.gallery) == (len(matched), queries - len(matched), gallery)
    for bound, wins in ((got.pessimistic, False), (got.optimistic, True)):
        want = [_loop(scores[i].tolist(), (gallery_ids == query_ids[i]).tolist(), wins) for i in matched]
        if not want:
            assert np.isnan(bound.map_standard)
            continue
        means = 100 * np.mean(want, axis=0)
        values = [bound.recall[1], bound.recall[3], bound.map_standard, bound.map_trapezoid, bound.minp]
        np.testing.assert_allclose(values, means, rtol=1e-12)


def _loop(scores: list[float], relevant: list[bool], ties_won: bool) -> list[float]:
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], relevant[j] != ties_won))
    ranks = [place for place, j in enumerate(order, start=1) if relevant[j]]
    standard = sum(i / r for i, r in enumerate(ranks, start=1)) / len(ranks)
    trapezoid = 0.0
    for i, r in enumerate(ranks, start=1):
        before = 1.0 if r == 1 else (i - 1) / (r - 1)
        trapezoid += (before + i / r) / 2 / len(ranks)
    return [float(ranks[0] <= 1), float(ranks[0] <= 3), standard, trapezoid, len(ranks) / ranks[-1]]


def test_inner_products_rank_both_ways() -> None:
    rng = np.random.default_rng(0)
    texts, images = rng.normal(size=(40, 8)), rng.normal(size=(30, 8))
    text_ids, image_ids = rng.integers(0, 10, 40), rng.integers(0, 10, 30)
    scores = (texts.astype(np.float32) @ images.astype(np.float32).T).astype(np.float32)
    forth = retrieval_metrics(texts, images, text_ids, image_ids, chunk=7)
    back = retrieval_metrics(images, texts, image_ids, text_ids, chunk=7)
    assert forth.headline() == pytest.approx(rank_metrics(lambda a, b: scores[a:b], text_ids, image_ids).headline())
    assert back.queries + back.unmatched == 30
    assert back.headline() == pytest.approx(rank_metrics(lambda a, b: scores.T[a:b], image_ids, text_ids).headline())


def test_many_relevant_items_take_the_sorting_path_to_the_same_end() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 50, size=(3, 400)).astype(np.float32)
    gallery_ids = np.array([0] * 150 + [1] * 250)
    got = rank_metrics(lambda a, b: scores[a:b], np.array([0, 1, 0]), gallery_ids)
    want = [_loop(scores[i].tolist(), (gallery_ids == g).tolist(), False) for i, g in enumerate((0, 1, 0))]
    assert got.pessimistic.map_standard == pytest.approx(100 * np.mean(want, axis=0)[2])


def test_a_measurement_without_any_match_is_counted_and_null() -> None:
    one = np.ones((1, 2), np.float32)
    report = retrieval_metrics(one, one, np.array([5]), np.array([6])).to_json()
    assert (report["queries"], report["unmatched"]) == (0, 1)
    assert report["pessimistic"]["R@1"] is None


def test_senseless_input_is_refused() -> None:
    one = np.ones((1, 2), np.float32)
    with pytest.raises(UsageError, match="want one identity each"):
        retrieval_metrics(one, one, np.array([0, 1]), np.array([0]))
    with pytest.raises(UsageError, match="want \\[q, dim\\]"):
        retrieval_metrics(one, np.ones((1, 3), np.float32), np.array([0]), np.array([0]))
    with pytest.raises(UsageError, match="NaN"):
        retrieval_metrics(one * np.nan, one, np.array([0]), np.array([0]))
