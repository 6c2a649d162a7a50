"""What is measured of a trained arm: retrieval by terms, and how far its tokens are parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbps_infer.data.dataset import Split
from tbps_infer.data.readers import read_dataset
from tbps_infer.evaluation.metrics import retrieval_metrics
from tbps_infer.explain.field import stripe_field
from tbps_infer.explain.maps import attention_weights
from tbps_infer.explain.truth import measure_truth
from tbps_infer.images import load_crop
from tbps_infer.reference.checkpoint import Checkpoint
from tbps_infer.text import Tokenizer
from tbps_infer.training.options import Term
from tbps_infer.training.validation import Validator

__all__ = ["METRICS", "measure"]

METRICS = ("R@1", "R@5", "R@10", "mAP")
FINE_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_FIELD_CROPS = 32

Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]


def measure(best: Checkpoint, data: Path, terms: Sequence[Term], device: torch.device) -> dict[str, Any]:
    """Metrics of the test split in percent, and where all terms are trained, of their shares and of the tokens."""
    best.model.to(device)
    tokenizer = Tokenizer.from_facts(best.tokenizer_path, best.facts)
    test = read_dataset(data, "test")
    images, texts = Validator(best.model, tokenizer, test, terms).embeddings(device)
    every = _weights(best, terms, best.config.fine_weight)
    row: dict[str, Any] = {
        name: value for name, value in _metrics(texts, images, test, every).items() if name in METRICS
    }
    if "fine" not in terms:
        return row
    validation = read_dataset(data, "val")
    judged = Validator(best.model, tokenizer, validation, terms).embeddings(device)
    for name, split, (pictures, captions) in (("validation", validation, judged), ("test", test, (images, texts))):
        row[f"{name} R@1 by fine weight"] = {
            str(weight): _rank1(captions, pictures, split, _weights(best, terms, weight)) for weight in FINE_WEIGHTS
        }
    row["fine alone R@1"] = _rank1(texts, images, test, _weights(best, ("fine",), 1.0))
    first = np.concatenate(([0], np.cumsum([len(picture.captions) for picture in test.pictures])[:-1]))
    weights = attention_weights(best.model, str(device))
    truth = measure_truth(best.config, best.tokenizer_path, data, test, weights, (images, texts[first]))
    row |= vars(truth)
    if best.config.parts_from == "stripes":
        crops = np.stack([load_crop(p.path, best.config.preprocessing) for p in test.pictures[:_FIELD_CROPS]])
        row["field"] = vars(stripe_field(best.model, crops))
    return row


def _weights(best: Checkpoint, terms: Sequence[Term], fine: float) -> NDArray[np.float32]:
    """What each number of an embedding counts: 0 for terms left out, and √λ for the fine ones in place of theirs."""
    found = np.zeros(best.config.layout.dim, np.float32)
    for name, piece in best.config.layout.slices.items():
        term = name.split(".")[0]
        if term in terms:
            found[piece] = (fine / best.config.fine_weight) ** 0.5 if term == "fine" else 1.0
    return found


def _rank1(
    texts: NDArray[np.float32], images: NDArray[np.float32], split: Split, weights: NDArray[np.float32]
) -> float:
    return _metrics(texts, images, split, weights)["R@1"]


def _metrics(
    texts: NDArray[np.float32], images: NDArray[np.float32], split: Split, weights: NDArray[np.float32]
) -> Mapping[str, float]:
    kept = weights > 0
    found = retrieval_metrics(
        (texts * weights)[:, kept], (images * weights)[:, kept], split.caption_identities, split.identities
    )
    return found.headline()
