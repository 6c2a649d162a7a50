"""What is done to whole galleries: removing records, compacting, merging, indexing, exporting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.atomic import is_vacant, new_folder
from tbps_infer.errors import BackendError, GalleryError, UsageError
from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.creation import require_space
from tbps_infer.gallery.crops import picture_crop
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.folder_upkeep import CompactReport, IndexReport, Progress
from tbps_infer.gallery.opening import open_gallery, open_gallery_writer, upkeep_of
from tbps_infer.gallery.reader import Gallery, Record
from tbps_infer.gallery.records import Entry
from tbps_infer.gallery.removal import Removal, removable
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.tombstones import Tombstone
from tbps_infer.gallery.writer import GalleryWriter

if TYPE_CHECKING:
    from tbps_infer.gallery.lance.reader import LanceGallery
    from tbps_infer.gallery.lance.writer import LanceWriter

__all__ = [
    "CompactReport",
    "IndexReport",
    "MergeReport",
    "compact_gallery",
    "export_gallery",
    "index_gallery",
    "index_with_report",
    "merge_galleries",
    "remove_records",
]

_MERGE_ROWS = 4096
_EXPORT_BYTES = 16 << 20


@dataclass(frozen=True)
class MergeReport:
    """What merging did.

    Attributes:
        added: Records that are new there.
        known: Records whose path and content the gallery had already.
        removed_earlier: Records that were removed from that gallery before, and stay so.
        without_crop: Added ones whose picture could not be read, where crops were wanted.
    """

    added: int
    known: int
    removed_earlier: int = 0
    without_crop: int = 0


def remove_records(path: Path | str, what: Filter | Removal, *, purge: bool = False) -> int:
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
    with open_gallery_writer(path) as writer:
        gone = 0
        if removal or not purge:
            with open_gallery(path) as gallery:
                numbers = removable(gallery, removal).tolist()
            gone = writer.remove(numbers)
        if purge:
            upkeep_of(writer).purge()
    return gone


def compact_gallery(path: Path | str) -> CompactReport:
    """Drop the rows that no record names. The checksums are compared first: damage is not copied.

    Raises:
        GalleryBusyError: Another process is writing.
        GalleryError: The gallery is damaged, or the disk has no room for the new file beside the old one.
    """
    with open_gallery_writer(path) as writer:
        return upkeep_of(writer).compact()


def merge_galleries(
    sources: Sequence[Path | str], out: Path | str, on_progress: Progress | None = None, *, crops: bool = False
) -> MergeReport:
    """Add the records of some galleries to another one, made when it is not there; stopped, it carries on.

    The sources' vectors are verified first: damage is not copied. What was removed from `out` stays out. Tombstones
    of the sources are kept, too, except those of pictures that another source or `out` has.

    Args:
        sources: Folders and datasets of the same model and type; records keep their metadata and get new numbers.
        out: A folder or dataset of that model and type, or one that does not exist.
        on_progress: Called with the records done and their number.
        crops: Whether a dataset that is made keeps crops: those of the sources, else of their pictures.

    Raises:
        ModelMismatchError: The galleries are of different models.
        GalleryError: They store different types, two of them have a picture of the same path and other
            content, or one is damaged.
    """
    if not sources:
        raise UsageError("Merging needs at least one gallery to take records from.")
    total = 0
    for source in sources:
        with open_gallery(source) as gallery:
            if not total:
                first = gallery.facts
            gallery.require_model(first.model)
            if gallery.facts.dtype_name != first.dtype_name:
                raise GalleryError(
                    f"{sources[0]} stores {first.dtype_name}, and {source} {gallery.facts.dtype_name}.",
                    "Merge galleries that store the same type.",
                )
            gallery.verify_vectors()
            total += gallery.count
    with open_gallery_writer(
        out, first.model, dtype=first.dtype_name, bundle_path=first.bundle_path, crops=crops
    ) as writer:
        merge = _Merge(writer, crops, total, on_progress)
        for source in sources:
            with open_gallery(source) as gallery:
                merge.take(gallery)
        writer.add_tombstones(merge.tombstones)  # last: by then every record of every source is there
    return MergeReport(merge.added, merge.known, merge.removed, merge.without_crop)


class _Merge:
    """Takes records of galleries into another, and counts them."""

    def __init__(
        self, writer: GalleryWriter | LanceWriter, crops: bool, total: int, on_progress: Progress | None
    ) -> None:
        self._writer = writer
        self._crops = crops
        self._total = total
        self._on_progress = on_progress
        self.added = self.known = self.removed = self.without_crop = 0
        self.tombstones: list[Tombstone] = []

    def take(self, gallery: Gallery | LanceGallery) -> None:
        """Add what is not there yet."""
        writer = self._writer
        writer.add_roots(list(gallery.roots))
        writer.commit_batches(gallery.column_types(), self._batches(gallery))
        writer.commit(rejects=[reject for reject in gallery.rejects if writer.stamp(reject.path) is None])
        self.tombstones += gallery.tombstones

    def _batches(self, gallery: Gallery | LanceGallery) -> Iterator[tuple[list[Entry], NDArray[np.uint8]]]:
        records = gallery.records()
        while some := list(islice(records, _MERGE_ROWS)):
            unknown = [record for record in some if not _is_known(self._writer, gallery, record)]
            new = [record for record in unknown if not self._writer.was_removed(record.path, record.stamp.sha256)]
            if new:
                rows = np.array([record.row for record in new], dtype=np.int64)
                yield self._entries(gallery, new), gallery.raw(rows)
            self.removed += len(unknown) - len(new)
            self.added, self.known = self.added + len(new), self.known + len(some) - len(unknown)
            if self._on_progress is not None:
                self._on_progress(self.added + self.known + self.removed, self._total)

    def _entries(self, gallery: Gallery | LanceGallery, records: Sequence[Record]) -> list[Entry]:
        crops: dict[int, bytes | None] = {}
        if self._crops:
            numbers = np.array([record.record for record in records], dtype=np.int64)
            crops = {number: record.crop for number, record in gallery.details(numbers, crops=True).items()}
            preprocessing = gallery.model.preprocessing
            for record in records:
                crops[record.record] = crops[record.record] or picture_crop(record.path, preprocessing)
            self.without_crop += sum(crop is None for crop in crops.values())
        return [Entry(r.path, r.stamp, r.metadata, r.embedded_s, crops.get(r.record)) for r in records]


def index_gallery(path: Path | str, *, graph: bool = False, on_progress: Progress | None = None) -> int:
    """The rows that `index_with_report` covers."""
    return index_with_report(path, graph=graph, on_progress=on_progress).rows


def index_with_report(path: Path | str, *, graph: bool = False, on_progress: Progress | None = None) -> IndexReport:
    """Build a folder's sketch or graph, or a dataset's index, over all rows.

    Rows that are added later are searched in full until it is built again. Searches may go on meanwhile.

    Args:
        path: The gallery.
        graph: Build a folder's graph of approximate searches.
        on_progress: Called with the rows or steps done and their number.

    Raises:
        GalleryBusyError: Another process is writing to the folder.
        GalleryError: The gallery is empty, or the disk has no room.
        BackendError: usearch, which the graph needs, is not installed.
        UsageError: A dataset was to get a graph.
    """
    with open_gallery_writer(path) as writer:
        return upkeep_of(writer).index(graph=graph, on_progress=on_progress)


def export_gallery(path: Path | str, out: Path | str, where: Filter | None = None) -> int:
    """Write ``vectors.npy`` and ``records.parquet``, row i of one being row i of the other; returns how many.

    Args:
        path: The gallery.
        out: A folder that does not exist.
        where: Which records; None is all.

    ``vectors.npy`` is ``[n, dim]``, float16 or float32 as stored; int8 galleries give float32.

    Raises:
        BackendError: pyarrow is not installed.
        GalleryError: `out` exists, or cannot be written, for instance because the disk has no room.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise BackendError(
            "Exporting needs pyarrow, which is not installed.", 'Run pip install "tbps-infer[parquet]".'
        ) from error
    out = Path(out)
    if not is_vacant(out):
        raise GalleryError(f"{out} exists already.", "Name a folder that does not exist yet, or remove this one.")
    with Gallery.open(path) as gallery, new_folder(out, GalleryError) as folder:
        records, rows = gallery.selected(where or Filter())
        dtype = np.dtype("<f4") if gallery.facts.dtype_name == "int8" else gallery.dtype
        require_space(folder, len(rows) * (gallery.model.layout.dim * dtype.itemsize + 1024))
        _write_npy(folder / "vectors.npy", gallery, rows, dtype)
        wanted = set(records.tolist())
        exported = [record for record in gallery.records() if record.record in wanted]
        table = {
            "record": [record.record for record in exported],
            "path": [str(record.path) for record in exported],
            **{name: _column([record.metadata.get(name) for record in exported]) for name in gallery.columns},
        }
        parquet.write_table(pa.table(table), folder / "records.parquet")
    return len(rows)


