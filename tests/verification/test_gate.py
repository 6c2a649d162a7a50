"""The gate: what passes, what fails, and what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tbps_infer.errors import VerificationError
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.verification.agreement import Embedded
from tbps_infer.verification.differences import Labels
from tbps_infer.verification.gate import judge
from tbps_infer.verification.tolerances import Thresholds

LAYOUT = VectorLayout((Segment("global", 24), Segment("coarse", 8)))
PEOPLE, PICTURES, CAPTIONS = 100, 3, 5


def unit(vectors: np.ndarray) -> np.ndarray:
    for piece in LAYOUT.slices.values():
        vectors[:, piece] /= np.linalg.norm(vectors[:, piece], axis=1, keepdims=True)
    return vectors.astype(np.float32)


@pytest.fixture(scope="module")
def people() -> tuple[Embedded, Labels]:
    """100 persons, three pictures and five captions of each around a vector of their own."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(PEOPLE, LAYOUT.dim))
    labels = Labels(np.arange(PEOPLE * PICTURES) % PEOPLE, np.arange(PEOPLE * CAPTIONS) % PEOPLE)
    noise = 0.6
    images = unit(centres[labels.image_ids] + noise * rng.normal(size=(PEOPLE * PICTURES, LAYOUT.dim)))
    texts = unit(centres[labels.text_ids] + noise * rng.normal(size=(PEOPLE * CAPTIONS, LAYOUT.dim)))
    return Embedded(images, texts), labels


def shaken(original: Embedded, amount: float) -> Embedded:
    rng = np.random.default_rng(1)
    return Embedded(*(unit(a + amount * rng.normal(size=a.shape)) for a in (original.images, original.texts)))


def test_equal_embeddings_pass_with_and_without_labels(people: tuple[Embedded, Labels]) -> None:
    reference, labels = people
    for given in (labels, None):
        verdict = judge(reference, reference, LAYOUT, given)
        assert verdict.passed
        assert verdict.to_json()["failures"] == []
        assert verdict.agreement is not None
        assert verdict.agreement.overlap == 1
        assert verdict.agreement.image.whole.minimum == pytest.approx(1) == verdict.agreement.text.whole.minimum
        assert len(verdict.differences) == (6 if given else 0)
        assert all(each.difference == 0 for each in verdict.differences)


def test_noise_fails_and_the_sentences_carry_the_numbers(people: tuple[Embedded, Labels]) -> None:
    reference, labels = people
    candidate = shaken(reference, 0.15)
    unlabelled = judge(reference, candidate, LAYOUT, None)
    assert not unlabelled.passed
    assert unlabelled.agreement is not None
    overlap, image, text = unlabelled.failures
    assert f"Only {unlabelled.agreement.overlap:.2%} of the first 10 pictures" in overlap
    assert "limit is 99.00%" in overlap
    worst = unlabelled.agreement.image.worst[0]
    assert f"image embeddings' cosine with the reference falls to {worst.cosine:.6f} (item {worst.index})" in image
    assert text.startswith("The text embeddings' cosine")
    labelled = judge(reference, candidate, LAYOUT, labels)
    by_name = {each.name: each for each in labelled.differences}
    assert by_name["R@1"].difference < -0.2 > by_name["mAP"].high
    assert [sentence.split(" drops")[0] for sentence in labelled.failures] == ["R@1", "mAP"]
    assert f"from {by_name['R@1'].reference:.2f} to {by_name['R@1'].candidate:.2f}" in labelled.failures[0]
    assert json.loads(json.dumps(labelled.to_json()))["metrics"]["mAP"]["difference"] == by_name["mAP"].difference


def test_a_drop_of_exactly_the_threshold_passes_and_one_query_more_does_not() -> None:
    """One query of 500 is 0.2 points; pictures along the axes make R@1 a matter of single signs."""
    layout = VectorLayout((Segment("global", 600),))
    eye = np.eye(600, dtype=np.float32)
    labels = Labels(np.arange(600), np.arange(500))
    limits = Thresholds(max_rank1_drop=0.2, max_map_drop=100)
    for wrong, passes in ((1, True), (2, False)):
        texts = eye[:500].copy()
        texts[:wrong] = eye[599:600] + 0.5 * eye[:wrong]
        verdict = judge(Embedded(eye, eye[:500]), Embedded(eye, texts), layout, labels, limits)
        assert verdict.differences[0].difference == pytest.approx(-0.2 * wrong)
        assert verdict.passed is passes


def test_each_threshold_counts_where_it_should(people: tuple[Embedded, Labels]) -> None:
    reference, labels = people
    candidate = shaken(reference, 0.15)
    loose = Thresholds(max_rank1_drop=100, max_map_drop=100)
    assert judge(reference, candidate, LAYOUT, labels, loose).passed
    assert not judge(reference, candidate, LAYOUT, None, loose).passed
    assert judge(reference, candidate, LAYOUT, None, Thresholds(min_overlap=0, min_cosine=-1)).passed
    assert len(judge(reference, candidate, LAYOUT, None, Thresholds(min_overlap=0)).failures) == 2
    assert len(judge(reference, candidate, LAYOUT, None, Thresholds(min_cosine=-1)).failures) == 1
    assert not judge(reference, candidate, LAYOUT, labels, Thresholds(max_map_drop=100)).passed


def test_a_better_candidate_passes(people: tuple[Embedded, Labels]) -> None:
    reference, labels = people
    verdict = judge(shaken(reference, 0.15), reference, LAYOUT, labels)
    assert verdict.passed
    assert verdict.differences[0].difference > 0.2


def test_broken_embeddings_fail_whatever_the_thresholds(people: tuple[Embedded, Labels]) -> None:
    reference, labels = people
    nothing_asked = Thresholds(1000, 1000, -1, -2)
    nan = reference.images.copy()
    nan[4, 2] = np.nan
    zero = reference.texts.copy()
    zero[:2, LAYOUT.slices["coarse"]] = 0
    constant = np.repeat(reference.texts[:1], len(reference.texts), axis=0)
    for candidate, sentence in (
        (Embedded(nan, reference.texts), "NaN or infinite numbers for 1 of 300"),
        (Embedded(reference.images, zero), "zero in coarse for 2 of 500"),
        (Embedded(reference.images[:-1], reference.texts), "299 image embeddings, and the reference 300"),
        (Embedded(reference.images, reference.texts[:, :-1]), "shape [500, 31], want [items, 32]"),
        (Embedded(reference.images, constant), "text branch gives 499 of 500 items exactly the embedding"),
    ):
        for given in (labels, None):
            verdict = judge(reference, candidate, LAYOUT, given, nothing_asked)
            assert not verdict.passed
            assert len(verdict.failures) == 1
            assert sentence in verdict.failures[0]
            json.dumps(verdict.to_json(), allow_nan=False)


def test_labels_that_match_nothing_are_refused(people: tuple[Embedded, Labels]) -> None:
    reference, labels = people
    with pytest.raises(VerificationError, match="No caption has a picture"):
        judge(reference, reference, LAYOUT, Labels(labels.image_ids + 1000, labels.text_ids))
