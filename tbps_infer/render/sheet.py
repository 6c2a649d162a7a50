"""Contact sheets: strips of many queries on pages, each a PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw

from tbps_infer.errors import UsageError
from tbps_infer.layout import VectorLayout
from tbps_infer.render import canvas
from tbps_infer.render.strip import Strip, draw_strip

__all__ = ["STRIPS_PER_PAGE", "page_path", "save_png", "write_sheet"]

STRIPS_PER_PAGE = 8
"""A page of eight is some 3,300 pixels high: A4 at 300 dots an inch."""

_T = TypeVar("_T")


def write_sheet(
    file: Path,
    results: Iterable[_T],
    strip_of: Callable[[_T], Strip],
    layout: VectorLayout,
    places: int,
    *,
    per_page: int = STRIPS_PER_PAGE,
) -> Iterator[_T]:
    """Draw results onto pages while handing them on, one page in memory at a time.

    Args:
        file: The first page; page 2 of ``out.png`` is ``out-2.png``.
        results: Whatever ``strip_of`` makes a strip of.
        strip_of: Makes the strip of a result.
        layout: The model's, for the bars.
        places: Thumbnails per strip, the truth of a failure not counted.
        per_page: Strips on a page.

    Yields:
        The results, as they came.

    Raises:
        UsageError: A page cannot be written.
    """
    strips: list[Image.Image] = []
    page = 1
    for result in results:
        strips.append(draw_strip(strip_of(result), layout, places))
        if len(strips) > per_page:
            _write(page_path(file, page), strips[:per_page])
            strips, page = strips[per_page:], page + 1
        yield result
    if strips:
        _write(page_path(file, page), strips)


def page_path(file: Path, page: int) -> Path:
    """Where a page lies, from 1: ``out.png``, ``out-2.png``, ``out-3.png`` and so on."""
    return file if page == 1 else file.with_name(f"{file.stem}-{page}{file.suffix}")


def _write(file: Path, strips: Sequence[Image.Image]) -> None:
    """Stack strips, a hair line between two, and save them under a temporary name first."""
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), canvas.PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        if top:
            ImageDraw.Draw(sheet).line((16, top, sheet.width - 17, top), fill=canvas.REST)
        top += strip.height
    save_png(sheet, file)


def save_png(image: Image.Image, file: Path) -> None:
    """Save a picture, at once or not at all; raises UsageError where it cannot be written."""
    temporary = file.with_name(f".{file.name}.part")
    try:
        image.save(temporary, "PNG", optimize=True)
        temporary.replace(file)
    except OSError as error:
        raise UsageError(
            f"The picture {file} cannot be written: {error.strerror}.", "Choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
