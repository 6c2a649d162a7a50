"""Puts a folder of engines in its place all at once, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tbps_infer.errors import BundleError

__all__ = ["beside", "install"]


@contextlib.contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new folder beside a place, gone at the end unless it was moved; a parent made for it goes if left empty.

    Raises:
        BundleError: It cannot be written to.
    """
    first = not place.parent.exists()
    try:
        place.parent.mkdir(exist_ok=True)
        parent = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    except OSError as error:
        raise BundleError(
            f"The engines cannot be written into {place.parent}: {error.strerror}.",
            "Copy the bundle where you may write.",
        ) from error
    try:
        folder = parent / place.name
        folder.mkdir()
        yield folder
    except OSError as error:
        hint = "Make room on the disk." if error.errno == errno.ENOSPC else "Choose a place where you may write."
        raise BundleError(f"The engines cannot be written: {error}.", hint) from error
    finally:
        shutil.rmtree(parent, ignore_errors=True)
        if first:
            with contextlib.suppress(OSError):  # not empty: the engines are there
                place.parent.rmdir()


def install(folder: Path, place: Path) -> None:
    """Give the folder its name; engines that have the name keep it if that fails."""
    for file in (*folder.iterdir(), folder):
        _sync(file)
    before = folder.parent / "replaced"
    if place.exists():
        place.rename(before)
    try:
        folder.rename(place)
    except BaseException:
        if before.exists():
            before.rename(place)
        raise
    _sync(place.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
