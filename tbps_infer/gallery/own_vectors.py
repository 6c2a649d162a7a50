"""What callers give for vectors of another program: arrays, lists and columns as they have them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import UsageError
from tbps_infer.gallery.times import TIME_WANTED, read_moment

__all__ = ["as_column", "as_ids", "as_rows"]


def as_rows(vectors: Any) -> NDArray[np.float32]:
    """Vectors as float32 ``[n, dim]``; raises UsageError where they are none."""
    try:
        rows = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "The vectors are no numbers [n, dim].", "Give an array, or lists of equal length."
        ) from error
    if rows.ndim != 2:
        raise UsageError(
            f"The vectors are {rows.dtype}{list(rows.shape)}, want [n, dim].", "One vector is vector[None]."
        )
    return rows


def as_column(name: str, values: Any) -> list[Any]:
    """A column's values as a gallery has them: NumPy's numbers become Python's, and times become text.

    Raises:
        UsageError: It is no list of values, or a value of ``time`` is no time.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageError(f"{name} is {values!r}, want a value per vector.", "Give a list, or an array.")
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    plain = [each.item() if isinstance(each, np.generic) else each for each in listed]
    plain = [each.isoformat() if isinstance(each, datetime) else each for each in plain]
    for each in plain if name.lower() == "time" else ():
        if each is not None and read_moment(each) is None:
            raise UsageError(f"The time is {each!r}, want {TIME_WANTED}.")
    return plain


def as_ids(ids: Any) -> list[str]:
    """Ids as text; raises UsageError where one is neither text nor a whole number."""
    listed = as_column("ids", ids)
    for each in listed:
        if not isinstance(each, str | int):
            raise UsageError(f"An id is {each!r}, want text.")
    return [str(each) for each in listed]
