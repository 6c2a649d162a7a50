"""Embeddings that no model made: random, each segment with the norm that its layout declares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tbps_infer.layout import VectorLayout

__all__ = ["embeddings", "normalised"]


def embeddings(layout: VectorLayout, count: int, seed: int | np.random.Generator = 0) -> NDArray[np.float32]:
    """Random embeddings [count, dim]."""
    return normalised(layout, np.random.default_rng(seed).normal(size=(count, layout.dim)))


def normalised(layout: VectorLayout, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Vectors [..., dim], each segment scaled to the norm that its weight asks for."""
    values = values.copy()
    for segment in layout.segments:
        piece = values[..., layout.slices[segment.name]]
        piece *= np.sqrt(segment.weight) / np.linalg.norm(piece, axis=-1, keepdims=True)
    return values.astype(np.float32)