def _write_npy(file: Path, gallery: Gallery, rows: Rows, dtype: np.dtype[Any]) -> None:
    """Written, not mapped: a mapped file ends the process when the disk is full."""
    stored = gallery.stored
    with file.open("wb") as out:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (len(rows), stored.dim)}
        np.lib.format.write_array_header_1_0(out, header)
        step = max(1, _EXPORT_BYTES // stored.row_bytes)
        for start in range(0, len(rows), step):
            some = rows.numbers[start : start + step]
            vectors = stored.values[some] if stored.scales is None else stored.exact(some)
            out.write(np.ascontiguousarray(vectors, dtype=dtype).data)
            gallery.release(0, len(stored))


def _column(values: list[Value]) -> list[Any]:
    """Values of one type, as a Parquet column has: text as soon as one of them is text."""
    for kind in (str, float):
        if any(isinstance(value, kind) for value in values):
            return [None if value is None else kind(value) for value in values]
    return list(values)


def _is_known(writer: GalleryWriter | LanceWriter, gallery: Gallery | LanceGallery, record: Record) -> bool:
    """Whether the picture is there with the same content; raises GalleryError when it is with another."""
    found = writer.stamp(record.path)
    if found is None:
        return False
    if found.sha256 != record.stamp.sha256:
        raise GalleryError(
            f"{record.path} of {gallery.path} is in {writer.path} already, with other content.",
            "Remove it from one of the two with tbps gallery rm.",
        )
    return True
