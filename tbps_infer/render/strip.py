"""A query with its hits as a picture: the sentence at the left, framed thumbnails, and what each score is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from tbps_infer.layout import VectorLayout
from tbps_infer.render import canvas
from tbps_infer.render.marks import NOTHING_FOUND, Verdict, verdict
from tbps_infer.render.printable import printable_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tbps_infer.gallery import Filter, Hit, SearchableGallery

__all__ = ["LABEL_WIDTH", "MARGIN", "THUMB", "Shown", "Strip", "best_right", "draw_strip", "shown", "tile_left"]

THUMB = (96, 288)
"""Width and height of a thumbnail in pixels, 1:3 as person crops are."""

MARGIN = 16
LABEL_WIDTH = 220
_BARS = 34
_GAP = 14
_BREAK = 26
_UNDER = 62
_TEXT = 16
_SMALL = 12


@dataclass(frozen=True)
class Shown:
    """One picture of a strip.

    Attributes:
        picture: The file, or a crop as JPEG.
        rank: From 1.
        score: Its similarity with the query.
        verdict: Whether it is the person wanted.
        split: The score's shares by segment; empty when not known.
    """

    picture: Path | bytes
    rank: int
    score: float
    verdict: Verdict
    split: Mapping[str, float]


@dataclass(frozen=True)
class Strip:
    """One query of a sheet.

    Attributes:
        label: The sentence, or the picture's name.
        hits: Best first.
        truth: The best right picture where none of the hits is right: the failure layout.
        picture: The query, where it is a picture.
        warnings: What the model cannot read of the query, and why there are no hits.
    """

    label: str
    hits: tuple[Shown, ...]
    truth: Shown | None = None
    picture: Path | None = None
    warnings: tuple[str, ...] = ()


def shown(hit: Hit, rank: int, wanted: str | None) -> Shown:
    """A hit of a gallery as a picture of a strip."""
    return Shown(hit.picture, rank, hit.score, verdict(hit.metadata, wanted), hit.split)


def best_right(
    gallery: SearchableGallery, query: NDArray[np.floating[Any]], person: str, where: Filter
) -> Shown | None:
    """The best picture of a person among those that pass a filter, with its rank in the whole of them.

    Args:
        gallery: Where to look.
        query: Float ``[1, dim]``.
        person: The ``id`` in the metadata.
        where: The filter of the search.

    Returns:
        The picture; None where the person has none that passes.
    """
    from tbps_infer.gallery import SearchOptions

    vector = query.astype("float32")
    if "id" not in gallery.columns or (where.id and person not in where.id):
        return None
    own = gallery.search(vector, 1, replace(where, id=(person,)), SearchOptions("exact", crops=True))[0]
    if not own:
        return None
    ahead = gallery.search(vector, gallery.count, where, SearchOptions("exact", min_score=own[0].score))[0]
    rank = 1 + sum(hit.score > own[0].score for hit in ahead)
    return Shown(own[0].picture, rank, own[0].score, "right", own[0].split)


def tile_left(index: int, layout: VectorLayout) -> int:
    """The left edge, in pixels, of the ``index``-th thumbnail of a strip."""
    bars = _BARS if _parts(layout) else 0
    return MARGIN + LABEL_WIDTH + _GAP + canvas.FRAME + index * (THUMB[0] + 2 * canvas.FRAME + bars + _GAP)


def draw_strip(strip: Strip, layout: VectorLayout, places: int) -> Image.Image:
    """Draw a query and its hits.

    Args:
        strip: The query.
        layout: The model's. Each part's bar lies beside the stripe of rows that it covers; other segments' bars lie
            below the picture.
        places: Thumbnails to leave room for, the truth of a failure not counted, so that strips line up.

    Returns:
        An RGB image; strips of equal ``places`` and ``layout`` have equal widths.
    """
    whole = [segment.name for segment in layout.segments if segment.name not in _parts(layout)]
    under = _UNDER + 14 * (len(whole) if len(layout.segments) > 1 else 0)
    height = MARGIN + canvas.FRAME + THUMB[1] + canvas.FRAME + under
    lines = canvas.wrap(strip.label, LABEL_WIDTH, _TEXT, most=_label_lines(strip, height))
    image = Image.new("RGB", (tile_left(places + 1, layout) + _BREAK + MARGIN, height), canvas.PAPER)
    draw = ImageDraw.Draw(image)
    top = MARGIN + canvas.FRAME
    if strip.picture is not None:
        size = (THUMB[0] // 2, THUMB[1] // 2)
        image.paste(canvas.thumbnail(strip.picture, size), (MARGIN, top))
        canvas.draw_lines(draw, (MARGIN, top + size[1] + 8), lines, _TEXT)
    else:
        canvas.draw_lines(draw, (MARGIN, top), lines, _TEXT)
    if not strip.hits:
        reason = canvas.wrap(strip.warnings[-1] if strip.warnings else NOTHING_FOUND, 5 * THUMB[0], _TEXT, most=8)
        canvas.draw_lines(draw, (tile_left(0, layout), top), reason, _TEXT, canvas.SOFT)
    for index, hit in enumerate(strip.hits):
        _draw_tile(image, draw, (tile_left(index, layout), top), hit, layout)
    if strip.truth is not None:
        left = tile_left(places, layout) + _BREAK
        _draw_break(draw, left - canvas.FRAME - _BREAK // 2 - _GAP // 2, top)
        _draw_tile(image, draw, (left, top), strip.truth, layout)
        canvas.draw_lines(draw, (left, top + THUMB[1] + under - 24), ["best right one"], _SMALL, canvas.SOFT)
    return image


def _draw_tile(
    image: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], hit: Shown, layout: VectorLayout
) -> None:
    left, top = at
    image.paste(canvas.thumbnail(hit.picture, THUMB), at)
    canvas.draw_frame(draw, (left, top, left + THUMB[0], top + THUMB[1]), hit.verdict)
    below = top + THUMB[1] + canvas.FRAME + 4
    draw.text((left, below), f"{hit.rank}", fill=canvas.INK, font=canvas.font(_TEXT))
    draw.text((left + THUMB[0], below), f"{hit.score:.3f}", fill=canvas.SOFT, font=canvas.font(_TEXT), anchor="ra")
    if not hit.split or len(layout.segments) == 1:
        return
    parts = _parts(layout)
    weights = {segment.name: segment.weight for segment in layout.segments}
    for k, name in enumerate(parts):
        stripe = (top + k * THUMB[1] // len(parts), top + (k + 1) * THUMB[1] // len(parts))
        beside = (left + THUMB[0] + canvas.FRAME + 2, (stripe[0] + stripe[1]) // 2 - 5)
        canvas.draw_bar(draw, beside, (_BARS - 4, 10), hit.split[name] / weights[name])
    for row, name in enumerate(name for name in weights if name not in parts):
        y = below + 24 + 14 * row
        draw.text((left, y), printable_line(name)[:8], fill=canvas.SOFT, font=canvas.font(_SMALL))
        canvas.draw_bar(draw, (left + 50, y + 2), (THUMB[0] - 50, 10), hit.split[name] / weights[name])


def _draw_break(draw: ImageDraw.ImageDraw, x: int, top: int) -> None:
    """Three dots: ranks are left out here."""
    for step in (-10, 0, 10):
        y = top + THUMB[1] // 2 + step
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=canvas.SOFT)


def _label_lines(strip: Strip, height: int) -> int:
    room = height - MARGIN - canvas.FRAME - (THUMB[1] // 2 + 8 if strip.picture else 0)
    return max(room // canvas.line_height(_TEXT) - 1, 1)


def _parts(layout: VectorLayout) -> Sequence[str]:
    """The segments that are stripes of the picture, from the top: ``fine.0`` and so on."""
    return [name for name in layout.names if name.startswith("fine.")]
