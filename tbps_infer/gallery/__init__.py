"""Galleries: a folder of embeddings and records on disk, its one writer, its many readers, and exact search."""

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
