"""How far two sets of embeddings agree: every number against a slow loop or NumPy's own sort."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbps_infer.errors import VerificationError
from tbps_infer.evaluation.metrics import query_metrics, retrieval_metrics
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.verification.agreement import Embedded, agreement, merged_items, top_pictures
from tbps_infer.verification.bootstrap import bootstrap_interval
from tbps_infer.verification.differences import metric_differences
from tbps_infer.verification.similarity import kendall_tau

LAYOUT = VectorLayout((Segment("global", 5), Segment("fine.0", 3, 0.5), Segment("fine.1", 4, 0.5)))


def embedded(seed: int, images: int, texts: int) -> Embedded:
    rng = np.random.default_rng(seed)
    return Embedded(
        rng.normal(size=(images, LAYOUT.dim)).astype(np.float32),
        rng.normal(size=(texts, LAYOUT.dim)).astype(np.float32),
    )


def shaken(original: Embedded, seed: int, amount: float) -> Embedded:
    noise = embedded(seed, len(original.images), len(original.texts))
    return Embedded(original.images + amount * noise.images, original.texts + amount * noise.texts)


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 40),
    texts=st.integers(1, 12),
    k=st.integers(1, 12),
    amount=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
)
def test_every_number_equals_a_slow_computation(seed: int, images: int, texts: int, k: int, amount: float) -> None:
    reference = embedded(seed, images, texts)
    candidate = shaken(reference, seed + 1, np.float32(amount))
    got = agreement(reference, candidate, LAYOUT, k=k)
    k = min(k, images)
    assert got.k == k
    scores = [e.texts.astype(np.float64) @ e.images.astype(np.float64).T for e in (reference, candidate)]
    tops = [np.argsort(-s, axis=1, kind="stable")[:, :k] for s in scores]
    shared = [len(set(a) & set(b)) / k for a, b in zip(*map(np.ndarray.tolist, tops), strict=True)]
    assert got.overlap == pytest.approx(np.mean(shared), abs=1e-12)
    taus = []
    for row in range(texts):
        union = sorted({*tops[0][row].tolist(), *tops[1][row].tolist()})
        taus.append(slow_tau(scores[0][row, union].tolist(), scores[1][row, union].tolist()))
    if np.isnan(taus).all():
        assert math.isnan(got.kendall_tau)
    else:
        assert got.kendall_tau == pytest.approx(np.nanmean(taus), abs=1e-12)
    for branch, left, right in (
        (got.image, reference.images, candidate.images),
        (got.text, reference.texts, candidate.texts),
    ):
        cosines = [slow_cosine(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
        assert branch.items == len(cosines)
        assert branch.whole.minimum == pytest.approx(min(cosines), abs=1e-12)
        assert branch.whole.mean == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)
        assert branch.whole.p1 == pytest.approx(np.percentile(cosines, 1), abs=1e-12)
        assert [item.cosine for item in branch.worst] == pytest.approx(sorted(cosines)[:10], abs=1e-12)
        assert all(item.cosine == pytest.approx(cosines[item.index], abs=1e-12) for item in branch.worst)
        for name, piece in LAYOUT.slices.items():
            part = [slow_cosine(a[piece], b[piece]) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
            assert branch.parts[name].minimum == pytest.approx(min(part), abs=1e-12)


def slow_cosine(left: list[float], right: list[float]) -> float:
    dot = math.fsum(a * b for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(math.fsum(a * a for a in left) * math.fsum(b * b for b in right))


def slow_tau(left: list[float], right: list[float]) -> float:
    """Tau-b, a pair at a time; NaN where a side has one value only."""
    same = opposite = left_only = right_only = 0
    for i, j in combinations(range(len(left)), 2):
        a, b = left[i] - left[j], right[i] - right[j]
        if a * b > 0:
            same += 1
        elif a * b < 0:
            opposite += 1
        elif a == 0 != b:
            left_only += 1
        elif b == 0 != a:
            right_only += 1
    below = (same + opposite + left_only) * (same + opposite + right_only)
    return (same - opposite) / math.sqrt(below) if below else math.nan


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), items=st.integers(1, 14), levels=st.integers(1, 6))
def test_tau_with_many_ties_equals_a_loop(seed: int, rows: int, items: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, levels, size=(2, rows, items)).astype(np.float32)
    valid = rng.random((rows, items)) < 0.8
    want = [slow_tau(left[r, valid[r]].tolist(), right[r, valid[r]].tolist()) for r in range(rows)]
    np.testing.assert_allclose(kendall_tau(left, right, valid), want, atol=1e-12)


def test_tau_of_known_rankings() -> None:
    every = np.ones((3, 4), dtype=bool)
    left = np.array([[1, 2, 3, 4]] * 3, dtype=np.float32)
    right = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 4, 3]], dtype=np.float32)
    np.testing.assert_allclose(kendall_tau(left, right, every), [1, -1, 4 / 6])


def test_equal_scores_are_ranked_in_the_order_of_pictures() -> None:
    picture = np.ones((1, LAYOUT.dim), np.float32)
    many = Embedded(np.repeat(picture, 30, axis=0), np.repeat(picture, 3, axis=0))
    assert top_pictures(many, 4).tolist() == [[0, 1, 2, 3]] * 3


def test_more_captions_than_a_chunk_change_nothing() -> None:
    reference = embedded(0, 50, 600)
    candidate = shaken(reference, 1, 0.4)
    whole = agreement(reference, candidate, LAYOUT)
    parts = [
        agreement(Embedded(reference.images, reference.texts[i : i + 1]), Embedded(candidate.images, t[None]), LAYOUT)
        for i, t in enumerate(candidate.texts)
    ]
    assert whole.overlap == pytest.approx(np.mean([part.overlap for part in parts]), abs=1e-12)
    assert whole.kendall_tau == pytest.approx(np.mean([part.kendall_tau for part in parts]), abs=1e-12)
    assert 0 < whole.overlap < 1


def test_the_worst_items_are_the_ones_that_were_harmed() -> None:
    reference = embedded(0, 40, 25)
    images, texts = reference.images.copy(), reference.texts.copy()
    images[[7, 31]] *= -1
    texts[3, LAYOUT.slices["fine.1"]] *= -1
    got = agreement(reference, Embedded(images, texts), LAYOUT)
    assert {item.index for item in got.image.worst[:2]} == {7, 31}
    assert got.text.worst[0].index == 3
    assert got.text.parts["fine.1"].minimum == pytest.approx(-1)
    assert got.text.parts["global"].minimum == pytest.approx(1)
    assert got.to_json()["image"]["worst"][0]["cosine"] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda e: Embedded(e.images[:, :3], e.texts), "candidate's image embeddings have the shape \\[9, 3\\]"),
        (lambda e: Embedded(e.images[:4], e.texts), "candidate has 4 image embeddings, and the reference 9"),
        (lambda e: Embedded(e.images, e.texts * np.nan), "text embeddings hold NaN or infinite numbers for 6 of 6"),
        (lambda e: Embedded(e.images * np.float32(0), e.texts), "image embeddings are zero in global for 9 of 9"),
        (lambda e: Embedded(e.images, e.texts[:0]), "text embeddings are none"),
    ],
)
def test_what_cannot_be_compared_is_refused(harm: object, sentence: str) -> None:
    reference = embedded(2, 9, 6)
    assert callable(harm)
    with pytest.raises(VerificationError, match=sentence):
        agreement(reference, harm(reference), LAYOUT)


def test_items_merged_by_the_candidate_alone_are_counted() -> None:
    reference = embedded(3, 8, 1).images
    reference[5] = reference[1]  # the same picture twice: no fault of the candidate's
    candidate = reference.copy()
    assert merged_items(reference, candidate) == 0
    candidate[6] = candidate[2]
    assert merged_items(reference, candidate) == 1
    assert merged_items(reference, np.repeat(candidate[:1], 8, axis=0)) == 7


def test_metrics_of_single_queries_average_to_the_headline() -> None:
    people = embedded(4, 60, 90)
    rng = np.random.default_rng(4)
    text_ids, image_ids = rng.integers(0, 14, 90), rng.integers(0, 12, 60)
    single = query_metrics(people.texts, people.images, text_ids, image_ids, chunk=7)
    whole = retrieval_metrics(people.texts, people.images, text_ids, image_ids)
    assert single.indices.tolist() == [i for i in range(90) if text_ids[i] in image_ids]
    assert dict(zip(single.names, single.values.mean(axis=0), strict=True)) == pytest.approx(whole.headline())


@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 30), draws=st.integers(1, 20))
def test_the_bootstrap_equals_a_slow_loop(seed: int, queries: int, draws: int) -> None:
    values = np.random.default_rng(seed).normal(size=(queries, 2))
    generator = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    for _ in range(draws):
        chosen = generator.integers(0, queries, size=queries).tolist()
        means.append(sum((values[i] for i in chosen), np.zeros(2)) / queries)
    want = [[np.percentile([m[c] for m in means], p) for p in (2.5, 97.5)] for c in (0, 1)]
    np.testing.assert_allclose(bootstrap_interval(values, draws=draws, seed=seed), want, atol=1e-12)


def test_the_interval_has_the_width_that_theory_gives() -> None:
    """Of a mean of n independent numbers: ±1.96 σ / √n, to within the few percent that 4000 draws leave."""
    values = np.random.default_rng(0).normal(3, 2, size=(400, 1))
    low, high = bootstrap_interval(values, draws=4000)[0]
    half = 1.96 * values.std() / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert low < values.mean() < high


def test_differences_are_of_the_same_queries() -> None:
    people = embedded(5, 30, 40)
    ids = np.arange(40) % 10
    one = query_metrics(people.texts, people.images, ids, ids[:30])
    worse = query_metrics(-people.texts, people.images, ids, ids[:30])
    same = metric_differences(one, one)
    assert [(each.difference, each.low, each.high) for each in same] == [(0, 0, 0)] * 6
    differences = {each.name: each for each in metric_differences(one, worse)}
    want = worse.values.mean(axis=0) - one.values.mean(axis=0)
    assert [each.difference for each in differences.values()] == pytest.approx(want)
    assert all(each.low <= each.difference <= each.high for each in differences.values())
    fewer = query_metrics(people.texts[:9], people.images, ids[:9], ids[:30])
    with pytest.raises(VerificationError, match="different queries"):
        metric_differences(one, fewer)
