"""What every drawing shares: colours, the font, wrapped text, thumbnails, frames with marks, bars."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tbps_infer.errors import ImageError
from tbps_infer.render.marks import Verdict
from tbps_infer.render.printable import printable, printable_line

__all__ = [
    "BAR",
    "FRAME",
    "FRAME_COLOURS",
    "INK",
    "PAPER",
    "REST",
    "SOFT",
    "draw_bar",
    "draw_frame",
    "draw_lines",
    "font",
    "line_height",
    "thumbnail",
    "wrap",
]

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (22, 25, 29)
SOFT: Colour = (93, 101, 112)
REST: Colour = (226, 230, 236)
BAR: Colour = (59, 110, 168)
FRAME_COLOURS: dict[Verdict, Colour] = {"right": (10, 125, 75), "wrong": (194, 59, 34), "unknown": (150, 157, 166)}
FRAME = 4
"""Pixels of a frame; a wrong one's is dashed, so that it differs without its colour."""

_DASH = 12
_MARK = 20


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; it has no file that could be missing."""
    return ImageFont.load_default(size)


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return round(size * 1.35)


def wrap(text: str, width: int, size: int, most: int | None = None) -> list[str]:
    """Break text into lines of at most ``width`` pixels, inside a word only where the word alone is too long.

    Args:
        text: What to break.
        width: Pixels per line.
        size: Of the font, in pixels.
        most: Lines at most; a longer text ends in "...".
    """
    lines: list[str] = []
    for word in printable(text).split():
        if lines and _width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] = f"{lines[-1]} {word}"
            continue
        rest = word
        while rest:
            fits = len(rest)
            while fits > 1 and _width(rest[:fits], size) > width:
                fits -= 1
            lines.append(rest[:fits])
            rest = rest[fits:]
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and _width(f"{last}...", size) > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last}..."]


def draw_lines(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], size: int, colour: Colour = INK
) -> int:
    """Draw lines of text, and return the height they took."""
    for number, line in enumerate(lines):
        draw.text((at[0], at[1] + number * line_height(size)), printable_line(line), fill=colour, font=font(size))
    return len(lines) * line_height(size)


def thumbnail(source: Path | bytes | Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture at exactly ``size`` (width, height); where it cannot be read, a grey tile that says so."""
    from tbps_infer.images import load_rgb

    if isinstance(source, Image.Image):
        return source.resize(size, Image.Resampling.LANCZOS)
    try:
        return load_rgb(source, lambda image: image.resize(size, Image.Resampling.LANCZOS))
    except ImageError:
        reason = "cannot be read" if isinstance(source, bytes) or source.exists() else "not there any more"
    tile = Image.new("RGB", size, REST)
    draw_lines(ImageDraw.Draw(tile), (6, size[1] // 2 - 20), wrap(reason, size[0] - 12, 12), 12, SOFT)
    return tile


def draw_frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], verdict: Verdict) -> None:
    """Frame a picture by its verdict, outside ``box`` (left, top, right, bottom), and mark it in a corner.

    Right: solid with a tick in a disc. Wrong: dashed with a cross in a square. Unknown: solid grey without a mark.
    """
    colour = FRAME_COLOURS[verdict]
    left, top, right, bottom = box
    outer = (left - FRAME, top - FRAME, right + FRAME - 1, bottom + FRAME - 1)
    draw.rectangle(outer, outline=colour, width=FRAME)
    if verdict == "wrong":
        for y in range(outer[1] + _DASH, outer[3] - _DASH, 2 * _DASH):
            gap = (y, min(y + _DASH // 2, outer[3] - FRAME))
            draw.rectangle((outer[0], gap[0], left - 1, gap[1]), fill=PAPER)
            draw.rectangle((right, gap[0], outer[2], gap[1]), fill=PAPER)
    if verdict != "unknown":
        _draw_mark(draw, (right - _MARK - 4, top + 4), verdict, colour)


def draw_bar(draw: ImageDraw.ImageDraw, at: tuple[int, int], size: tuple[int, int], share: float) -> None:
    """A horizontal bar, ``share`` of it (0 to 1) filled."""
    (left, top), (width, height) = at, size
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=REST)
    filled = round(width * min(max(share, 0.0), 1.0))
    if filled:
        draw.rectangle((left, top, left + filled - 1, top + height - 1), fill=BAR)


def _draw_mark(draw: ImageDraw.ImageDraw, at: tuple[int, int], verdict: Verdict, colour: Colour) -> None:
    x, y = at
    box = (x, y, x + _MARK, y + _MARK)
    if verdict == "right":
        draw.ellipse(box, fill=colour, outline=PAPER)
        draw.line([(x + 5, y + 10), (x + 9, y + 14), (x + 15, y + 6)], fill=PAPER, width=3)
    else:
        draw.rectangle(box, fill=colour, outline=PAPER)
        draw.line([(x + 5, y + 5), (x + 15, y + 15)], fill=PAPER, width=3)
        draw.line([(x + 5, y + 15), (x + 15, y + 5)], fill=PAPER, width=3)


def _width(text: str, size: int) -> float:
    return font(size).getlength(text)
