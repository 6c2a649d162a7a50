"""What to say when pictures of a gallery are not where they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["missing_pictures"]


def missing_pictures(gallery: Path | str, missing: int, roots: Mapping[Path, int]) -> str:
    """How many pictures are not there, and what to do about it.

    Args:
        gallery: The gallery.
        missing: How many of the pictures that were looked at.
        roots: Folders that are not there at all, with the number of records below each.
    """
    many = "1 picture is" if missing == 1 else f"{missing} pictures are"
    if not roots:
        return f"{many} not there any more; to remove their records: tbps embed BUNDLE SOURCE... -o {gallery} --prune"
    root, count = next(iter(roots.items()))
    return (
        f"{many} not there any more; {root}, with {count} records, is away. If the pictures have moved: "
        f"tbps gallery relocate {gallery} {root} NEW"
    )
