"""What a user may say about a checkpoint that the file does not say itself. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tbps_infer.errors import UsageError

__all__ = ["LoadOptions", "option"]

_OF_ALL = ("family", "key")


@dataclass(frozen=True)
class LoadOptions:
    """How to read a checkpoint. What a family does not know is refused, never ignored.

    Attributes:
        family: The name of its family; recognised from the tensors when not given.
        key: Which set of weights, where the file holds several: the name of a state dict, or what the names of its
            tensors begin with.
        config: The configuration file of its training; looked for beside the checkpoint when not given.
        image_size: (height, width) in pixels that it was trained with, where neither its tensors nor its
            configuration tell.
        stride: Pixels from one patch to the next.
        max_length: Tokens per caption at most, special tokens included.
        select_ratio: The share of tokens that RDE and ITSELF choose.
        global_weight: The share of the global cosine in ITSELF's similarity.
        activation: ``gelu`` or ``quick_gelu``, of a CLIP whose files do not say it.
        merges: CLIP's merges file.
        vocab: BERT's ``vocab.txt``.
        tokenizer: Any of the two, a ``tokenizer.json``, or a folder with one of them; looked for beside the
            checkpoint when none is given.
        drop: Tensors that no retrieval needs, beyond those that the family is known to train with: names, or
            beginnings of names that end with a dot.
    """

    family: str | None = None
    key: str | None = None
    config: Path | None = None
    image_size: tuple[int, int] | None = None
    stride: int | None = None
    max_length: int | None = None
    select_ratio: float | None = None
    global_weight: float | None = None
    activation: Literal["gelu", "quick_gelu"] | None = None
    merges: Path | None = None
    vocab: Path | None = None
    tokenizer: Path | None = None
    drop: tuple[str, ...] = ()

    def refuse_all(self, path: Path, kind: str) -> None:
        """Refuse every option, for what says all of this itself: a bundle or a gallery. Raises UsageError."""
        self.refuse_unknown(f"{path}, which is a {kind}", (), of_all=())

    def refuse_unknown(self, what: str, known: Collection[str], of_all: Collection[str] = _OF_ALL) -> None:
        """Refuse options that mean nothing to a model.

        Args:
            what: The model, for the sentence.
            known: Names of the attributes that mean something to it.
            of_all: Names of those that mean something to every checkpoint.

        Raises:
            UsageError: Names the options.
        """
        given = [field.name for field in fields(self) if getattr(self, field.name) not in (None, ())]
        unknown = [name for name in given if name not in (*of_all, *known)]
        if unknown:
            means = "means" if len(unknown) == 1 else "mean"
            takes = ", ".join(map(option, known))
            raise UsageError(
                f"{', '.join(map(option, unknown))} {means} nothing to {what}.",
                f"Leave it out; {what} takes {takes}." if takes else "Leave it out.",
            )


def option(name: str) -> str:
    """The command line's name of an attribute: ``--image-size`` for ``image_size``."""
    return f"--{name.replace('_', '-')}"
