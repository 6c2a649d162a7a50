"""The field's protocol over any encoder: every caption against every picture of a split, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.dataset import Split
from tbps_infer.errors import DatasetError
from tbps_infer.evaluation.metrics import RetrievalMetrics, retrieval_metrics

__all__ = [
    "EncodeImages",
    "EncodeTexts",
    "EvaluationReport",
    "embed_both",
    "embed_split",
    "evaluate",
    "evaluate_embeddings",
]

EncodeTexts = Callable[[Sequence[str]], NDArray[np.float32]]
EncodeImages = Callable[[Sequence[Path]], NDArray[np.float32]]
_Item = TypeVar("_Item")

_AT_ONCE = 1024
"""Items embedded between two words of progress; many batches, so that captions still share their lengths."""


@dataclass(frozen=True)
class EvaluationReport:
    """How well a model retrieves on one split.

    Attributes:
        dataset: The data set's name.
        split: The split's name.
        identities: Persons in it.
        text_to_image: Captions as queries, pictures as the gallery: the field's headline.
        image_to_text: Pictures as queries, captions as the gallery.
    """

    dataset: str
    split: str
    identities: int
    text_to_image: RetrievalMetrics
    image_to_text: RetrievalMetrics

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        directions = {"text_to_image": self.text_to_image, "image_to_text": self.image_to_text}
        return {**vars(self), **{name: metrics.to_json() for name, metrics in directions.items()}}


def evaluate(
    encode_texts: EncodeTexts,
    encode_images: EncodeImages,
    split: Split,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> EvaluationReport:
    """Embed a split and measure retrieval in both directions.

    The gallery holds a caption's own picture too, and no camera is left out, as the field's protocol has it.

    Args:
        encode_texts: Captions to float32 ``[n, dim]``; `Encoder.encode_texts` is one.
        encode_images: Picture files to float32 ``[n, dim]``; `Encoder.encode_images` is one.
        split: What to evaluate on.
        on_progress: Called with the captions and pictures embedded, and how many there are.

    Raises:
        DatasetError: The split has no caption.
    """
    texts, images = embed_split(encode_texts, encode_images, split, on_progress)
    return evaluate_embeddings(texts, images, split)


def embed_split(
    encode_texts: EncodeTexts,
    encode_images: EncodeImages,
    split: Split,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A split's captions, float32 ``[captions, dim]``, and pictures, ``[pictures, dim]``; otherwise as `evaluate`."""
    if not split.captions:
        raise DatasetError(f"{split.dataset} {split.name} has no captions.", "Choose a split that has some.")
    paths = [picture.path for picture in split.pictures]
    return embed_both(encode_texts, encode_images, split.captions, paths, on_progress)


def evaluate_embeddings(texts: NDArray[np.float32], images: NDArray[np.float32], split: Split) -> EvaluationReport:
    """What `evaluate` measures, of embeddings that `embed_split` made."""
    text_ids, image_ids = split.caption_identities, split.identities
    return EvaluationReport(
        dataset=split.dataset,
        split=split.name,
        identities=len(np.unique(image_ids)),
        text_to_image=retrieval_metrics(texts, images, text_ids, image_ids),
        image_to_text=retrieval_metrics(images, texts, image_ids, text_ids),
    )


def embed_both(
    encode_texts: EncodeTexts,
    encode_images: EncodeImages,
    captions: Sequence[str],
    pictures: Sequence[Path],
    on_progress: Callable[[int, int], None],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed captions, float32 ``[captions, dim]``, then pictures, ``[pictures, dim]``; otherwise as `evaluate`."""
    done, total = len(captions), len(captions) + len(pictures)
    texts = _encode_in_parts(encode_texts, captions, lambda texts: on_progress(texts, total))
    return texts, _encode_in_parts(encode_images, pictures, lambda images: on_progress(done + images, total))


def _encode_in_parts(
    encode: Callable[[Sequence[_Item]], NDArray[np.float32]], items: Sequence[_Item], on_done: Callable[[int], None]
) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(items), _AT_ONCE):
        parts.append(encode(items[start : start + _AT_ONCE]))
        on_done(min(start + _AT_ONCE, len(items)))
    return np.concatenate(parts)
