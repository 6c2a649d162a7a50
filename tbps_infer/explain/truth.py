"""Attention and commonality held against what a synthetic data set knows about its people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.dataset import Split
from tbps_infer.data.synth.truth import PartTruth, part_truth
from tbps_infer.explain.commonality import BATCH, entropy_commonality, unit_parts
from tbps_infer.formats.tokenizers_files import read_tokenizer
from tbps_infer.images import load_crop
from tbps_infer.reference.config import ModelConfig
from tbps_infer.text import pad_ids

__all__ = ["TruthReport", "Weights", "agreement", "mean_cosine", "measure_truth", "pointing", "rank_correlation"]

Array = NDArray[np.float64]

Weights = Callable[[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]], tuple[NDArray[np.float32], ...]]
"""Crops ``[b, height, width, 3]``, ids and mask ``[b, length]`` to the attention on the pictures
``[b, N_c, rows·columns]`` and on the sentences ``[b, N_c + K, length]``."""


@dataclass(frozen=True)
class TruthReport:
    """How far tokens are parts.

    Attributes:
        pointing: Mean share of text token k's attention on words that describe something in stripe k.
        other_pointing: The same of another token's attention.
        even_pointing: The same of even attention.
        agreement: How far image token j and text token j look at the same stripes, 0 to 1.
        permuted_agreement: The same of token j and another token.
        cosines: Mean cosine between the attention of two text tokens, two coarse tokens on words, and on pictures.
        commonality: Spearman's rank correlation of κ with the truth, for each stripe.
    """

    pointing: float
    other_pointing: float
    even_pointing: float
    agreement: float
    permuted_agreement: float
    cosines: tuple[float, ...]
    commonality: tuple[float, ...]


def measure_truth(
    config: ModelConfig,
    tokenizer: Path,
    root: Path,
    split: Split,
    weights: Weights,
    vectors: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> TruthReport:
    """Hold a model against the truth of a synthetic data set: every picture with its first caption.

    Args:
        config: The model's.
        tokenizer: Its `tokenizers` file.
        root: The data set's folder.
        split: One of its splits.
        weights: The model's attention.
        vectors: Embeddings of the pictures and of their first captions, float32 ``[pictures, dim]`` each.
    """
    truths = part_truth(root, split, config.parts)
    model = read_tokenizer(tokenizer)
    model.no_padding()
    model.enable_truncation(config.text.max_length)
    encodings = [model.encode(picture.captions[0]) for picture in split.pictures]
    shares: list[tuple[float, ...]] = []
    for start in range(0, len(encodings), BATCH):
        chosen = encodings[start : start + BATCH]
        crops = np.stack(
            [load_crop(p.path, config.preprocessing) for p in split.pictures[start : start + len(chosen)]]
        )
        ids, mask = pad_ids([encoding.ids for encoding in chosen], 0)
        seen, read = weights(crops, ids, mask)
        for row, encoding in enumerate(chosen):
            shown = _shown(encoding.offsets, truths[start + row].words[0], config.parts)
            shares.append(_facts(config, seen[row], read[row, :, : len(encoding.ids)], shown))
    found = [float(np.nanmean(column)) for column in np.array(shares).T]
    pointed, of_other, even, same, permuted, *cosines = found
    correlations = _commonality(config, truths, vectors)
    return TruthReport(pointed, of_other, even, same, permuted, tuple(cosines), correlations)


def _shown(
    offsets: Sequence[tuple[int, int]], words: Sequence[tuple[tuple[int, int], NDArray[np.bool_]]], parts: int
) -> NDArray[np.bool_]:
    """Which stripes show what each piece of a word describes: bool ``[pieces, K]``."""
    shown = np.zeros((len(offsets), parts), np.bool_)
    for (start, stop), where in words:
        for place, (first, last) in enumerate(offsets):
            if first < stop and last > start:
                shown[place] |= where
    return shown


def _facts(
    config: ModelConfig, seen: NDArray[np.float32], read: NDArray[np.float32], shown: NDArray[np.bool_]
) -> tuple[float, ...]:
    cut = config.coarse_tokens
    rows, _ = config.map_size
    by_row = seen.reshape(cut, rows, -1).sum(axis=2)
    stripes = by_row.reshape(cut, config.parts, -1).sum(axis=2).astype(np.float64)
    coarse, parts = read[:cut].astype(np.float64), read[cut:].astype(np.float64)
    return (
        *pointing(parts, shown),
        *agreement(stripes, coarse, shown),
        mean_cosine(parts),
        mean_cosine(coarse),
        mean_cosine(seen.astype(np.float64)),
    )


def pointing(attention: Array, shown: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The share of attention on words about stripe k: of token k, of another token, and of even attention.

    Args:
        attention: ``[K, pieces]``; rows sum to 1.
        shown: bool ``[pieces, K]``: whether stripe k shows what a piece of a word describes.

    Returns:
        Means over the stripes that words speak of; NaN without any.
    """
    spoken = np.flatnonzero(shown.any(axis=0))
    if not len(spoken):
        return (float("nan"),) * 3
    found = (attention @ shown)[:, spoken]
    own = float(found[spoken, np.arange(len(spoken))].mean())
    others = (float(found.sum(axis=0).mean()) - own) / max(len(attention) - 1, 1)
    return own, others, float(shown.mean(axis=0)[spoken].mean())


