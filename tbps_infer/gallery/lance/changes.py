"""What a server asks a dataset while it has a version of it open: whether there is a newer one, and its facets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.changes import MOST_CAMERAS, Facets
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.lance.reader import LanceGallery
from tbps_infer.gallery.lance.storage import dataset_uri, find_dataset

__all__ = ["DatasetChanges"]


class DatasetChanges:
    """Looks at a dataset's newest version."""

    def __init__(self, path: str) -> None:
        self.path = dataset_uri(path)

    def stamps(self) -> tuple[Any, ...]:
        """What changes with every commit: the version, and a file, for another dataset in its place.

        Empty where there is none, or the store does not answer.
        """
        try:
            dataset = find_dataset(self.path)
        except GalleryError:
            return ()
        if dataset is None:
            return ()
        files = (file.path for fragment in dataset.get_fragments() for file in fragment.data_files())
        return dataset.version, dataset.schema.metadata, next(files, None)

    def opened(self, before: tuple[Any, ...]) -> tuple[Any, ...]:
        """The stamps of what was opened between some stamps and now."""
        return before

    def log_bytes(self) -> int:
        """None: nothing grows because a version is open."""
        return 0

    def empty_log(self, catch_up: Callable[[], bool], begin_again: Callable[[], None]) -> bool:  # noqa: ARG002
        """Nothing to do."""
        return False

    def matching(self, wanted: Filter, everything: NDArray[np.int64], seconds: float) -> NDArray[np.int64]:  # noqa: ARG002
        """Numbers of the records that satisfy a filter, as committed now."""
        return LanceGallery.open(self.path).selected(wanted, seconds).records

    def facets(self) -> Facets:
        """What can be filtered by, as committed now."""
        gallery = LanceGallery.open(self.path)
        times = gallery.times()[:, 0]
        known = times[np.isfinite(times)]
        cameras = dict(sorted(gallery.counts("camera").items())[:MOST_CAMERAS])
        return Facets(cameras, float(known.min()) if len(known) else None, float(known.max()) if len(known) else None)
