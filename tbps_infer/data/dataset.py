"""One split of a data set: pictures of identities, with captions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Picture", "Split"]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with all its captions.

    Attributes:
        path: The picture's file.
        identity: The data set's own number of the person.
        captions: Any number of them, also none.
        camera: Where the data set names it.
    """

    path: Path
    identity: int
    captions: tuple[str, ...]
    camera: str | None = None


@dataclass(frozen=True)
class Split:
    """The pictures of one split, each path once.

    The field's protocol takes every caption as a query and every picture as the gallery; a picture is relevant to a
    caption when their identities are equal.

    Attributes:
        dataset: The data set's name.
        name: The split's name: ``train``, ``val``, ``test``.
        pictures: In the order of the annotation file.
        labelled: Whether the identities are known; without, every picture has one of its own, and whether two of them
            show one person is not known.
    """

    dataset: str
    name: str
    pictures: tuple[Picture, ...]
    labelled: bool = True

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """All captions, picture by picture."""
        return tuple(caption for picture in self.pictures for caption in picture.captions)

    @cached_property
    def caption_picture(self) -> NDArray[np.int64]:
        """int64 ``[captions]``: the index of each caption's picture."""
        counts = [len(picture.captions) for picture in self.pictures]
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    @cached_property
    def identities(self) -> NDArray[np.int64]:
        """int64 ``[pictures]``: each picture's identity."""
        return np.array([picture.identity for picture in self.pictures], dtype=np.int64)

    @cached_property
    def caption_identities(self) -> NDArray[np.int64]:
        """int64 ``[captions]``: the identity of each caption's picture."""
        return self.identities[self.caption_picture]
