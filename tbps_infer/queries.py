"""Composing queries: several sentences for one person, a sentence beside a picture, and what is excluded.

A score is an inner product, so a composed query is a vector like any other, searched exactly and explained segment by
segment: its score is the weighted sum of its parts' scores.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import UsageError
from tbps_infer.layout import VectorLayout

if TYPE_CHECKING:
    from PIL import Image

    from tbps_infer.model_facts import ModelFacts

__all__ = [
    "PersonQuery",
    "QueryEncoder",
    "RocchioWeights",
    "compose",
    "encode_queries",
    "only_segments",
    "plain_sentence",
    "refine",
    "weigh_segments",
]


class QueryEncoder(Protocol):
    """What composing needs of an encoder; `tbps_infer.encoder.Encoder` has it."""

    facts: ModelFacts

    def encode_texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Sentences to float32 ``[n, dim]``."""

    def encode_images(self, sources: Sequence[Path | bytes | Image.Image]) -> NDArray[np.float32]:
        """Pictures to float32 ``[n, dim]``."""


@dataclass(frozen=True)
class PersonQuery:
    """One person who is looked for.

    Attributes:
        texts: Sentences, averaged; made plain by `plain_sentence`, as those of ``exclude`` are.
        images: Pictures (files, or their bytes), averaged.
        exclude: What the person must not have or wear, such as ``a backpack``; averaged and subtracted.
        image_weight: The pictures' share beside sentences, 0 to 1; without one of the two it has no meaning.
        exclude_weight: How much of a score for what is excluded is subtracted, 0 or more.
    """

    texts: tuple[str, ...] = ()
    images: tuple[Path | bytes, ...] = ()
    exclude: tuple[str, ...] = ()
    image_weight: float = 0.5
    exclude_weight: float = 0.5

    def __post_init__(self) -> None:
        values: tuple[tuple[str, object], ...] = (
            *(("texts", self.texts), ("images", self.images), ("exclude", self.exclude)),
        )
        for name, value in values:
            if isinstance(value, (str, bytes, Path)):
                raise UsageError(f"{name} is {value!r}, want a tuple of them.", f"Write ({name},).")
        if not self.texts and not self.images:
            raise UsageError(
                "A query needs a sentence or a picture.",
                "An exclusion only subtracts from a description: describe the person as well.",
            )
        for name, sentences in (("texts", self.texts), ("exclude", self.exclude)):
            object.__setattr__(self, name, tuple(map(plain_sentence, sentences)))
        if not 0 <= self.image_weight <= 1:
            raise UsageError(f"image_weight is {self.image_weight}, want 0 to 1.")
        if not (0 <= self.exclude_weight < math.inf):
            raise UsageError(f"exclude_weight is {self.exclude_weight}, want 0 or more.")


def plain_sentence(text: str) -> str:
    """A sentence as a person means it who typed or pasted it.

    White space of any kind and length, such as tabs, no-break and ideographic spaces, becomes one space; characters
    without a shape, such as soft hyphens and the joiners of emoji, go. Everything else stays as it is.

    Raises:
        UsageError: Nothing is left, or there are control characters or bytes that are no text.
    """
    seen = "".join(letter for letter in text if letter.isspace() or unicodedata.category(letter) != "Cf")
    plain = " ".join(seen.split())
    if not plain:
        raise UsageError("A sentence of the query is empty: it has no words.", "Describe the person.")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in plain):
        raise UsageError(
            f"A sentence of the query holds control characters, or bytes that are no text: {text!r}.",
            "Give it as UTF-8 text.",
        )
    return plain


def compose(
    layout: VectorLayout,
    texts: NDArray[np.float32],
    images: NDArray[np.float32],
    exclude: NDArray[np.float32],
    *,
    image_weight: float = 0.5,
    exclude_weight: float = 0.5,
) -> NDArray[np.float32]:
    """One query vector of the embeddings of its parts.

    Sentences are averaged, pictures are averaged, each average is brought back to every segment's norm, and so is
    their weighted sum: the score of such a query lies where the score of a single sentence lies. From that,
    ``exclude_weight`` times the average of what is excluded is subtracted.

    Args:
        layout: The embeddings' segments.
        texts: float32 ``[n, dim]``, n may be 0.
        images: float32 ``[m, dim]``, m may be 0.
        exclude: float32 ``[l, dim]``, l may be 0.
        image_weight: Share of the pictures in the sum, 0 to 1.
        exclude_weight: What is subtracted, as a share.

    Returns:
        float32 ``[dim]``.

    Raises:
        UsageError: There is neither a sentence nor a picture.
    """
    if not len(texts) and not len(images):
        raise UsageError("A query needs a sentence or a picture.")
    if not len(images):
        query = _average(layout, texts)
    elif not len(texts):
        query = _average(layout, images)
    else:
        both = (1 - image_weight) * _average(layout, texts) + image_weight * _average(layout, images)
        query = _normalised(layout, both)
    if len(exclude):
        query = query - exclude_weight * _average(layout, exclude)
    return query.astype(np.float32)


