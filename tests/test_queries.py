"""Composed queries: their scores are the weighted sums of their parts' scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_vectors import embeddings
from numpy.typing import NDArray

from tbps_infer.errors import UsageError
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.queries import (
    PersonQuery,
    RocchioWeights,
    compose,
    encode_queries,
    only_segments,
    plain_sentence,
    refine,
    weigh_segments,
)
from tbps_infer.runners.fake import fake_facts

LAYOUT = VectorLayout((Segment("global", 5), Segment("fine.0", 3, 0.5), Segment("fine.1", 4, 0.5)))
NOTHING = np.empty((0, 12), dtype=np.float32)


class Table:
    """An encoder that looks up embeddings, and remembers what it was asked."""

    facts = fake_facts(layout=LAYOUT)

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def encode_texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(captions))
        return np.concatenate([embeddings(LAYOUT, 1, sum(caption.encode())) for caption in captions])

    def encode_images(self, sources: Sequence[Any]) -> NDArray[np.float32]:
        self.asked.append(list(sources))
        return np.concatenate([embeddings(LAYOUT, 1, sum(str(source).encode())) for source in sources])


def segment_norms(query: NDArray[np.float32]) -> list[float]:
    return [float(np.linalg.norm(query[LAYOUT.slices[s.name]]) ** 2) for s in LAYOUT.segments]


def test_a_single_sentence_or_picture_is_its_embedding() -> None:
    one = embeddings(LAYOUT, 1)
    np.testing.assert_array_equal(compose(LAYOUT, one, NOTHING, NOTHING), one[0])
    np.testing.assert_array_equal(compose(LAYOUT, NOTHING, one, NOTHING), one[0])


def test_several_sentences_are_averaged_segment_by_segment() -> None:
    three = embeddings(LAYOUT, 3)
    query = compose(LAYOUT, three, NOTHING, NOTHING)
    np.testing.assert_allclose(segment_norms(query), [1, 0.5, 0.5], rtol=1e-6)
    for segment in LAYOUT.segments:
        piece = LAYOUT.slices[segment.name]
        mean = three[:, piece].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(query[piece], mean * np.sqrt(segment.weight) / np.linalg.norm(mean), rtol=1e-5)
    np.testing.assert_allclose(compose(LAYOUT, three[[0, 0]], NOTHING, NOTHING), three[0], rtol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_picture_has_its_weight_beside_sentences(weight: float) -> None:
    text, image = embeddings(LAYOUT, 1, 1), embeddings(LAYOUT, 1, 2)
    query = compose(LAYOUT, text, image, NOTHING, image_weight=weight)
    for segment in LAYOUT.segments:
        piece = LAYOUT.slices[segment.name]
        mixed = (1 - weight) * text[0, piece].astype(np.float64) + weight * image[0, piece].astype(np.float64)
        np.testing.assert_allclose(query[piece], mixed * np.sqrt(segment.weight) / np.linalg.norm(mixed), rtol=1e-5)


def test_what_is_excluded_is_subtracted_from_the_score() -> None:
    text, without, gallery = (
        embeddings(LAYOUT, 2, 1),
        embeddings(LAYOUT, 2, 2),
        embeddings(LAYOUT, 20, 3).astype(np.float64),
    )
    with_it = compose(LAYOUT, text, NOTHING, without, exclude_weight=0.25).astype(np.float64)
    plain = compose(LAYOUT, text, NOTHING, NOTHING).astype(np.float64)
    excluded = compose(LAYOUT, without, NOTHING, NOTHING).astype(np.float64)
    np.testing.assert_allclose(gallery @ with_it, gallery @ plain - 0.25 * (gallery @ excluded), atol=1e-6)


def test_opposite_sentences_cancel_without_a_division_by_zero() -> None:
    one = embeddings(LAYOUT, 1)
    np.testing.assert_array_equal(compose(LAYOUT, np.concatenate((one, -one)), NOTHING, NOTHING), 0)


def test_parts_are_embedded_once_and_together() -> None:
    encoder = Table()
    picture = Path("a.jpg")
    queries = [
        PersonQuery(("red coat", "long hair")),
        PersonQuery(("red coat",), (picture,), ("backpack",), image_weight=0.7),
        PersonQuery(images=(picture,), exclude=("backpack", "long hair"), exclude_weight=1.0),
    ]
    composed = encode_queries(encoder, queries)
    assert encoder.asked == [["red coat", "long hair", "backpack"], [picture]]

    def text(caption: str) -> NDArray[np.float32]:
        return embeddings(LAYOUT, 1, sum(caption.encode()))

    image = embeddings(LAYOUT, 1, sum(b"a.jpg"))
    want = [
        compose(LAYOUT, np.concatenate((text("red coat"), text("long hair"))), NOTHING, NOTHING),
        compose(LAYOUT, text("red coat"), image, text("backpack"), image_weight=0.7),
        compose(LAYOUT, NOTHING, image, np.concatenate((text("backpack"), text("long hair"))), exclude_weight=1.0),
    ]
    np.testing.assert_array_equal(composed, np.stack(want))
    assert encode_queries(Table(), []).shape == (0, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a sentence or a picture"),
        ({"exclude": ("hat",)}, "needs a sentence or a picture"),
        ({"texts": "a man"}, "want a tuple"),
        ({"images": Path("a.jpg")}, "want a tuple"),
        ({"texts": ("a man", " ")}, "has no words"),
        ({"texts": ("a man",), "image_weight": 1.5}, "image_weight is 1.5"),
        ({"texts": ("a man",), "exclude_weight": -1.0}, "exclude_weight is -1"),
        ({"texts": ("a man",), "exclude_weight": float("nan")}, "exclude_weight is nan"),
    ],
)
def test_queries_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PersonQuery(**arguments)


PASTED = ("a man", "a\u00a0man", "a\tman", "a\u3000man", " a \n man ", "a m\u00adan", "\ufeffa\u200b m\u200dan\u2060")


@pytest.mark.parametrize("text", PASTED)
def test_pasted_text_is_what_was_meant(text: str) -> None:
    query = PersonQuery((text,), exclude=(text,))
    assert query.texts == query.exclude == ("a man",)
    assert plain_sentence("👩\u200d👧 naïve façade") == "👩👧 naïve façade"


@pytest.mark.parametrize(
    ("text", "words"), [("\u200b \u00ad", "no words"), ("a\x1bman", "control"), ("a\udce9", "no text")]
)
def test_what_is_no_sentence_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PersonQuery((text,))


def test_judgements_keep_the_length_of_a_query_and_move_it_by_their_weights() -> None:
    query, right, wrong = embeddings(LAYOUT, 1, 1)[0], embeddings(LAYOUT, 2, 2), embeddings(LAYOUT, 3, 3)
    moved = refine(query, right, wrong, RocchioWeights(1, 0.5, 0.25))
    wanted = query + 0.5 * right.mean(axis=0) - 0.25 * wrong.mean(axis=0)
    assert moved == pytest.approx(wanted * np.linalg.norm(query) / np.linalg.norm(wanted), abs=1e-6)
    assert refine(query, NOTHING, NOTHING, RocchioWeights()) is query
    with pytest.raises(UsageError, match="Nothing is left"):
        refine(query, query[None], query[None], RocchioWeights(0, 1, 1))
    with pytest.raises(UsageError, match="not_relevant is nan"):
        RocchioWeights(not_relevant=float("nan"))


def test_weights_multiply_the_shares_of_segments_and_parts_leave_the_rest_out() -> None:
    query, other = embeddings(LAYOUT, 2, 4)
    shares = [float(query[run] @ other[run]) for run in LAYOUT.slices.values()]
    weighed = weigh_segments(LAYOUT, query, {"fine.0": 3.0, "global": 0.0})
    assert float(weighed @ other) == pytest.approx(3 * shares[1] + shares[2], abs=1e-6)
    part = only_segments(LAYOUT, query, ("fine.1",))
    assert float(part @ other) == pytest.approx(shares[2], abs=1e-6) and not part[:8].any()
    with pytest.raises(UsageError, match="no segment 'arms'"):
        weigh_segments(LAYOUT, query, {"arms": 1})
    with pytest.raises(UsageError, match="no segment 'arms'"):
        only_segments(LAYOUT, query, ("arms",))
    with pytest.raises(UsageError, match="want 0 or more"):
        weigh_segments(LAYOUT, query, {"global": -1.0})
