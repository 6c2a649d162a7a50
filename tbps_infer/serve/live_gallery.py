"""A gallery that grows while it is served: readers take snapshots, and a newer one replaces them between requests."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import TbpsError, UsageError
from tbps_infer.gallery import Filter, Record, StoredGallery, open_gallery
from tbps_infer.gallery.changes import Facets
from tbps_infer.gallery.opening import changes_of, location

__all__ = ["Facets", "LiveGallery", "Snapshot", "name_galleries"]

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
# Opening reads the numbers of all records: while a gallery grows, this share of the time at most goes into it.
_OPENING_SHARE = 0.1
# A snapshot keeps SQLite from beginning its log anew. SQLite itself writes it back from 4 MiB on.
_LOG_BYTES = 16 << 20


def name_galleries(places: Sequence[Path | str]) -> dict[str, Path | str]:
    """Folders and URIs by the shortest ends that tell them apart: ``gallery``, or ``monday/gallery``.

    Raises:
        UsageError: One is named twice.
    """
    found = map(location, places)
    parts = [tuple(each.split("/")) if "://" in each else Path(each).parts for each in found]
    for number, place in enumerate(places):
        if parts[number] in parts[:number]:
            raise UsageError(f"The gallery {place} is named twice.", "Name each once.")
    length = 1
    while len({each[-length:] for each in parts}) < len(parts):
        length += 1
    return {"/".join(each[-length:]): place for each, place in zip(parts, places, strict=True)}


class Snapshot:
    """One opened gallery and how many are using it, the server itself among them while it is the newest."""

    def __init__(self, gallery: StoredGallery, seen: object) -> None:
        self.gallery = gallery
        self.seen = seen
        self.users = 1
        self.facets: Facets | None = None
        self._times: NDArray[np.float64] | None = None

    def record(self, number: int) -> Record | None:
        """One record; None where there is none of this number."""
        return self.gallery.details(np.array([number], dtype=np.int64), crops=True).get(number)

    def times(self) -> NDArray[np.float64]:
        """float64 ``[records, 2]``: `Gallery.times`, read once."""
        if self._times is None:
            self._times = self.gallery.times()
        return self._times


class LiveGallery:
    """The newest snapshot of a gallery, opened again when its files have changed; usable from several threads.

    Raises:
        GalleryError: The folder is no gallery, or is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self._changes = changes_of(path)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._closed = False
        self._problem = ""
        self._current = self._open()
        self._look_after = time.monotonic() + _LOOK_EVERY_S

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The newest snapshot, kept open inside."""
        self._look()
        with self._lock:
            snapshot = self._current
            snapshot.users += 1
        try:
            yield snapshot
        finally:
            self._release(snapshot)

    @property
    def count(self) -> int:
        """Records in the newest snapshot."""
        return self._current.gallery.count

    def matching(self, wanted: Filter, seconds: float) -> NDArray[np.int64]:
        """Numbers int64 ``[n]`` of the records that satisfy a filter, ascending, as committed now.

        It is evaluated on a connection of its own, so that a slow one holds nobody up. The snapshot that the numbers
        are used with may be another: `Gallery.selection` leaves out the records that it does not have.

        Raises:
            FilterError: It is not valid, not allowed, or took longer than the seconds.
        """
        return self._changes.matching(wanted, self._current.gallery.selected(Filter()).records, seconds)

    def facets(self) -> Facets:
        """What the newest snapshot can be filtered by; read once per snapshot."""
        with self.snapshot() as snapshot:
            if snapshot.facets is None:
                snapshot.facets = self._changes.facets()
            return snapshot.facets

    def refresh(self) -> None:
        """Take a new snapshot now, because something was removed."""
        with self._opening:
            self._replace()

    def problem(self) -> str:
        """Why the folder cannot be read any more, as a sentence; empty while it can. Searches keep the snapshot."""
        stamps = self._changes.stamps()
        if not stamps:
            return f"The gallery {self.path} is not there any more."
        return "" if stamps == self._current.seen else self._problem

    def keep_log_short(self) -> None:
        """Empty SQLite's log when it is long; called now and then, also when nobody asks.

        Where the folder cannot be written to, or another process reads the gallery, it stays long until those end.
        """
        if self._changes.log_bytes() <= _LOG_BYTES:
            return
        with self._opening:
            if self._closed:
                return
            try:
                emptied = self._changes.empty_log(self._catch_up, self._begin_again)
            except (TbpsError, sqlite3.Error) as error:
                log.debug("The log of %s stays as long as it is: %s", self.path, error)
                return
            stamps = self._changes.stamps()
            if emptied and stamps and self._changes.log_bytes() == 0:  # else somebody has written since
                self._current.seen = stamps

    def close(self) -> None:
        """Close the snapshot; those who use it have ended."""
        with self._opening:
            self._closed = True
            self._release(self._current)

    def _catch_up(self) -> bool:
        if self._changes.stamps() != self._current.seen:
            self._replace()
        return self._changes.stamps() == self._current.seen

    def _begin_again(self) -> None:
        if not self._current.gallery.begin_again():  # only a folder has a log
            self._replace()

    def _release(self, snapshot: Snapshot) -> None:
        """One user less; the last one closes the gallery."""
        with self._lock:
            snapshot.users -= 1
            unused = snapshot.users == 0
        if unused:
            snapshot.gallery.close()

    def _look(self) -> None:
        """Open the gallery again if its files have changed; one thread does, the others go on with what there is."""
        if time.monotonic() < self._look_after or not self._opening.acquire(blocking=False):
            return
        try:
            if self._changes.stamps() != self._current.seen:
                self._replace()
            self._look_after = max(self._look_after, time.monotonic() + _LOOK_EVERY_S)
        finally:
            self._opening.release()

    def _replace(self) -> None:
        started = time.monotonic()
        try:
            fresh = self._open()
            fresh.gallery.require_model(self._current.gallery.model)
        except TbpsError as error:
            self._problem = f"The gallery {self.path} has changed and cannot be opened again."
            log.warning("The gallery %s has changed and cannot be opened again: %s", self.path, error)
            self._look_after = time.monotonic() + 10 * _LOOK_EVERY_S
            return
        with self._lock:
            old, self._current = self._current, fresh
            self._problem = ""
        self._release(old)
        self._look_after = time.monotonic() + (time.monotonic() - started) / _OPENING_SHARE
        log.info("The gallery %s has %d records now.", self.path, fresh.gallery.count)

    def _open(self) -> Snapshot:
        before = self._changes.stamps()
        gallery = open_gallery(self.path)
        return Snapshot(gallery, self._changes.opened(before))
