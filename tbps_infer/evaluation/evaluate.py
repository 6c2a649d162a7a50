"""The field's protocol over any encoder: every caption against every picture of a split, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.dataset import Split
from tbps_infer.errors import DatasetError
from tbps_infer.evaluation.metrics import KS, RetrievalMetrics, retrieval_metrics

__all__ = ["EncodeImages", "EncodeTexts", "EvaluationReport", "evaluate"]

EncodeTexts = Callable[[Sequence[str]], NDArray[np.float32]]
EncodeImages = Callable[[Sequence[Path]], NDArray[np.float32]]


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
        return {
            "dataset": self.dataset,
            "split": self.split,
            "identities": self.identities,
            "text_to_image": self.text_to_image.to_json(),
            "image_to_text": self.image_to_text.to_json(),
        }


def evaluate(
    encode_texts: EncodeTexts, encode_images: EncodeImages, split: Split, *, ks: Sequence[int] = KS
) -> EvaluationReport:
    """Embed a split and measure retrieval in both directions.

    The gallery holds a caption's own picture too, and no camera is left out, as the field's protocol has it.

    Args:
        encode_texts: Captions to float32 ``[n, dim]``; `Encoder.encode_texts` is one.
        encode_images: Picture files to float32 ``[n, dim]``; `Encoder.encode_images` is one.
        split: What to evaluate on.
        ks: Which R@k.

    Raises:
        DatasetError: The split has no caption.
    """
    if not split.captions:
        raise DatasetError(f"{split.dataset} {split.name} has no captions.", "Choose a split that has some.")
    texts = encode_texts(split.captions)
    images = encode_images([picture.path for picture in split.pictures])
    text_ids, image_ids = split.caption_identities, split.identities
    return EvaluationReport(
        dataset=split.dataset,
        split=split.name,
        identities=len(np.unique(image_ids)),
        text_to_image=retrieval_metrics(texts, images, text_ids, image_ids, ks=ks),
        image_to_text=retrieval_metrics(images, texts, image_ids, text_ids, ks=ks),
    )
