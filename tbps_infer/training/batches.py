"""Training pairs as batches: decoded ahead of use, augmented, reproducible from (seed, epoch, position)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps_infer.data.dataset import Split
from tbps_infer.decoding import decode_threads
from tbps_infer.errors import DatasetError
from tbps_infer.images import load_crop
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.text import Tokenizer, pad_ids
from tbps_infer.training.features import TextFeatures
from tbps_infer.training.options import TrainOptions

__all__ = ["Batch", "CropStore", "PairBatches", "Shard", "augment", "names_a_side"]

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)

CACHE_BYTES = 4 << 30
"""Crops are kept decoded in memory when all of them fit in this many bytes."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one step, as `tbps_infer.training.objective.Objective.forward` takes them."""

    pixels: Tensor
    text: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Shard:
    """Which share of every epoch's pairs this process trains on."""

    index: int = 0
    count: int = 1


class CropStore:
    """Crops of a list of pictures at the model's size, decoded once when they fit in memory."""

    def __init__(self, paths: Sequence[Path], facts: Preprocessing, pool: ThreadPoolExecutor) -> None:
        self._paths = paths
        self._facts = facts
        self._cache: NDArray[np.uint8] | None = None
        height, width = facts.image_size
        if len(paths) * height * width * 3 <= CACHE_BYTES:
            self._cache = np.empty((len(paths), height, width, 3), np.uint8)
            for index, crop in enumerate(pool.map(self._load, range(len(paths)))):
                self._cache[index] = crop

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """uint8 ``[height, width, 3]``."""
        return self._load(index) if self._cache is None else self._cache[index]

    def _load(self, index: int) -> NDArray[np.uint8]:
        return load_crop(self._paths[index], self._facts)


class PairBatches:
    """All (picture, caption) pairs of a split, shuffled anew every epoch, incomplete batches dropped."""

    def __init__(
        self,
        split: Split,
        tokenizer: Tokenizer,
        facts: Preprocessing,
        options: TrainOptions,
        features: TextFeatures | None = None,
    ) -> None:
        self._options = options
        self._tokens = tokenizer.encode(split.captions)
        self._pad_id = tokenizer.pad_id
        self._features = features
        self._pictures = split.caption_picture
        self._may_flip = np.array([not names_a_side(caption) for caption in split.captions])
        identities, labels = np.unique(split.identities, return_inverse=True)
        self.identities = len(identities)
        self._labels = labels[self._pictures]
        self._pool = ThreadPoolExecutor(decode_threads())
        self._crops = CropStore([picture.path for picture in split.pictures], facts, self._pool)
        if len(self._tokens) < options.batch_size:
            raise DatasetError(
                f"{split.dataset} {split.name} has {len(self._tokens)} captions, "
                f"fewer than one batch of {options.batch_size}.",
                "Choose a smaller --batch-size.",
            )

    def steps(self, shard: Shard) -> int:
        """Batches per epoch in each process."""
        return len(self._tokens) // (self._options.batch_size * shard.count)

    def epoch(self, epoch: int, shard: Shard, ahead: int = 4) -> Iterator[Batch]:
        """The batches of one epoch for one process, the next few made while one is used."""
        order = np.random.default_rng([self._options.seed, epoch]).permutation(len(self._tokens))
        steps = self.steps(shard)
        size = self._options.batch_size

        def make(step: int) -> Batch:
            position = step * shard.count + shard.index
            chosen = order[position * size : (position + 1) * size]
            return self._batch(chosen, np.random.default_rng([self._options.seed, epoch, position]))

        futures = [self._pool.submit(make, step) for step in range(min(ahead, steps))]
        for step in range(steps):
            if step + ahead < steps:
                futures.append(self._pool.submit(make, step + ahead))
            yield futures.pop(0).result()

    def close(self) -> None:
        """Stop the decoding threads."""
        self._pool.shutdown(cancel_futures=True)

    def _batch(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        pixels = [
            augment(self._crops[self._pictures[i]], self._options, bool(self._may_flip[i]), rng) for i in chosen
        ]
        ids, mask = pad_ids([self._tokens[i] for i in chosen], self._pad_id)
        text = torch.from_numpy(ids).long()
        if self._features is not None:
            text = self._features.padded([int(i) for i in chosen], ids.shape[1])
        return Batch(
            pixels=torch.from_numpy(np.stack(pixels)),
            text=text,
            attention_mask=torch.from_numpy(mask).long(),
            labels=torch.from_numpy(self._labels[chosen]).long(),
        )


def augment(
    crop: NDArray[np.uint8], options: TrainOptions, may_flip: bool, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Pad and crop at random, and flip unless the caption names a side: ``[height, width, 3]`` to the same shape."""
    pad = options.pad
    top, left = rng.integers(0, 2 * pad + 1, size=2)
    flip = rng.random() < options.flip
    down, right = pad - int(top), pad - int(left)  # where the crop's corner goes
    height, width, _ = crop.shape
    moved = np.zeros_like(crop)
    kept = crop[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    rows, columns, _ = kept.shape
    moved[max(down, 0) :, max(right, 0) :][:rows, :columns] = kept
    return moved[:, ::-1] if flip and may_flip else moved


def names_a_side(caption: str) -> bool:
    """Whether a caption says left or right, so that its picture must not be mirrored."""
    return _SIDES.search(caption) is not None
