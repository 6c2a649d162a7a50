"""Pictures that were moved or copied: told from new ones, so that they keep their records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tbps_infer.errors import GalleryError
from tbps_infer.gallery import RowWriter

__all__ = ["is_gone", "moved_from", "refuse_known_elsewhere"]

_SAMPLE = 8


def is_gone(path: Path) -> bool:
    """Whether a file was removed or moved, as opposed to not being reachable now.

    A link whose target is away, or a folder that cannot be read, does not count.
    """
    for place in (path, *path.parents):
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
        return place != path and place.is_dir()
    return False


def moved_from(writer: RowWriter, sha256: str, roots: Sequence[Path]) -> Path | None:
    """The recorded path of a file with this content that is gone now, while the root that it was below is there."""
    for old in writer.of_content(sha256):
        if is_gone(old) and any(old.is_relative_to(root) and root.is_dir() for root in roots):
            return old
    return None


def refuse_known_elsewhere(writer: RowWriter, folder: Path, paths: Sequence[Path]) -> None:
    """Raise GalleryError when a new root holds the pictures of another root, as a moved or copied disk does.

    A few pictures tell: the same content at the same place below the two.
    """
    below = [path for path in paths if path.is_relative_to(folder)]
    sample = below[:: max(1, len(below) // _SAMPLE)][:_SAMPLE]
    for root in writer.roots():
        if root == folder:
            continue
        same = sum(_is_same(writer, root / path.relative_to(folder), path) for path in sample)
        if 2 * same > len(sample) and len(sample) > 1:
            raise GalleryError(
                f"The pictures below {folder} are recorded below {root} already.",
                f"If they were moved, or copied with it: tbps gallery relocate {writer.path} {root} {folder}. "
                f"To record them once more: --root {folder}.",
            )


def _is_same(writer: RowWriter, recorded: Path, path: Path) -> bool:
    known = writer.stamp(recorded)
    try:
        if known is None or known.size != path.stat().st_size:
            return False
        return known.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return False
