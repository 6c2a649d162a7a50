"""Crops and captions for a bundle, without its checkpoint: what activations are measured and engines tried on."""

from __future__ import annotations

from collections.abc import Iterator

from tbps_infer.bundle import Branch, Bundle
from tbps_infer.export.samples import Samples, prepare_samples
from tbps_infer.runners.protocol import Feeds
from tbps_infer.text import Tokenizer

__all__ = ["SAMPLE_CROPS", "bundle_samples", "real_batches", "sample_batches"]

SAMPLE_CROPS = 32
"""So many people, one crop and two captions each; none of them was seen in training."""

_SEED = 21
_BATCH = 8


def bundle_samples(bundle: Bundle) -> Samples:
    """Synthetic people as the bundle's model takes them, the same ones everywhere."""
    from tbps_infer.data.synth import sample_crops

    return prepare_samples(
        sample_crops(SAMPLE_CROPS, _SEED), bundle.model.preprocessing, Tokenizer.from_bundle(bundle)
    )


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
