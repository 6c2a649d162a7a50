"""Pictures inside HTML: a thumbnail in the ``img`` itself, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from tbps_infer.errors import ImageError
from tbps_infer.images import load_rgb

__all__ = ["image_html"]

_JPEG_QUALITY = 82


def image_html(picture: Path | bytes, size: tuple[int, int], missing: str) -> str:
    """A picture as an ``img`` with its thumbnail inside.

    Args:
        picture: A file, or its bytes.
        size: Height and width on the page; the thumbnail is twice as large, for sharp screens and print.
        missing: The HTML where the picture cannot be read.
    """
    height, width = size

    def shrink(image: Image.Image) -> Image.Image:
        image.thumbnail((2 * width, 2 * height))
        return image

    try:
        image = load_rgb(picture, shrink)
    except (ImageError, OSError):
        return missing
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_JPEG_QUALITY)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    name = escape(picture.name) if isinstance(picture, Path) else "crop"
    return f'<img src="data:image/jpeg;base64,{encoded}" width="{width}" height="{height}" alt="{name}">'
