"""What a graph or engine is tried on: crops and captions as a model takes them, in batches of chosen shapes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import Bundle
from tbps_infer.errors import UsageError
from tbps_infer.images import to_crop
from tbps_infer.model_facts import Branch
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.runners.protocol import Feeds
from tbps_infer.text import Tokenizer, pad_ids

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "SAMPLE_CROPS",
    "Samples",
    "bundle_samples",
    "prepare_samples",
    "real_batches",
    "sample_batches",
    "synthetic_samples",
]

SYNTHETIC_CROPS = 16
"""People that an export is compared with PyTorch on when nothing else is given."""

SAMPLE_CROPS = 32
"""People that engines are tried on, one crop and two captions each; none of them was seen in training."""

_EXPORT_SEED = 20
_BUNDLE_SEED = 21
_BATCH = 8


@dataclass(frozen=True)
class Samples:
    """Real inputs of both branches.

    Attributes:
        pixels: uint8 ``[n, height, width, 3]``, at least one crop.
        rows: Token ids of at least one caption, each with its special tokens, at least three ids long.
        pad_id: What fills a batch's shorter captions.
    """

    pixels: NDArray[np.uint8]
    rows: tuple[tuple[int, ...], ...]
    pad_id: int

    def image_batch(self, start: int, size: int) -> Feeds:
        """``size`` crops from number ``start`` on, in a circle."""
        return {"pixels": self.pixels[np.arange(start, start + size) % len(self.pixels)]}

    def text_batch(self, start: int, size: int, length: int) -> Feeds:
        """``size`` captions from number ``start`` on, in a circle, padded to ``length``.

        The first is made to fill it, by the words of those after it; the others are cut where they must be.
        """
        others = [self.caption(number, length) for number in range(start + 1, start + size)]
        return self.feeds([self.filled(start, length), *others], length)

    def feeds(self, rows: Sequence[Sequence[int]], length: int | None = None) -> Feeds:
        """A text batch of these rows, padded to ``length`` or to the longest."""
        ids, mask = pad_ids(rows, self.pad_id, length)
        return {"input_ids": ids, "attention_mask": mask}

    def caption(self, number: int, length: int) -> list[int]:
        """The token ids of a caption, counted in a circle, cut to ``length`` with their last special token kept."""
        row = self.rows[number % len(self.rows)]
        return list(row) if len(row) <= length else [*row[: length - 1], row[-1]]

    def filled(self, start: int, length: int) -> list[int]:
        """A row of exactly ``length`` ids: a caption, lengthened by the words of those after it, or cut."""
        words: list[int] = []
        number = start
        while len(words) < length - 2:
            words += self.rows[number % len(self.rows)][1:-1]
            number += 1
        row = self.rows[start % len(self.rows)]
        return [row[0], *words[: length - 2], row[-1]]


def prepare_samples(
    pairs: Sequence[tuple[Image.Image, Sequence[str]]], facts: Preprocessing, tokenizer: Tokenizer
) -> Samples:
    """Crops and their captions as a model takes them.

    Args:
        pairs: RGB images of any size, with captions each.
        facts: How a picture becomes a crop.
        tokenizer: The model's.

    Raises:
        UsageError: There is no image or no caption, or a caption has no words.
    """
    captions = [caption for _, several in pairs for caption in several]
    if not captions:
        raise UsageError("There is no caption to verify with.", "Give at least one crop with one caption.")
    pixels = np.stack([to_crop(image, facts) for image, _ in pairs])
    rows = tuple(tuple(row) for row in tokenizer.encode(captions))
    return Samples(pixels=pixels, rows=rows, pad_id=tokenizer.pad_id)


def synthetic_samples() -> list[tuple[Image.Image, tuple[str, ...]]]:
    """The synthetic people of every export that is given no others."""
    return list(_people(SYNTHETIC_CROPS, _EXPORT_SEED))


def bundle_samples(bundle: Bundle) -> Samples:
    """Synthetic people as the bundle's model takes them, the same ones everywhere."""
    return prepare_samples(
        _people(SAMPLE_CROPS, _BUNDLE_SEED), bundle.model.preprocessing, Tokenizer.from_bundle(bundle)
    )


@functools.cache
def _people(count: int, seed: int) -> tuple[tuple[Image.Image, tuple[str, ...]], ...]:
    """Crops of different people with their captions, drawn once: an export and a build need them several times."""
    from tbps_infer.data.synth import sample_crops

    return tuple(sample_crops(count, seed))


def real_batches(bundle: Bundle, branch: Branch) -> Iterator[Feeds]:
    """The same people as a branch's inputs, in batches."""
    return sample_batches(bundle_samples(bundle), branch, bundle.model.max_length)


def sample_batches(samples: Samples, branch: Branch, max_length: int) -> Iterator[Feeds]:
    """All samples as a branch's inputs, in batches, each with a caption of the greatest length."""
    if branch == "image":
        for start in range(0, len(samples.pixels), _BATCH):
            yield samples.image_batch(start, _BATCH)
        return
    for start in range(0, len(samples.rows), _BATCH):
        yield samples.text_batch(start, _BATCH, max_length)
