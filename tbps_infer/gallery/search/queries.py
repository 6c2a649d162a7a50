"""Queries as callers give them, and what a search by identity does with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import UsageError
from tbps_infer.gallery.search.results import Hit

__all__ = ["best_of_each", "best_per_identity", "checked_queries"]

# Rows that each round of a search by identity looks at, relative to the round before.
_MORE_ROWS = 4


def checked_queries(given: Any, dim: int) -> NDArray[np.float32]:
    """Queries as float32 ``[n, dim]``; raises UsageError where they are of another shape or type, or not finite."""
    try:
        queries = np.asarray(given)
    except ValueError:  # lists of several lengths
        queries = np.asarray(given, dtype=object)
    if not np.issubdtype(queries.dtype, np.floating) or queries.shape[-1:] != (dim,) or queries.ndim > 2:
        got = repr(given) if isinstance(given, str) else f"{queries.dtype}{list(queries.shape)}"
        raise UsageError(
            f"The queries are {got}, want float32[n, {dim}].",
            "Embed sentences first: encoder.encode_texts([...]), with the Encoder of the gallery's bundle.",
        )
    queries = np.atleast_2d(queries).astype(np.float32, copy=False)
    wrong = np.flatnonzero(~np.isfinite(queries).all(axis=1))
    if len(wrong):
        raise UsageError(f"Query {wrong[0]} holds NaN or infinity, want finite numbers.")
    return queries


def best_per_identity(look: Callable[[int], list[Hit]], k: int) -> list[Hit]:
    """The best hit of each of the k best identities: more hits are asked for until there are k identities.

    Args:
        look: Gives so many hits, best first; fewer where there are no more, or no more that reach the smallest score.
        k: Identities.
    """
    asked = _MORE_ROWS * k
    while True:
        hits = look(asked)
        best = best_of_each(hits)
        if len(best) >= k or len(hits) < asked:
            return best[:k]
        asked *= _MORE_ROWS


def best_of_each(hits: Sequence[Hit]) -> list[Hit]:
    """The first hit of each identity; one without an identity stands for itself."""
    best: dict[object, Hit] = {}
    for hit in hits:
        identity = hit.metadata.get("id")
        best.setdefault((hit.gallery, hit.record) if identity is None else str(identity), hit)
    return list(best.values())
