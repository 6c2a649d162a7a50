"""What a gallery takes in: embeddings of its model, checked and brought into the form in which they are stored."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.folder import GalleryFacts
from tbps_infer.gallery.mapping import raw_rows, stored_rows
from tbps_infer.gallery.vectors import NORM_MARGIN

__all__ = ["checked_rows"]

# Of the squared norm: float16 graphs and rounding stay far below, a vector that is not normalised far above.
_NORM_TOLERANCE = 0.01


def checked_rows(vectors: NDArray[np.float32] | None, count: int, facts: GalleryFacts) -> NDArray[np.uint8]:
    """Embeddings float32 ``[count, dim]`` as they are stored, uint8 ``[count, row_bytes]``.

    Raises:
        GalleryError: They have another shape or type, one is no embedding of the gallery's model, or rounding to the
            gallery's type would change one too much.
    """
    layout = facts.model.layout
    want = f"want float32[{count}, {layout.dim}], finite, of squared norm {layout.squared_norm:g}"
    hint = "The model's output is not an embedding; check its bundle with the reference it was exported from."
    if vectors is None or vectors.shape != (count, layout.dim) or vectors.dtype != np.float32:
        given = "none" if vectors is None else f"{vectors.dtype}{list(vectors.shape)}"
        raise GalleryError(f"The vectors given to the gallery are {given}, {want}.", hint)
    squared = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(squared - layout.squared_norm) <= _NORM_TOLERANCE * layout.squared_norm))
    if len(wrong):
        raise GalleryError(
            f"Vector {wrong[0]} given to the gallery has the squared norm {squared[wrong[0]]:g}, {want}.", hint
        )
    raw = raw_rows(vectors, facts)
    if facts.dtype_name != "int8":
        return raw  # rounding changes a length by less than a thousandth
    stored = np.linalg.norm(stored_rows(raw, facts).exact(slice(None)), axis=1)
    wrong = np.flatnonzero(stored > NORM_MARGIN * math.sqrt(layout.squared_norm))
    if len(wrong):
        raise GalleryError(
            f"Vector {wrong[0]} cannot be stored as {facts.dtype_name}: rounding would lengthen it by more than "
            f"{NORM_MARGIN - 1:.0%}.",
            "Embed the pictures into a gallery of float16.",
        )
    return raw
