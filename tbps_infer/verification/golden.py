"""Replays a bundle's golden vectors: do this machine's tokenizer, resizing and arithmetic give what was exported?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import Golden
from tbps_infer.model_facts import Branch
from tbps_infer.runners.protocol import Feeds, Runner
from tbps_infer.verification.similarity import cosines

__all__ = ["changed_captions", "changed_crops", "golden_cosine"]


def golden_cosine(golden: Golden, branch: Branch, runner: Runner) -> float:
    """The least cosine of a runner's embeddings of the golden inputs with the PyTorch model's; NaN when one has none.

    `tbps_infer.verification.tolerances.GOLDEN_COSINE` says how low it may be.
    """
    feeds: Feeds = {"input_ids": golden.input_ids, "attention_mask": golden.attention_mask}
    wanted = golden.text_embeddings
    if branch == "image":
        feeds, wanted = {"pixels": golden.pixels}, golden.image_embeddings
    return float(cosines(runner.run(feeds)[f"{branch}_embedding"], wanted).min())


def changed_captions(golden: Golden, rows: list[list[int]]) -> int:
    """How many captions this machine's tokenizer turns into other ids.

    Args:
        golden: The bundle's golden vectors.
        rows: The ids that it gives for the golden captions.
    """
    return sum(
        row != ids[mask != 0].tolist()
        for row, ids, mask in zip(rows, golden.input_ids, golden.attention_mask, strict=True)
    )


def changed_crops(golden: Golden, crops: NDArray[np.uint8]) -> tuple[int, int]:
    """How many crops this machine decodes and resizes to other pixels, and by how much at most, of 255.

    Args:
        golden: The bundle's golden vectors.
        crops: uint8 ``[n, height, width, 3]``, the golden crops as it gives them.
    """
    differences = np.abs(crops.astype(np.int16) - golden.pixels.astype(np.int16)).reshape(len(crops), -1).max(axis=1)
    return int(np.count_nonzero(differences)), int(differences.max(initial=0))
