"""What a search must return, computed the simple way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import FirstStage, top_k
from tbps_infer.gallery.vectors import StoredVectors, quantise

__all__ = ["check_first_stage", "stored_vectors"]


def stored_vectors(count: int, dim: int, dtype: str, seed: int = 0) -> StoredVectors:
    """Random directions."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return StoredVectors(*quantise(vectors)) if dtype == "int8" else StoredVectors(vectors.astype(dtype))


def check_first_stage(
    vectors: StoredVectors, rows: Rows | NDArray[np.int64], queries: NDArray[np.float32], k: int, stage: FirstStage
) -> None:
    """Scores and order are those of brute force, to the last bit."""
    rows = rows if isinstance(rows, Rows) else Rows.of(rows)
    found = top_k(vectors, rows, queries, k, max_norm=1.02, first_stage=stage)
    # Row by row: a product of all at once may sum in another order.
    exact = vectors.exact(rows.numbers)
    pairs = [np.repeat(query[None].astype(np.float64), len(exact), axis=0) for query in queries]
    scores = np.stack([np.einsum("nd,nd->n", exact, query) for query in pairs]).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, order, axis=1))
