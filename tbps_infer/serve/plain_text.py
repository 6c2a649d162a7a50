"""Text for JSON: names of files need not be valid Unicode."""

from __future__ import annotations

from collections.abc import Mapping

from tbps_infer.gallery.columns import Value

__all__ = ["plain_metadata", "plain_text"]


def plain_text(value: str) -> str:
    """A text with question marks for what is no text."""
    return value.encode("utf-8", "replace").decode()


def plain_metadata(metadata: Mapping[str, Value]) -> dict[str, Value]:
    """Metadata, its names and values likewise."""
    return {
        plain_text(name): plain_text(value) if isinstance(value, str) else value for name, value in metadata.items()
    }