def agreement(image: Array, text: Array, shown: NDArray[np.bool_]) -> tuple[float, float]:
    """How far image token j and text token j look at the same stripes, and image token j and another text token.

    A token's words are spread evenly over the stripes that show what they describe. Two distributions over stripes
    agree by the sum of their minima: 1 if they are equal, 0 if they are disjoint.

    Args:
        image: ``[N_c, K]``: each token's attention on the stripes of the picture; rows sum to 1.
        text: ``[N_c, pieces]``: each token's attention on the sentence.
        shown: bool ``[pieces, K]``.
    """
    told = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
    stripes = text @ told
    total = stripes.sum(axis=1, keepdims=True)
    if (total <= 0).any() or len(image) < 2:
        return float("nan"), float("nan")
    common = np.minimum(image[:, None], (stripes / total)[None]).sum(axis=2)
    count = len(common)
    matched = float(np.trace(common))
    return matched / count, (float(common.sum()) - matched) / (count * (count - 1))


def mean_cosine(rows: Array) -> float:
    """The mean cosine between two different rows."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    products = unit @ unit.T
    count = len(rows)
    return float((products.sum() - np.trace(products)) / (count * (count - 1)))


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's ρ: the correlation of ranks, equal values sharing their mean rank; NaN where one is constant."""
    ranks = np.stack([_mean_ranks(one), _mean_ranks(other)])
    if (ranks.std(axis=1) == 0).any():
        return float("nan")
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _mean_ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Array = np.cumsum(counts).astype(np.float64)
    means: Array = last - (counts - 1) / 2
    ranks: Array = means[inverse]
    return ranks


def _commonality(
    config: ModelConfig, truths: Sequence[PartTruth], vectors: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> tuple[float, ...]:
    order = np.random.default_rng(0).permutation(len(truths))
    names = [f"fine.{k}" for k in range(config.parts)]
    images, texts = (unit_parts(side[order], config.layout, names) for side in vectors)
    whole = len(order) // BATCH * BATCH or len(order)
    kappa = np.concatenate(
        [
            entropy_commonality(images[:, start : start + BATCH], texts[:, start : start + BATCH])
            for start in range(0, whole, BATCH)
        ],
        axis=1,
    )
    truth = np.stack([truths[index].commonality for index in order[:whole]], axis=1)
    known = np.isfinite(truth)
    return tuple(rank_correlation(kappa[k, known[k]], truth[k, known[k]]) for k in range(config.parts))
