"""What is done to whole galleries: removing records, compacting, merging, indexing, exporting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tbps_infer.atomic import is_vacant, new_folder
from tbps_infer.errors import BackendError, GalleryError, UsageError
from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.creation import require_space, system_errors
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.folder import INDEX_FILES, GalleryFacts, index_files
from tbps_infer.gallery.reader import Gallery, Record
from tbps_infer.gallery.records import Entry
from tbps_infer.gallery.removal import Removal, removable
from tbps_infer.gallery.search.graph import build_graph
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.sketch import build_sketch
from tbps_infer.gallery.tombstones import Tombstone
from tbps_infer.gallery.writer import GalleryWriter, open_writer

__all__ = [
    "CompactReport",
    "MergeReport",
    "compact_gallery",
    "export_gallery",
    "index_gallery",
    "merge_galleries",
    "remove_records",
]

_MERGE_ROWS = 4096
_EXPORT_BYTES = 16 << 20

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
class MergeReport:
    """What merging did.

    Attributes:
        added: Records that are new there.
        known: Records whose path and content the gallery had already.
        removed_earlier: Records that were removed from that gallery before, and stay so.
    """

    added: int
    known: int
    removed_earlier: int = 0


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


def compact_gallery(path: Path | str) -> CompactReport:
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


def merge_galleries(
    sources: Sequence[Path | str], out: Path | str, on_progress: Progress | None = None
) -> MergeReport:
    """Add the records of some galleries to another one, made when it is not there; stopped, it carries on.

    The sources' checksums are compared first: damage is not copied. What was removed from `out` stays out. Tombstones
    of the sources are kept, too, except those of pictures that another source or `out` has.

    Args:
        sources: Galleries of the same model and type; records keep their metadata and get new numbers.
        out: A gallery of that model and type, or a folder that does not exist.
        on_progress: Called with the records done and their number.

    Raises:
        ModelMismatchError: The galleries are of different models.
        GalleryError: They store different types, two of them have a picture of the same path and other
            content, or one is damaged.
    """
    if not sources:
        raise UsageError("Merging needs at least one gallery to take records from.")
    first = GalleryFacts.read(Path(sources[0]))
    added = known = removed = total = 0
    tombstones: list[Tombstone] = []
    for source in sources:
        with Gallery.open(source) as gallery:
            gallery.require_model(first.model)
            if gallery.facts.dtype_name != first.dtype_name:
                raise GalleryError(
                    f"{sources[0]} stores {first.dtype_name}, and {source} {gallery.facts.dtype_name}.",
                    "Merge galleries that store the same type.",
                )
            gallery.verify_vectors()
            total += gallery.count
    with GalleryWriter.open(out, first.model, dtype=first.dtype_name, bundle_path=first.bundle_path) as writer:
        for source in sources:
            with Gallery.open(source) as gallery:
                writer.add_roots(list(gallery.roots))
                records = gallery.records()
                while some := list(islice(records, _MERGE_ROWS)):
                    unknown = [record for record in some if not _is_known(writer, gallery, record)]
                    new = [record for record in unknown if not writer.was_removed(record.path, record.stamp.sha256)]
                    removed += len(unknown) - len(new)
                    rows = np.array([record.row for record in new], dtype=np.int64)
                    writer.commit_stored(
                        [Entry(r.path, r.stamp, r.metadata, r.embedded_s) for r in new],
                        gallery.raw(rows) if new else None,
                    )
                    added, known = added + len(new), known + len(some) - len(unknown)
                    if on_progress is not None:
                        on_progress(added + known + removed, total)
                writer.commit(rejects=[reject for reject in gallery.rejects if writer.find(reject.path) is None])
                tombstones += gallery.tombstones
        writer.add_tombstones(tombstones)  # last: by then every record of every source is there
    return MergeReport(added, known, removed)


def index_gallery(path: Path | str, *, graph: bool = False, on_progress: Progress | None = None) -> int:
    """Build the sketch, or the graph of approximate searches, over all rows; returns how many.

    Rows that are added later are searched in full until it is built again. Searches may go on meanwhile.

    Raises:
        GalleryBusyError: Another process is writing.
        GalleryError: The gallery is empty, or the disk has no room.
        BackendError: usearch, which the graph needs, is not installed.
    """
    path = Path(path)
    with open_writer(path) as writer, Gallery.open(path) as gallery, system_errors(path):
        rows, dim = len(gallery.stored), gallery.stored.dim
        if rows == 0:
            raise GalleryError(f"The gallery {path} is empty: there is nothing to index.", "Embed pictures first.")
        file = path / INDEX_FILES["graph" if graph else "sketch"].format(writer.generation)
        if graph:
            require_space(path, rows * (2 * dim + 512))
            build_graph(gallery.stored, file, on_progress)
        else:
            require_space(path, rows * (dim // 8 + 64))
            build_sketch(gallery.stored, file, on_progress=on_progress)
        return rows


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


def _is_known(writer: GalleryWriter, gallery: Gallery, record: Record) -> bool:
    """Whether the picture is there with the same content; raises GalleryError when it is with another."""
    found = writer.find(record.path)
    if found is None:
        return False
    if found.stamp.sha256 != record.stamp.sha256:
        raise GalleryError(
            f"{record.path} of {gallery.path} is in {writer.path} already, with other content.",
            "Remove it from one of the two with tbps gallery rm.",
        )
    return True
