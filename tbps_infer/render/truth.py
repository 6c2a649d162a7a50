"""Where the right picture is that a search did not show."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tbps_infer.render.strip import Shown

if TYPE_CHECKING:
    import numpy as np

    from tbps_infer.gallery import Filter, Gallery

__all__ = ["best_right"]


def best_right(gallery: Gallery, query: NDArray[np.floating[Any]], person: str, where: Filter) -> Shown | None:
    """The best picture of a person among those that pass a filter, with its rank in the whole of them.

    Args:
        gallery: Where to look.
        query: Float ``[1, dim]``.
        person: The ``id`` in the metadata.
        where: The filter of the search.

    Returns:
        The picture; None where the person has none that passes.
    """
    from tbps_infer.gallery import SearchOptions

    vector = query.astype("float32")
    if "id" not in gallery.columns or (where.id and person not in where.id):
        return None
    own = gallery.search(vector, 1, replace(where, id=(person,)))[0]
    if not own:
        return None
    ahead = gallery.search(vector, gallery.count, where, SearchOptions(min_score=own[0].score))[0]
    rank = 1 + sum(hit.score > own[0].score for hit in ahead)
    return Shown(own[0].path, rank, own[0].score, "right", own[0].split)
