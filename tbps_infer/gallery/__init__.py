"""Galleries: a folder of embeddings and records on disk, its one writer, its many readers, and exact search.

The public names are loaded at first use: a search needs nothing of what writes and maintains galleries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbps_infer.gallery.copying import copy_gallery, relocate_gallery
    from tbps_infer.gallery.filters import Filter
    from tbps_infer.gallery.folder import GalleryFacts, is_gallery
    from tbps_infer.gallery.nothing_found import why_nothing
    from tbps_infer.gallery.opening import open_galleries, open_gallery, open_gallery_writer
    from tbps_infer.gallery.protocols import RowWriter, SearchableGallery, StoredGallery
    from tbps_infer.gallery.reader import Gallery, Record
    from tbps_infer.gallery.records import Entry, FileStamp, Reject
    from tbps_infer.gallery.removal import Removal, removable
    from tbps_infer.gallery.search.results import Hit, SearchOptions, SearchReport, SearchResult
    from tbps_infer.gallery.upkeep import (
        CompactReport,
        IndexReport,
        MergeReport,
        compact_gallery,
        export_gallery,
        index_gallery,
        index_with_report,
        merge_galleries,
        remove_records,
    )
    from tbps_infer.gallery.writer import GalleryWriter

__all__ = [
    "CompactReport",
    "Entry",
    "FileStamp",
    "Filter",
    "Gallery",
    "GalleryFacts",
    "GalleryWriter",
    "Hit",
    "IndexReport",
    "MergeReport",
    "Record",
    "Reject",
    "Removal",
    "RowWriter",
    "SearchOptions",
    "SearchReport",
    "SearchResult",
    "SearchableGallery",
    "StoredGallery",
    "compact_gallery",
    "copy_gallery",
    "export_gallery",
    "index_gallery",
    "index_with_report",
    "is_gallery",
    "merge_galleries",
    "open_galleries",
    "open_gallery",
    "open_gallery_writer",
    "relocate_gallery",
    "removable",
    "remove_records",
    "why_nothing",
]

_HOMES = {
    "CompactReport": "upkeep",
    "Entry": "records",
    "FileStamp": "records",
    "Filter": "filters",
    "Gallery": "reader",
    "GalleryFacts": "folder",
    "GalleryWriter": "writer",
    "Hit": "search.results",
    "IndexReport": "upkeep",
    "MergeReport": "upkeep",
    "Record": "reader",
    "Reject": "records",
    "Removal": "removal",
    "RowWriter": "protocols",
    "SearchOptions": "search.results",
    "SearchReport": "search.results",
    "SearchResult": "search.results",
    "SearchableGallery": "protocols",
    "StoredGallery": "protocols",
    "compact_gallery": "upkeep",
    "copy_gallery": "copying",
    "export_gallery": "upkeep",
    "index_gallery": "upkeep",
    "index_with_report": "upkeep",
    "is_gallery": "folder",
    "merge_galleries": "upkeep",
    "open_galleries": "opening",
    "open_gallery": "opening",
    "open_gallery_writer": "opening",
    "relocate_gallery": "copying",
    "removable": "removal",
    "remove_records": "upkeep",
    "why_nothing": "nothing_found",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
