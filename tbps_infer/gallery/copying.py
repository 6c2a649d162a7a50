"""Copies of galleries, made while a writer may be at work, and galleries whose pictures have moved."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tbps_infer.atomic import is_vacant, new_folder
from tbps_infer.errors import GalleryError
from tbps_infer.folders import absolute_path
from tbps_infer.gallery.creation import require_space
from tbps_infer.gallery.folder import INDEX_FILES, RECORDS_FILE, index_files
from tbps_infer.gallery.reader import Gallery
from tbps_infer.gallery.writer import open_writer

__all__ = ["copy_gallery", "relocate_gallery"]

_COPY_BYTES = 16 << 20


def copy_gallery(path: Path | str, out: Path | str) -> int:
    """Copy a gallery as it is now, whatever a writer does meanwhile, and verify the copy; returns its records.

    Its sketch and its graph come along. The pictures do not.

    Args:
        path: The gallery.
        out: A folder that does not exist, or is empty; it appears when the copy is complete and on the disk.

    Raises:
        GalleryError: The gallery is damaged, `out` is there, or the disk has no room.
    """
    path, out = Path(path), Path(out)
    if not is_vacant(out):
        raise GalleryError(f"{out} exists already.", "Name a folder that does not exist yet, or remove this one.")
    with Gallery.open(path) as gallery, new_folder(out, GalleryError) as folder:
        records = path / gallery.facts.records_file
        vectors = len(gallery.stored) * gallery.facts.row_bytes
        require_space(folder, vectors + (records.stat().st_size if records.exists() else 0))
        _copy_vectors(gallery, folder)
        gallery.copy_records(folder / RECORDS_FILE)
        for name, file in index_files(path, gallery.generation).items():
            with suppress(FileNotFoundError):  # a compaction has just removed it
                shutil.copyfile(file, folder / INDEX_FILES[name].format(gallery.generation))
        replace(gallery.facts, records_file=RECORDS_FILE).write(folder)
        with Gallery.open(folder) as copy:
            copy.verify()
            count = copy.count
        for name in ("wal", "shm"):
            (folder / f"{RECORDS_FILE}-{name}").unlink(missing_ok=True)
    return count


def _copy_vectors(gallery: Gallery, folder: Path) -> None:
    with (folder / gallery.facts.vectors_file(gallery.generation)).open("wb") as out:
        rows, step = len(gallery.stored), max(1, _COPY_BYTES // gallery.facts.row_bytes)
        for start in range(0, rows, step):
            out.write(gallery.raw_slice(start, min(start + step, rows)))
            gallery.release(start, min(start + step, rows))


def relocate_gallery(path: Path | str, old: Path | str, new: Path | str) -> int:
    """Record that the pictures below one folder are below another now; returns how many.

    Nothing is read or moved: it says where pictures are that were moved, or copied with their gallery.

    Raises:
        GalleryBusyError: Another process is writing.
        GalleryError: Nothing is recorded below `old`, `new` is no folder, or has pictures that are recorded there.
    """
    old, new = absolute_path(old), absolute_path(new)
    if not new.is_dir():
        raise GalleryError(f"{new} is not a folder.", "Name the folder in which the pictures are now.")
    with open_writer(path) as writer:
        return writer.relocate(old, new)
