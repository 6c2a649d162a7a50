"""The protocol: every caption against every picture, own picture included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer.data.dataset import Picture, Split
from tbps_infer.errors import DatasetError
from tbps_infer.evaluation.evaluate import evaluate

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
