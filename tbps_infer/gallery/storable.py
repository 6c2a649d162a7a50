"""Which metadata a gallery can store, whatever keeps its records."""

from __future__ import annotations

from collections.abc import Iterable

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.columns import ColumnType
from tbps_infer.gallery.records import Entry

__all__ = ["other_type", "refuse_unstorable"]


def refuse_unstorable(entries: Iterable[Entry]) -> None:
    """Raise GalleryError for a value that is not a `Value`: NumPy's numbers and more, which no reader would know."""
    for entry in entries:
        for name, value in entry.metadata.items():
            if not isinstance(value, str | int | float | None):
                raise GalleryError(
                    f"{name} of {entry.path} is {value!r}, want text, a number or None.",
                    "Convert it: value.item() of NumPy's numbers, value.isoformat() of times.",
                )


def other_type(entry: Entry, name: str, held: ColumnType) -> GalleryError:
    """What to raise where an entry's value is of another type than its column holds."""
    return GalleryError(
        f"{name} is {entry.metadata[name]!r} for {entry.path}, and the gallery holds {held} in this column.",
        f"Keep it as text: --text {name}." if held == "text" else "Correct it, or give the column another name.",
    )