@dataclass(frozen=True)
class RocchioWeights:
    """What a query and the judgements on its hits weigh; the defaults are those of Manning, Raghavan and Schütze.

    Attributes:
        query: Of the query itself.
        relevant: Of the average of the records that were judged right.
        not_relevant: Of the average of those that were judged wrong.
    """

    query: float = 1.0
    relevant: float = 0.75
    not_relevant: float = 0.15

    def __post_init__(self) -> None:
        for name in ("query", "relevant", "not_relevant"):
            if not (0 <= (value := getattr(self, name)) < math.inf):
                raise UsageError(f"The weight {name} is {value}, want 0 or more.")


def refine(
    query: NDArray[np.float32],
    relevant: NDArray[np.float32],
    not_relevant: NDArray[np.float32],
    weights: RocchioWeights,
) -> NDArray[np.float32]:
    """A query moved towards what was judged right and away from what was judged wrong, by Rocchio's formula.

    ``query * q + relevant * mean(r) - not_relevant * mean(n)``, brought back to the length of the query: that changes
    no order, and scores stay where they were.

    Args:
        query: float32 ``[dim]``.
        relevant: float32 ``[n, dim]``, n may be 0.
        not_relevant: float32 ``[m, dim]``, m may be 0.
        weights: What each weighs.

    Returns:
        float32 ``[dim]``.

    Raises:
        UsageError: Nothing is left of the query.
    """
    if not len(relevant) and not len(not_relevant):
        return query
    moved = weights.query * query.astype(np.float64)
    if len(relevant):
        moved += weights.relevant * relevant.astype(np.float64).mean(axis=0)
    if len(not_relevant):
        moved -= weights.not_relevant * not_relevant.astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(moved))
    if length < 1e-9:
        raise UsageError("Nothing is left of the query with these weights.", "Give the query a weight above 0.")
    refined: NDArray[np.float32] = (moved * (float(np.linalg.norm(query)) / length)).astype(np.float32)
    return refined


def weigh_segments(
    layout: VectorLayout, query: NDArray[np.float32], weights: Mapping[str, float]
) -> NDArray[np.float32]:
    """A query whose segments' shares of every score are multiplied by some factors, by name; the others stay.

    A score is the sum of its segments' inner products, so multiplying a run of the query multiplies that share.

    Raises:
        UsageError: The layout has no such segment, or a factor is negative or not finite.
    """
    weighed: NDArray[np.float32] = query.copy()
    for name, factor in weights.items():
        if not (0 <= factor < math.inf):
            raise UsageError(f"The weight of {name} is {factor}, want 0 or more.")
        weighed[_run(layout, name)] *= np.float32(factor)
    return weighed


def only_segments(layout: VectorLayout, vector: NDArray[np.float32], names: Collection[str]) -> NDArray[np.float32]:
    """Some segments of an embedding, the others zero: they add nothing to a score.

    Raises:
        UsageError: The layout has no such segment.
    """
    kept = np.zeros_like(vector)
    for name in names:
        kept[_run(layout, name)] = vector[_run(layout, name)]
    return kept


def _run(layout: VectorLayout, name: str) -> slice:
    if name not in layout.slices:
        raise UsageError(f"There is no segment {name!r}.", f"The model has {', '.join(layout.names)}.")
    return layout.slices[name]


def encode_queries(encoder: QueryEncoder, queries: Sequence[PersonQuery]) -> NDArray[np.float32]:
    """Embed the parts of some queries, all sentences and all pictures together, and compose each.

    Returns:
        float32 ``[len(queries), dim]``.

    Raises:
        ImageError: A picture cannot be decoded.
        BackendError: The backend failed.
    """
    layout = encoder.facts.layout
    nothing = np.empty((0, layout.dim), dtype=np.float32)
    sentences = list(dict.fromkeys(text for query in queries for text in (*query.texts, *query.exclude)))
    pictures = list(dict.fromkeys(image for query in queries for image in query.images))
    texts = encoder.encode_texts(sentences) if sentences else nothing
    images = encoder.encode_images(pictures) if pictures else nothing
    text_row = {text: row for row, text in enumerate(sentences)}
    image_row = {image: row for row, image in enumerate(pictures)}
    composed = [
        compose(
            layout,
            texts[[text_row[text] for text in query.texts]],
            images[[image_row[image] for image in query.images]],
            texts[[text_row[text] for text in query.exclude]],
            image_weight=query.image_weight,
            exclude_weight=query.exclude_weight,
        )
        for query in queries
    ]
    return np.stack(composed) if composed else nothing


def _average(layout: VectorLayout, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 ``[dim]``; a single embedding stays as it is."""
    if len(embeddings) == 1:
        only: NDArray[np.float64] = embeddings[0].astype(np.float64)
        return only
    return _normalised(layout, embeddings.astype(np.float64).mean(axis=0))


def _normalised(layout: VectorLayout, query: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every segment brought to its norm; one that cancelled out stays zero."""
    scaled: NDArray[np.float64] = query.copy()
    for segment in layout.segments:
        piece = scaled[layout.slices[segment.name]]
        norm = float(np.linalg.norm(piece))
        if norm > 1e-12:
            piece *= math.sqrt(segment.weight) / norm
    return scaled
