"""A gallery's folder before its writer has it: made, or found to be one of the same model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import tbps_infer
from tbps_infer.atomic import sync
from tbps_infer.errors import GalleryError
from tbps_infer.gallery.folder import (
    GALLERY_JSON,
    LOCK_FILE,
    DtypeName,
    GalleryFacts,
    is_gallery,
    is_leftover,
    is_vectors_file,
)
from tbps_infer.gallery.records import create_records, sqlite_errors
from tbps_infer.model_facts import ModelFacts

__all__ = ["SPARE_BYTES", "make_folder", "open_facts", "require_space", "system_errors"]

SPARE_BYTES = 16 << 20
"""Disk space that is left free: SQLite's log of a commit, and whatever else lives on the disk."""


def make_folder(path: Path) -> None:
    """Create the folder, or make sure that an existing one is a gallery or can become one."""
    path.mkdir(parents=True, exist_ok=True)
    if is_gallery(path):
        return
    strangers = sorted(file.name for file in path.iterdir() if not is_leftover(file.name))
    if strangers:
        raise GalleryError(
            f"{path} is not a gallery and not empty: it holds {', '.join(strangers[:3])}.",
            "Name a folder that does not exist yet, or an existing gallery.",
        )
    # A writer that was stopped in making a gallery has written no vector: these are somebody's.
    written = [file.name for file in path.iterdir() if is_vectors_file(file.name) and file.stat().st_size]
    if written:
        raise GalleryError(
            f"{path} holds a gallery's {written[0]} and no {GALLERY_JSON}.",
            f"Restore {GALLERY_JSON} from a copy, or name a folder that does not exist yet.",
        )


def open_facts(folder: Path, model: ModelFacts, dtype: DtypeName | None, bundle_path: Path | None) -> GalleryFacts:
    """What ``gallery.json`` says, written now in an empty folder; raises as `GalleryWriter.open`."""
    bundle_path = None if bundle_path is None else bundle_path.absolute()
    if not is_gallery(folder):
        return _create(folder, model, dtype or "float16", bundle_path)
    facts = GalleryFacts.read(folder)
    facts.require_model(model, folder)
    if dtype not in (None, facts.dtype_name):
        raise GalleryError(
            f"The gallery {folder} stores {facts.dtype_name}, and {dtype} was asked for.",
            "Leave the type out, or embed the pictures into a new gallery.",
        )
    if bundle_path not in (None, facts.bundle_path):
        facts = replace(facts, bundle_path=bundle_path)
        facts.write(folder)
    return facts


def _create(folder: Path, model: ModelFacts, dtype: DtypeName, bundle_path: Path | None) -> GalleryFacts:
    """Write an empty gallery; ``gallery.json`` comes last, and what came before it does not count."""
    for file in folder.iterdir():
        if is_leftover(file.name) and file.name != LOCK_FILE:
            file.unlink()
    facts = GalleryFacts(
        model=model,
        dtype_name=dtype,
        bundle_path=bundle_path,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        made_by=f"tbps-infer {tbps_infer.__version__}",
    )
    (folder / facts.vectors_file(0)).touch()
    with sqlite_errors(folder):
        create_records(folder)
    sync(folder)
    facts.write(folder)
    return facts


@contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Turn what the system raises about a gallery's files into a GalleryError."""
    try:
        yield
    except OSError as error:
        raise GalleryError(
            f"The gallery {folder} cannot be written: {error.strerror or error}.",
            "Check the folder's permissions and the free disk space, and run the same command again; "
            "what was committed before is kept.",
        ) from error


def require_space(path: Path, wanted: int) -> None:
    """Look at the free space before writing, so that a disk is not filled to the last byte for nothing."""
    free = shutil.disk_usage(path).free
    if free < wanted + SPARE_BYTES:
        raise GalleryError(
            f"The disk of {path} has {free / 1e6:.0f} MB free, and this needs {(wanted + SPARE_BYTES) / 1e6:.0f} MB.",
            "Free some disk space and run the same command again; what was committed before is kept.",
        )
