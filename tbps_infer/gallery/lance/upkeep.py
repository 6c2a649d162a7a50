"""What is done to a dataset as a whole, while others may write to it."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from tbps_infer.errors import UsageError
from tbps_infer.gallery.folder_upkeep import CompactReport, IndexReport, Progress
from tbps_infer.gallery.lance.index import build_index, drop_index
from tbps_infer.gallery.lance.outcomes import Outcomes
from tbps_infer.gallery.lance.storage import lance_errors, open_dataset
from tbps_infer.gallery.vectors import NORM_MARGIN

if TYPE_CHECKING:
    from tbps_infer.gallery.lance.writer import LanceWriter

__all__ = ["DatasetUpkeep"]

_ROWS_PER_FRAGMENT = 1 << 20
# Searches that are open read the version that they began with; a server opens the newest within seconds.
_OPEN_SEARCHES = timedelta(hours=1)


class DatasetUpkeep:
    """Compacts, purges and indexes a dataset."""

    def __init__(self, writer: LanceWriter) -> None:
        self._path = writer.path
        self._norm = math.sqrt(writer.facts.model.layout.squared_norm)

    def compact(self, keep: timedelta = _OPEN_SEARCHES) -> CompactReport:
        """Join small fragments, drop deleted rows, take new rows into the index, and remove versions of before.

        Args:
            keep: Versions younger than this stay, for those who search them.
        """
        dataset = open_dataset(self._path)
        with lance_errors(self._path):
            dropped = sum(fragment.num_deletions for fragment in dataset.get_fragments())
            dataset.optimize.compact_files(
                target_rows_per_fragment=_ROWS_PER_FRAGMENT,
                materialize_deletions=True,
                materialize_deletions_threshold=0.0,
            )
            dataset.optimize.optimize_indices()
            dataset.checkout_latest()
            dataset.cleanup_old_versions(older_than=keep)
            return CompactReport(dataset.count_rows(), dropped, ())

    def purge(self) -> None:
        """Leave nothing of what was removed: the index, which has codes of it, goes too, and so do older versions."""
        Outcomes(self._path).forget_paths()
        dataset = open_dataset(self._path)
        with lance_errors(self._path):
            drop_index(dataset)
        self.compact(timedelta(0))

    def index(self, *, graph: bool, on_progress: Progress | None = None) -> IndexReport:
        """Build the index."""
        if graph:
            raise UsageError(
                f"{self._path} is a dataset, and has no graph.", "Leave --approx out: its index is approximate."
            )
        facts = build_index(open_dataset(self._path), NORM_MARGIN * self._norm, on_progress)
        recall = ", ".join(f"{value:.3f} with {probes}" for probes, value in sorted(facts.recall.items()))
        return IndexReport("index", facts.rows, f"recall@10 of {facts.partitions} partitions: {recall}")
