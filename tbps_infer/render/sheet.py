"""Contact sheets: strips of many queries on pages, each a picture file."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tbps_infer.atomic import new_file
from tbps_infer.errors import UsageError
from tbps_infer.layout import VectorLayout
from tbps_infer.render import canvas
from tbps_infer.render.strip import Strip, draw_strip

__all__ = ["STRIPS_PER_PAGE", "new_sheet", "page_path", "picture_format", "save_picture", "write_sheet"]

STRIPS_PER_PAGE = 8
"""A page of eight is some 3,300 pixels high: A4 at 300 dots an inch."""


def write_sheet(
    file: Path, strips: Iterable[Strip], layout: VectorLayout, places: int, *, per_page: int = STRIPS_PER_PAGE
) -> None:
    """Draw strips onto pages, one page in memory at a time; parameters and errors are those of `new_sheet`."""
    with new_sheet(file, layout, places, per_page=per_page) as add:
        for strip in strips:
            add(strip)


@contextlib.contextmanager
def new_sheet(
    file: Path, layout: VectorLayout, places: int, *, per_page: int = STRIPS_PER_PAGE
) -> Iterator[Callable[[Strip], None]]:
    """Yield a function that adds a strip; each page is written when it is full, and the last when the block ends.

    Args:
        file: The first page, PNG or JPEG by its suffix; page 2 of ``out.png`` is ``out-2.png``.
        layout: The model's, for the bars.
        places: Thumbnails per strip, the truth of a failure not counted.
        per_page: Strips on a page.

    Raises:
        UsageError: The suffix is another one, or a page cannot be written.
    """
    picture_format(file)
    images: list[Image.Image] = []
    pages = itertools.count(1)

    def add(strip: Strip) -> None:
        if len(images) == per_page:
            _write(page_path(file, next(pages)), images)
            images.clear()
        images.append(draw_strip(strip, layout, places))

    yield add
    if images:
        _write(page_path(file, next(pages)), images)


def page_path(file: Path, page: int) -> Path:
    """Where a page lies, from 1: ``out.png``, ``out-2.png``, ``out-3.png`` and so on."""
    return file if page == 1 else file.with_name(f"{file.stem}-{page}{file.suffix}")


def _write(file: Path, strips: Sequence[Image.Image]) -> None:
    """Stack strips, a hair line between two, and save them."""
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), canvas.PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        if top:
            ImageDraw.Draw(sheet).line((16, top, sheet.width - 17, top), fill=canvas.REST)
        top += strip.height
    save_picture(sheet, file)


_FORMATS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".png": ("PNG", {"optimize": True}),
    ".jpg": ("JPEG", {"quality": 90}),
    ".jpeg": ("JPEG", {"quality": 90}),
}


def picture_format(file: Path) -> tuple[str, Mapping[str, Any]]:
    """Pillow's name of the format that a file's suffix asks for, and how it is saved; raises UsageError on others."""
    if file.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"The suffix of {file} is not that of a picture that can be written; want {', '.join(_FORMATS)}.",
            "Give the file one of these suffixes.",
        )
    return _FORMATS[file.suffix.lower()]


def save_picture(image: Image.Image, file: Path) -> None:
    """Save a picture whole or not at all, in the format of its suffix; raises UsageError where that cannot be."""
    kind, options = picture_format(file)
    with new_file(file, UsageError) as temporary:
        image.save(temporary, kind, **options)
