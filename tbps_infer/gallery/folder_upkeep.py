"""What is done to a folder as a whole, by its one writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.creation import require_space, system_errors
from tbps_infer.gallery.folder import INDEX_FILES, index_files
from tbps_infer.gallery.reader import Gallery
from tbps_infer.gallery.search.graph import build_graph
from tbps_infer.gallery.search.sketch import build_sketch

if TYPE_CHECKING:
    from tbps_infer.gallery.writer import GalleryWriter

__all__ = ["CompactReport", "FolderUpkeep", "IndexReport", "Progress"]

Progress = Callable[[int, int], None]


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


@dataclass(frozen=True)
class IndexReport:
    """What was built: ``sketch``, ``graph`` or ``index``; over how many rows; and how good it is, as a sentence."""

    kind: str
    rows: int
    quality: str = ""


class FolderUpkeep:
    """Compacts, purges and indexes a folder."""

    def __init__(self, writer: GalleryWriter) -> None:
        self._writer = writer

    def compact(self) -> CompactReport:
        """Drop the rows that no record names."""
        writer, path = self._writer, self._writer.path
        with Gallery.open(path) as gallery:
            gallery.verify()
            kept = gallery.count
        indexes = index_files(path, writer.generation)
        dropped = writer.compact()
        if "sketch" in indexes and kept:
            with Gallery.open(path) as gallery, system_errors(path):
                build_sketch(gallery.stored, path / INDEX_FILES["sketch"].format(gallery.generation))
        return CompactReport(kept, dropped, tuple(file.name for file in indexes.values()))

    def purge(self) -> None:
        """Leave nothing of what was removed."""
        self.compact()
        self._writer.rewrite_records()

    def index(self, *, graph: bool, on_progress: Progress | None = None) -> IndexReport:
        """Build the sketch, or the graph."""
        path = self._writer.path
        with Gallery.open(path) as gallery, system_errors(path):
            rows, dim = len(gallery.stored), gallery.stored.dim
            if rows == 0:
                raise GalleryError(
                    f"The gallery {path} is empty: there is nothing to index.", "Embed pictures first."
                )
            kind = "graph" if graph else "sketch"
            file = path / INDEX_FILES[kind].format(self._writer.generation)
            if graph:
                require_space(path, rows * (2 * dim + 512))
                build_graph(gallery.stored, file, on_progress)
            else:
                require_space(path, rows * (dim // 8 + 64))
                build_sketch(gallery.stored, file, on_progress=on_progress)
        return IndexReport(kind, rows)
