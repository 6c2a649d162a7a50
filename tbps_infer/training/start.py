"""The starting point of a run that has no pretrained weights: a tiny model whose vocabulary is its captions'."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from tbps_infer.reference.checkpoint import save_checkpoint
from tbps_infer.reference.config import tiny_config
from tbps_infer.reference.model import PartModel
from tbps_infer.tokenizer_files import train_wordpiece

__all__ = ["VOCAB_SIZE", "initial_tiny_checkpoint"]

VOCAB_SIZE = 1200


def initial_tiny_checkpoint(folder: Path, captions: Iterable[str], seed: int) -> Path:
    """Write a checkpoint of the tiny configuration with random weights, and a WordPiece vocabulary of the captions.

    Args:
        folder: Where to write it.
        captions: Training captions only, so that nothing of the other splits leaks into the vocabulary.
        seed: Of the weights.
    """
    tokenizer = train_wordpiece(captions, VOCAB_SIZE)
    torch.manual_seed(seed)
    model = PartModel(tiny_config(tokenizer.get_vocab_size()))
    return save_checkpoint(folder, model, tokenizer.to_str(pretty=True), training={"initial_seed": seed})
