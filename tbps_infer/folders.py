"""Pictures in folders and of glob patterns, and what is skipped on the way."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property
from pathlib import Path

from tbps_infer.errors import SourceError

__all__ = ["EXCLUDED", "PICTURE_EXTENSIONS", "PictureFinder", "absolute_path", "is_picture"]

_HEIF = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
PICTURE_EXTENSIONS = _HEIF | {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tga", ".tif", ".tiff", ".webp"),
}
"""Extensions, in lower case, of the pictures in a folder or glob; not every one can be read on every machine."""

_OTHER_EXTENSIONS = frozenset(
    {
        *(".3fr", ".ai", ".arw", ".cr2", ".cr3", ".dng", ".eps", ".ico", ".jxl", ".nef", ".orf", ".pcx", ".psd"),
        *(".raf", ".raw", ".rw2", ".srw", ".svg", ".xcf"),
    }
)
"""Extensions of pictures that are told to be skipped."""

EXCLUDED = ("@eaDir", ".thumbnails", "._*")
"""Patterns of what is excluded always: previews of network storage and desktops, and macOS's companions of files."""

_HEIF_HINT = "pip install 'tbps-infer[heif]'"


def is_picture(name: str) -> bool:
    """Whether a name's extension is that of a picture which can be read here."""
    extension = Path(name).suffix.lower()
    return extension in PICTURE_EXTENSIONS and extension in _readable()


@dataclass
class PictureFinder:
    """Finds pictures by their extensions, and counts what it skips.

    Attributes:
        recursive: Whether to look into the folders inside a folder.
        exclude: Patterns of files and folders: of names, as ``*_mask.png``, or with ``/`` of paths below a source.
        skipped: How many were skipped and the first of them, by reason.
    """

    recursive: bool = True
    exclude: Sequence[str] = ()
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)

    def in_folder(self, folder: Path) -> list[str]:
        """Absolute paths of the pictures in a folder, sorted; raises SourceError where the folder cannot be read."""

        def refuse(error: OSError) -> None:
            if Path(error.filename) == folder:
                raise SourceError(f"The folder {folder} cannot be read: {error.strerror}.") from error
            self._skip("folders that cannot be read", error.filename)

        found: list[str] = []
        seen: set[tuple[int, int]] = set()  # linked folders are followed, each folder once
        for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
            try:
                status = os.stat(parent)  # noqa: PTH116 - pathlib takes seconds more for a million files
            except OSError as error:  # it went while others were read
                refuse(error)
                folders.clear()
                continue
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            below = parent[len(str(folder)) :].strip("/")
            absolute = os.path.join(os.path.abspath(parent), "")  # noqa: PTH100, PTH118
            found += [absolute + name for name in self._chosen(parent, below, files)]
            folders[:] = sorted(self._entered(below, folders)) if self.recursive else []
        return sorted(found)

    def of_pattern(self, pattern: str) -> list[str]:
        """Absolute paths of the pictures that a glob pattern matches, sorted."""
        parts = Path(pattern).parts
        named = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        found: list[str] = []
        for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207
            below = Path(match).parts[named:]
            folders = [("/".join(below[:depth]), name) for depth, name in enumerate(below[:-1])]
            if not Path(match).is_file():
                continue
            if any(self._excludes(above, name) for above, name in folders):
                self._skip(_EXCLUDED_REASON, match)
            else:
                chosen = self._chosen(str(Path(match).parent), "/".join(below[:-1]), [Path(match).name])
                found += [os.path.abspath(match) for _ in chosen]  # noqa: PTH100
        return found

    def _chosen(self, parent: str, below: str, files: Sequence[str]) -> Iterator[str]:
        """The names of the files that are to be read."""
        for name in files:
            extension = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if extension not in PICTURE_EXTENSIONS and extension not in _OTHER_EXTENSIONS:
                continue
            reason = self._reason(below, name)
            if reason is None and extension not in self._readable:
                reason = _unread_reason(extension)
            if reason is None:
                yield name
            else:
                self._skip(reason, os.path.join(parent, name))  # noqa: PTH118

    def _entered(self, below: str, folders: Sequence[str]) -> Iterator[str]:
        for name in folders:
            if reason := self._reason(below, name):
                self._skip(reason, f"{below}/{name}".lstrip("/"))
            else:
                yield name

    def _reason(self, below: str, name: str) -> str | None:
        """Why a file or folder is skipped, whatever it holds."""
        if self._excludes(below, name):
            return _EXCLUDED_REASON
        return "hidden" if name.startswith(".") else None

    def _excludes(self, below: str, name: str) -> bool:
        if self._excluded_names.match(name):
            return True
        return self._excluded_paths is not None and bool(self._excluded_paths.match(f"{below}/{name}".lstrip("/")))

    @cached_property
    def _excluded_names(self) -> re.Pattern[str]:
        return _any_of(pattern for pattern in (*EXCLUDED, *self.exclude) if "/" not in pattern)

    @cached_property
    def _excluded_paths(self) -> re.Pattern[str] | None:
        patterns = [pattern for pattern in self.exclude if "/" in pattern]
        return _any_of(patterns) if patterns else None

    @cached_property
    def _readable(self) -> frozenset[str]:
        return PICTURE_EXTENSIONS & _readable()

    def _skip(self, reason: str, example: str) -> None:
        count, first = self.skipped.get(reason, (0, example))
        self.skipped[reason] = count + 1, first


_EXCLUDED_REASON = "excluded"


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for several patterns of names: to match them one by one takes seconds for a million files."""
    return re.compile("|".join(map(translate, patterns)))


def _unread_reason(extension: str) -> str:
    """Why pictures with an extension are not read here."""
    return f"HEIC, which needs {_HEIF_HINT}" if extension in _HEIF else f"{extension[1:].upper()}, which is not read"


def _readable() -> frozenset[str]:
    from tbps_infer.images import readable_extensions

    return readable_extensions()


def absolute_path(path: str | Path) -> Path:
    """A path from the root, without ``..``: what tells one picture from another."""
    # Not resolve(): a picture is recorded under the name that it was given, not its link's target.
    absolute = os.path.abspath(path)  # noqa: PTH100
    return path if isinstance(path, Path) and str(path) == absolute else Path(absolute)
