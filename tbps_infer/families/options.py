"""What a user may say about a checkpoint that the file does not say itself. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["LoadOptions"]


@dataclass(frozen=True)
class LoadOptions:
    """How to read a checkpoint.

    Attributes:
        family: The name of its family; recognised from the tensors when not given.
        key: Which set of weights, where the file holds several: the name of a state dict, or what the names of its
            tensors begin with.
        config: The configuration file of its training; looked for beside the checkpoint when not given.
        image_size: (height, width) in pixels that it was trained with, where neither its tensors nor its
            configuration tell.
        tokenizer: CLIP's merges file or BERT's ``vocab.txt``, a ``tokenizer.json``, or a folder with one of them;
            looked for beside the checkpoint when not given.
        drop: Tensors that no retrieval needs, beyond those that the family is known to train with: names, or
            beginnings of names that end with a dot.
    """

    family: str | None = None
    key: str | None = None
    config: Path | None = None
    image_size: tuple[int, int] | None = None
    tokenizer: Path | None = None
    drop: tuple[str, ...] = ()
