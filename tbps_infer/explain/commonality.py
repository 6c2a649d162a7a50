"""How common each part of each picture is, and the margins that CMR would give it: what the entropy form sees.

κ of a part of a picture is the normalised entropy of softmax_j(s_ij^k / τ) over the sentences of a batch, and its
margin max(α(1 − κ), least): `tbps_infer.training.losses.entropy_commonality`, here on embeddings alone, so that any
bundle of a part model can be looked at. The other form, ``id_prob``, needs the identity classifiers of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tbps_infer.data.dataset import Split
from tbps_infer.encoder import Encoder
from tbps_infer.errors import DatasetError, UsageError
from tbps_infer.evaluation.evaluate import embed_both
from tbps_infer.layout import VectorLayout
from tbps_infer.render import canvas

__all__ = ["Commonality", "draw_commonality", "entropy_commonality", "measure_commonality", "unit_parts"]

BATCH = 64
TEMPERATURE, BASE_MARGIN, LEAST_MARGIN = 0.05, 0.2, 0.05
_MOST_PICTURES = 2048


@dataclass(frozen=True)
class Commonality:
    """κ and margins of a data set's pictures.

    Attributes:
        pictures: Their files.
        kappa: float64 ``[parts, pictures]``, 0 to 1.
    """

    pictures: tuple[Path, ...]
    kappa: NDArray[np.float64]

    @property
    def margin(self) -> NDArray[np.float64]:
        """float64 ``[parts, pictures]``: max(α(1 − κ), least)."""
        return np.maximum(BASE_MARGIN * (1 - self.kappa), LEAST_MARGIN)


def entropy_commonality(
    images: NDArray[np.float32], texts: NDArray[np.float32], temperature: float = TEMPERATURE
) -> NDArray[np.float64]:
    """κ of pictures among the sentences of one batch.

    Args:
        images: float32 ``[parts, n, d]``, of unit length.
        texts: The same of their sentences.
        temperature: τ.

    Returns:
        float64 ``[parts, n]``; 0 for a batch of one, where nothing is shared.
    """
    count = images.shape[1]
    if count == 1:
        return np.zeros(images.shape[:2])
    scores = (images.astype(np.float64) @ texts.astype(np.float64).transpose(0, 2, 1)) / temperature
    scores -= scores.max(axis=2, keepdims=True)
    log_share = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    entropy: NDArray[np.float64] = -(np.exp(log_share) * log_share).sum(axis=2)
    return entropy / math.log(count)


def measure_commonality(
    encoder: Encoder,
    split: Split,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Commonality:
    """κ of every part of a split's pictures, 2,048 at most, in random batches of 64 as in training.

    Raises:
        DatasetError: Fewer than two pictures have a caption.
        UsageError: The model has no parts.
    """
    layout = encoder.facts.layout
    names = [name for name in layout.names if name.startswith("fine.")]
    if not names:
        raise UsageError(f"The model family {encoder.facts.family} has no parts, so nothing can be common to them.")
    described = [picture for picture in split.pictures if picture.captions]
    if len(described) < 2:
        raise DatasetError(
            f"{split.dataset} {split.name} has {len(described)} pictures with captions, want 2 or more."
        )
    order = np.random.default_rng(0).permutation(len(described))[:_MOST_PICTURES]
    chosen = [described[index] for index in order]
    captions, paths = [picture.captions[0] for picture in chosen], [picture.path for picture in chosen]
    texts, images = embed_both(encoder.encode_texts, encoder.encode_images, captions, paths, on_progress)
    image_parts, text_parts = unit_parts(images, layout, names), unit_parts(texts, layout, names)
    # A last batch of one would have nothing to share with.
    starts = [start for start in range(0, len(chosen), BATCH) if len(chosen) - start > 1]
    kappa = [
        entropy_commonality(image_parts[:, start : start + BATCH], text_parts[:, start : start + BATCH])
        for start in starts
    ]
    joined = np.concatenate(kappa, axis=1)
    return Commonality(tuple(paths[: joined.shape[1]]), joined)


def unit_parts(vectors: NDArray[np.float32], layout: VectorLayout, names: list[str]) -> NDArray[np.float32]:
    """The named segments of vectors ``[n, dim]``, each of unit length: float32 ``[parts, n, d]``."""
    parts = np.stack([vectors[:, layout.slices[name]] for name in names])
    unit: NDArray[np.float32] = parts / np.linalg.norm(parts, axis=2, keepdims=True)
    return unit


_EXAMPLES = 5
_THUMB = (48, 144)
_CHART = (230, 130)
_GAP, _MARGIN, _SIZE, _SMALL = 18, 20, 15, 12
_BINS = 40


def draw_commonality(found: Commonality) -> Image.Image:
    """A row per part: histograms of κ and of the margin, and the pictures with the lowest and highest κ.

    The stripe of the part is framed in each picture. Bars share one height scale within a column.
    """
    parts = len(found.kappa)
    row = _THUMB[1] + 2 * _GAP
    examples = _EXAMPLES * (_THUMB[0] + 6)
    lefts = [_MARGIN + 60]
    for width in (_CHART[0], _CHART[0], examples):
        lefts.append(lefts[-1] + width + 2 * _GAP)
    image = Image.new("RGB", (lefts[3] + examples + _MARGIN, _MARGIN * 2 + 30 + parts * row), canvas.PAPER)
    draw = ImageDraw.Draw(image)
    heads = ("commonality", "margin", "least common", "most common")
    for left, head in zip(lefts, heads, strict=True):
        canvas.draw_lines(draw, (left, _MARGIN), [head], _SIZE, canvas.SOFT)
    counts = [
        [np.histogram(values, bins=_BINS, range=(0, top))[0] for values in columns]
        for columns, top in ((found.kappa, 1.0), (found.margin, BASE_MARGIN))
    ]
    for k in range(parts):
        top = _MARGIN + 30 + k * row
        canvas.draw_lines(draw, (_MARGIN, top + _THUMB[1] // 2 - 10), [f"fine.{k}"], _SIZE)
        for column, limit in ((0, 1.0), (1, BASE_MARGIN)):
            highest = max(int(count.max()) for count in counts[column])
            _draw_histogram(draw, (lefts[column], top), counts[column][k], highest, limit)
        order = np.argsort(found.kappa[k], kind="stable")
        for left, chosen in ((lefts[2], order[:_EXAMPLES]), (lefts[3], order[::-1][:_EXAMPLES])):
            for place, index in enumerate(chosen.tolist()):
                at = (left + place * (_THUMB[0] + 6), top)
                _draw_example(image, draw, at, found.pictures[index], k, parts)
                canvas.draw_lines(
                    draw, (at[0], top + _THUMB[1] + 2), [f"{found.kappa[k, index]:.2f}"], _SMALL, canvas.SOFT
                )
    return image


def _draw_histogram(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], counts: NDArray[np.int64], highest: int, limit: float
) -> None:
    (left, top), (width, height) = at, _CHART
    for number, count in enumerate(counts.tolist()):
        edges = left + number * width // _BINS, left + (number + 1) * width // _BINS
        bar = round(height * count / highest)
        if bar:
            draw.rectangle((edges[0], top + height - bar, edges[1] - 2, top + height), fill=canvas.BAR)
    draw.line((left, top + height + 1, left + width, top + height + 1), fill=canvas.SOFT)
    small = canvas.font(_SMALL)
    draw.text((left, top + height + 4), "0", fill=canvas.SOFT, font=small)
    draw.text((left + width, top + height + 4), f"{limit:g}", fill=canvas.SOFT, font=small, anchor="ra")


def _draw_example(
    image: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], path: Path, part: int, parts: int
) -> None:
    image.paste(canvas.thumbnail(path, _THUMB), at)
    stripe = (at[1] + part * _THUMB[1] // parts, at[1] + (part + 1) * _THUMB[1] // parts)
    draw.rectangle((at[0], stripe[0], at[0] + _THUMB[0] - 1, stripe[1] - 1), outline=(214, 69, 24), width=2)
