"""Pruning: records and rejects whose files were deleted leave the gallery, when that is asked for."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tbps_infer.errors import GalleryError
from tbps_infer.folders import is_picture
from tbps_infer.gallery import open_gallery_writer
from tbps_infer.lists import is_stream
from tbps_infer.moves import is_gone
from tbps_infer.sources import SourceItem, absolute_path

__all__ = ["PruneMode", "PruneReport", "prune_gallery", "source_folder", "source_scope"]

PruneMode = Literal["dry-run", "yes", "all"]
"""Only tell; remove, unless that is more than half of what is recorded in a place; remove whatever is gone."""


@dataclass(frozen=True)
class PruneReport:
    """What pruning found.

    Attributes:
        gone: Paths of the records whose files are gone.
        rejects: Paths of the rejects whose files are gone.
        recorded: How many records there were in the places that were looked at.
        removed: Whether they were taken out of the gallery.
    """

    gone: tuple[Path, ...]
    rejects: tuple[Path, ...]
    recorded: int
    removed: bool


def prune_gallery(gallery: Path | str, scopes: Sequence[Path], mode: PruneMode = "dry-run") -> PruneReport:
    """Find the records and rejects below some folders whose files are gone, and remove them if that is asked for.

    A file that cannot be looked at is not gone. No tombstone is kept: a picture that comes back is embedded again.

    Args:
        gallery: The gallery.
        scopes: The folders, absolute.
        mode: See `PruneMode`.

    Raises:
        GalleryBusyError: Another process is writing.
        GalleryError: A folder is not there at all, or more than half of the records below it would go and the mode
            does not allow that.
    """
    recorded: set[Path] = set()
    gone: list[Path] = []
    rejects: list[Path] = []
    with open_gallery_writer(gallery) as writer:
        for scope in scopes:
            if not scope.is_dir():
                raise GalleryError(
                    f"{scope} is not there, so nothing was pruned.", "Is the disk or the network share away?"
                )
            below = writer.paths_below(scope)
            missing = [path for path in below if is_gone(path)]
            if 2 * len(missing) > len(below) and mode != "all":
                raise GalleryError(
                    f"{len(missing)} of the {len(below)} records below {scope} have no file any more, among them "
                    f"{missing[0]}: that is more than half, and nothing was pruned.",
                    "Is a disk or a network share away? If the files were deleted on purpose, use --prune=all.",
                )
            recorded.update(below)
            gone += missing
            rejects += [path for path in writer.paths_below(scope, rejects=True) if is_gone(path)]
        gone, rejects = sorted(set(gone)), sorted(set(rejects))
        if mode != "dry-run":
            writer.remove_paths(gone)
            writer.forget_rejects(rejects)
    return PruneReport(tuple(gone), tuple(rejects), len(recorded), mode != "dry-run")


def source_folder(source: str) -> Path:
    """The folder of a source, absolute: itself, or the one that a picture, a list or a pattern is in.

    A list on standard input or in a pipe is read as if it were in the current folder.

    What does not exist and is no pattern is taken for a folder that is away.
    """
    path = Path(source)
    if is_stream(source):
        return absolute_path(".")
    if path.is_file():
        return absolute_path(path).parent
    if path.is_dir() or not glob.has_magic(source):
        return absolute_path(path)
    return absolute_path(next(folder for folder in path.parents if not glob.has_magic(str(folder))))


def source_scope(source: str, items: Sequence[SourceItem]) -> Path:
    """The folder in which a source's records are looked for when it is pruned.

    That is the folder of a folder or pattern, and the one that all pictures of a list are below, or the list itself
    where it names none.
    """
    is_list = Path(source).is_file() and not is_picture(source)
    if not is_list:
        return source_folder(source)
    return Path(os.path.commonpath([item.path.parent for item in items] or [source_folder(source)]))
