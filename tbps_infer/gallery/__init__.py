"""Galleries: a folder of embeddings and records on disk, its one writer, its many readers, and exact search."""

from tbps_infer.gallery.copying import copy_gallery, relocate_gallery
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.folder import GalleryFacts, is_gallery
from tbps_infer.gallery.reader import Gallery, Record
from tbps_infer.gallery.records import Entry, FileStamp, Reject
from tbps_infer.gallery.removal import Removal, removable
from tbps_infer.gallery.search.results import Hit, SearchOptions, SearchReport, SearchResult
from tbps_infer.gallery.upkeep import (
    CompactReport,
    MergeReport,
    compact_gallery,
    export_gallery,
    index_gallery,
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
    "MergeReport",
    "Record",
    "Reject",
    "Removal",
    "SearchOptions",
    "SearchReport",
    "SearchResult",
    "compact_gallery",
    "copy_gallery",
    "export_gallery",
    "index_gallery",
    "is_gallery",
    "merge_galleries",
    "relocate_gallery",
    "removable",
    "remove_records",
]
