"""What a server asks a folder of which it has a snapshot open: whether it changed, and what can be filtered by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import TbpsError
from tbps_infer.gallery.filters import Filter, matching_records
from tbps_infer.gallery.folder import current_records_file
from tbps_infer.gallery.records import connect_reader, empty_log, sqlite_errors

__all__ = ["MOST_CAMERAS", "Facets", "FolderChanges"]

MOST_CAMERAS = 2000


@dataclass(frozen=True)
class Facets:
    """What can be filtered by: cameras with their pictures' count, and the times of the first and the last (Unix)."""

    cameras: dict[str, int]
    first_time: float | None
    last_time: float | None


class FolderChanges:
    """Looks at a folder's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamps(self) -> tuple[Any, ...]:
        """What changes with every commit, times and sizes of the records and their log; empty without a gallery."""
        found = []
        try:
            records = current_records_file(self.path)
        except TbpsError:
            return ()
        for name in (records, f"{records}-wal", "gallery.json"):
            try:
                stat = (self.path / name).stat()
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found) if found[0][2] else ()

    def opened(self, before: tuple[Any, ...]) -> tuple[Any, ...]:
        """The stamps of what was opened between some stamps and now.

        SQLite makes its -wal file for the first reader: if only that happened, the later look is the one to keep.
        """
        after = self.stamps()
        return after if before[:1] == after[:1] and after and after[1][1] == 0 else before

    def log_bytes(self) -> int:
        """How long SQLite's log is; it stays while a snapshot is open."""
        stamps = self.stamps()
        return int(stamps[1][1]) if stamps else 0

    def empty_log(self, catch_up: Callable[[], bool], begin_again: Callable[[], None]) -> bool:
        """Empty the log, as `tbps_infer.gallery.records.empty_log` does."""
        return empty_log(self.path, catch_up, begin_again)

    def matching(self, wanted: Filter, everything: NDArray[np.int64], seconds: float) -> NDArray[np.int64]:
        """Numbers of the records that satisfy a filter, as committed now, on a connection of its own."""
        with sqlite_errors(self.path), closing(connect_reader(self.path)) as connection:
            return matching_records(connection, wanted, everything, where_seconds=seconds)

    def facets(self) -> Facets:
        """What can be filtered by, as committed now."""
        with sqlite_errors(self.path), closing(connect_reader(self.path)) as connection:
            cameras = connection.execute(
                "SELECT CAST(camera AS TEXT), count(*) FROM record WHERE camera IS NOT NULL "
                "GROUP BY 1 ORDER BY 1 LIMIT ?",
                (MOST_CAMERAS,),
            ).fetchall()
            first, last = connection.execute("SELECT min(tbps_time_s), max(tbps_time_s) FROM record").fetchone()
        return Facets(dict(cameras), first, last)
