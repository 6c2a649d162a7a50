"""Removing records: which ones."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import UsageError
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.protocols import StoredGallery

__all__ = ["Removal", "removable"]


@dataclass(frozen=True)
class Removal:
    """Which records to remove; conditions are joined by AND.

    Attributes:
        where: A filter.
        records: Numbers of records; None does not choose by number.
        paths: Pictures, or folders with all that is below them; None does not choose by path.
        older_than_s: Seconds that must have passed since the record's time or, where it has none, since it was
            embedded; None does not choose by age.
    """

    where: Filter = field(default_factory=Filter)
    records: tuple[int, ...] | None = None
    paths: tuple[Path, ...] | None = None
    older_than_s: float | None = None

    def __bool__(self) -> bool:
        return self != Removal()


def removable(gallery: StoredGallery, what: Filter | Removal) -> NDArray[np.int64]:
    """Numbers int64 ``[n]`` of the records that `remove_records` would remove; raises likewise."""
    removal = what if isinstance(what, Removal) else Removal(what)
    if not removal:
        raise UsageError(
            "Removing needs a filter, records, paths or an age: without one every record would go.",
            "Name a camera, an id …",
        )
    found = gallery.selected(removal.where).records
    if removal.records is not None:
        found = found[np.isin(found, [number for number in removal.records if number < 2**63])]
    if removal.paths is not None:
        below = gallery.records_below(removal.paths)
        found = np.intersect1d(found, np.array(below, dtype=np.int64))
    if removal.older_than_s is not None:
        found = np.intersect1d(found, gallery.records_before(time.time() - removal.older_than_s))
    return found
