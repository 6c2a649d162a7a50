"""The protocol: every caption against every picture, own picture included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer.data.dataset import Picture, Split
from tbps_infer.errors import DatasetError
from tbps_infer.evaluation.cases import pick_cases
from tbps_infer.evaluation.evaluate import evaluate, evaluate_embeddings

AXES = np.eye(4, dtype=np.float32)


def _split() -> Split:
    pictures = [
        Picture(Path("0"), 10, ("0", "0 again")),
        Picture(Path("1"), 10, ("1",)),
        Picture(Path("2"), 20, ("2",)),
        Picture(Path("3"), 30, ()),
    ]
    return Split("made", "test", tuple(pictures))


def _texts(captions: Sequence[str]) -> NDArray[np.float32]:
    return np.stack([AXES[int(caption[0])] for caption in captions])


def _images(paths: Sequence[Path]) -> NDArray[np.float32]:
    return np.stack([AXES[int(path.name)] for path in paths])


def test_a_perfect_encoder_by_hand() -> None:
    report = evaluate(_texts, _images, _split())
    forth, back = report.text_to_image, report.image_to_text
    assert (forth.queries, forth.unmatched, forth.gallery) == (4, 0, 4)
    assert forth.headline()["R@1"] == 100
    # Each caption of person 10 has its own picture first; the other one ties with two strangers at 0.
    lost, won = (1 + 2 / 4) / 2, 1.0
    assert forth.pessimistic.map_standard == pytest.approx(100 * (3 * lost + 1) / 4)
    assert forth.optimistic.map_standard == pytest.approx(100 * (3 * won + 1) / 4)
    assert (back.queries, back.unmatched, back.gallery) == (3, 1, 4)
    assert report.identities == 3
    assert report.to_json()["image_to_text"]["unmatched"] == 1


def test_embedding_in_parts_changes_nothing_and_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(_texts, _images, _split())
    monkeypatch.setattr("tbps_infer.evaluation.evaluate._AT_ONCE", 3)
    told: list[tuple[int, int]] = []
    parts = evaluate(_texts, _images, _split(), on_progress=lambda done, total: told.append((done, total)))
    assert parts == whole
    assert told == [(3, 8), (4, 8), (7, 8), (8, 8)]


def test_a_split_without_captions_is_refused() -> None:
    with pytest.raises(DatasetError, match="no captions"):
        evaluate(_texts, _images, Split("made", "test", (Picture(Path("0"), 1, ()),)))


def test_cases_are_the_evaluations_own() -> None:
    """Ranks against a full sort; successes before failures, half of each; ties count as lost."""
    rng = np.random.default_rng(0)
    pictures = [Picture(Path(str(number)), number % 7, (f"{number}",)) for number in range(40)]
    split = Split("made", "test", tuple(pictures))
    images = rng.standard_normal((40, 8)).astype(np.float32)
    texts = (images + 1.2 * rng.standard_normal((40, 8))).astype(np.float32)
    report = evaluate_embeddings(texts, images, split)
    first = [int(np.argmax(images @ text)) % 7 == number % 7 for number, text in enumerate(texts)]
    assert report.text_to_image.headline()["R@1"] == pytest.approx(100 * np.mean(first))
    cases = pick_cases(texts, images, split, 6, k=3)
    assert [bool(case.right[0]) for case in cases] == [True] * 3 + [False] * 3
    for case in cases:
        scores = images @ texts[case.caption]
        order = np.argsort(-scores, kind="stable")
        person = case.caption % 7
        assert case.pictures.tolist() == order[:3].tolist()
        assert case.right.tolist() == [picture % 7 == person for picture in order[:3]]
        ranks = [rank for rank, picture in enumerate(order, start=1) if picture % 7 == person]
        assert (case.best_right_rank, case.best_right) == (ranks[0], order[ranks[0] - 1])
    tied = pick_cases(np.ones((40, 8), np.float32), np.ones((40, 8), np.float32), split, 1, k=3)[0]
    assert tied.best_right_rank == 1 + sum(number % 7 != tied.caption % 7 for number in range(40))
    assert len(pick_cases(texts, images, split, 40, k=3)) == 40
