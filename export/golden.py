"""Golden vectors: a few inputs with the PyTorch model's embeddings of them, for replay on the device."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tbps_infer.bundle import GOLDEN_ARRAYS, GOLDEN_JSON
from tbps_infer.model_facts import Branch
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.text import Tokenizer
from tbps_infer.verification.parity import Embed
from tbps_infer.verification.samples import prepare_samples

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["GOLDEN_CROPS", "write_golden"]

GOLDEN_CROPS = 4
"""So many crops, with one caption each."""


def write_golden(
    folder: Path,
    pairs: Sequence[tuple[Image.Image, Sequence[str]]],
    facts: Preprocessing,
    tokenizer: Tokenizer,
    reference: Mapping[Branch, Embed],
) -> None:
    """Write the golden vectors of a bundle: crops as PNG, captions, inputs and embeddings.

    Args:
        folder: The bundle's.
        pairs: Crops with captions; the first `GOLDEN_CROPS` of them and the first caption of each are taken.
        facts: How pictures become crops.
        tokenizer: Of the model.
        reference: The PyTorch model's branches.
    """
    chosen = [(image, captions[:1]) for image, captions in pairs[:GOLDEN_CROPS]]
    samples = prepare_samples(chosen, facts, tokenizer)
    pixels = samples.image_batch(0, len(samples.pixels))
    text = samples.feeds(samples.rows)
    facts_file = folder / GOLDEN_JSON
    names = [f"crops/{number}.png" for number in range(len(chosen))]
    (facts_file.parent / "crops").mkdir(parents=True)
    for name, (image, _) in zip(names, chosen, strict=True):
        image.save(facts_file.parent / name)
    values = {"captions": [caption for _, captions in chosen for caption in captions], "crops": names}
    facts_file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    np.savez(
        folder / GOLDEN_ARRAYS,
        pixels=pixels["pixels"],
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        image_embeddings=reference["image"](pixels),
        text_embeddings=reference["text"](text),
    )
