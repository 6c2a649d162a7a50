"""Removing records: which ones, and how thoroughly."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import UsageError
from tbps_infer.gallery.creation import system_errors
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.folder import INDEX_FILES, GalleryFacts, index_files
from tbps_infer.gallery.reader import Gallery
from tbps_infer.gallery.search.sketch import build_sketch
from tbps_infer.gallery.writer import GalleryWriter
from tbps_infer.lists import ListReader

__all__ = [
    "CompactReport",
    "Removal",
    "compact_gallery",
    "hits_records",
    "open_writer",
    "removable",
    "remove_records",
]


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


@dataclass(frozen=True)
class CompactReport:
    """What compacting did.

    Attributes:
        kept: Rows that records name.
        dropped: Rows of replaced and removed pictures.
        dropped_indexes: Files of the sketch and the graph of the old rows; the sketch is built again.
    """

    kept: int
    dropped: int
    dropped_indexes: tuple[str, ...]


def remove_records(path: Path, what: Filter | Removal, *, purge: bool = False) -> int:
    """Remove records, and keep a tombstone of each so that embedding leaves it out; returns how many were removed.

    Their rows stay on disk until `compact_gallery`, and remains of their metadata may stay in SQLite's file and log.

    Args:
        path: The gallery.
        what: Which records.
        purge: Also write the vectors and the records anew without anything of what was removed, now or earlier, and
            keep of every tombstone only the hash. Searches that are open end with the data they have open. With it,
            `what` may be empty.

    Raises:
        UsageError: Nothing chooses records: that would remove everything.
        FilterError: The filter is not valid.
        GalleryBusyError: Another process is writing.
        GalleryError: The gallery is damaged, or the disk has no room. A purge that fails may have removed the
            records already; run again, it does the rest.
    """
    removal = what if isinstance(what, Removal) else Removal(what)
    with open_writer(path) as writer:
        gone = 0
        if removal or not purge:
            with Gallery.open(path) as gallery:
                numbers = removable(gallery, removal).tolist()
            gone = writer.remove(numbers)
        if purge:
            _compact(writer)
            writer.rewrite_records()
    return gone


def removable(gallery: Gallery, what: Filter | Removal) -> NDArray[np.int64]:
    """Numbers int64 ``[n]`` of the records that `remove_records` would remove; raises likewise."""
    removal = what if isinstance(what, Removal) else Removal(what)
    if not removal:
        raise UsageError(
            "Removing needs a filter, records, paths or an age: without one every record would go.",
            "Name a camera, an id …",
        )
    found = gallery.selected(removal.where).records
    if removal.records is not None:
        found = np.intersect1d(found, np.array(removal.records, dtype=np.int64))
    if removal.paths is not None:
        below = gallery.records_below(removal.paths)
        found = np.intersect1d(found, np.array(below, dtype=np.int64))
    if removal.older_than_s is not None:
        found = np.intersect1d(found, gallery.records_before(time.time() - removal.older_than_s))
    return found


def hits_records(file: Path) -> tuple[int, ...]:
    """The numbers in the column ``record`` of a .csv or .jsonl file of hits; raises UsageError for another value."""
    numbers = []
    for row in ListReader(file, UsageError).rows(required=("record",)):
        value = row.values[next(name for name in row.values if name.lower() == "record")]
        if not str(value).isdecimal():
            raise row.problem(f"record is {value!r}, want the number of a record.")
        numbers.append(int(value))
    return tuple(dict.fromkeys(numbers))


def compact_gallery(path: Path) -> CompactReport:
    """Drop the rows that no record names. The checksums are compared first: damage is not copied.

    Raises:
        GalleryBusyError: Another process is writing.
        GalleryError: The gallery is damaged, or the disk has no room for the new file beside the old one.
    """
    with open_writer(path) as writer:
        return _compact(writer)


def _compact(writer: GalleryWriter) -> CompactReport:
    path = writer.path
    with Gallery.open(path) as gallery:
        gallery.verify()
        kept = gallery.count
    indexes = index_files(path, writer.generation)
    dropped = writer.compact()
    if "sketch" in indexes and kept:
        with Gallery.open(path) as gallery, system_errors(path):
            build_sketch(gallery.stored, path / INDEX_FILES["sketch"].format(gallery.generation))
    return CompactReport(kept, dropped, tuple(file.name for file in indexes.values()))


def open_writer(path: Path) -> GalleryWriter:
    """The writer of an existing gallery."""
    facts = GalleryFacts.read(path)
    return GalleryWriter.open(path, facts.model)
