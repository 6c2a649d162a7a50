"""Attention as a figure: the picture under each coarse token and the words coloured, all on one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tbps_infer.explain.attention import Attention
from tbps_infer.images import load_rgb
from tbps_infer.render import canvas

__all__ = ["draw_attention", "overlay"]

_THUMB = (96, 288)
_MARGIN = 20
_COLUMN = 230
_SIZE = 14
_HEAD = 18
_HOT = np.array([214, 69, 24], np.float32)


def draw_attention(picture: Path | bytes, attention: Attention) -> Image.Image:
    """The upper row: a coarse token each, on the picture and on the words; the lower: stripe k with token k's words.

    Colours tell the multiple of even attention, from white at 0 to full orange at the figure's largest value.
    """
    crop = _resized(picture, _THUMB)
    top = float(max(attention.image.max(), attention.coarse.max(), attention.parts.max()))
    columns = max(len(attention.coarse), 3)
    text_lines = sum(len(word) for word in attention.words) // 24 + 3
    upper = _THUMB[1] + _HEAD * 2 + text_lines * 22
    parts = len(attention.parts)
    stripe = max(_THUMB[1] * 2 // parts, 66)
    width = _MARGIN * 2 + columns * _COLUMN
    image = Image.new("RGB", (width, _MARGIN * 3 + upper + 40 + parts * stripe + 40), canvas.PAPER)
    draw = ImageDraw.Draw(image)
    for token, (cells, weights) in enumerate(zip(attention.image, attention.coarse, strict=True)):
        left, y = _MARGIN + token * _COLUMN, _MARGIN
        canvas.draw_lines(draw, (left, y), [f"coarse token {token}"], _HEAD - 3, canvas.SOFT)
        image.paste(overlay(crop, cells, top), (left, y + _HEAD + 8))
        _draw_words(draw, (left, y + _HEAD + 16 + _THUMB[1]), _COLUMN - 20, attention.words, weights / top)
    y = _MARGIN * 2 + upper
    canvas.draw_lines(draw, (_MARGIN, y), ["stripe k, and what text token k reads"], _HEAD - 3, canvas.SOFT)
    large = _resized(picture, (stripe * parts // 3, stripe * parts))
    for k, weights in enumerate(attention.parts):
        row = y + 30 + k * stripe
        image.paste(large.crop((0, k * stripe, large.width, (k + 1) * stripe - 3)), (_MARGIN, row))
        _draw_words(
            draw,
            (_MARGIN + large.width + 24, row + 8),
            width - large.width - 3 * _MARGIN,
            attention.words,
            weights / top,
        )
    _draw_scale(draw, (_MARGIN, image.height - 34), top)
    return image


def overlay(crop: Image.Image, cells: NDArray[np.float32], top: float) -> Image.Image:
    """A crop, greyed and stained where a token reads: cells ``[rows, columns]`` upsampled, ``top`` full colour."""
    shares = Image.fromarray((cells / top).astype(np.float32)).resize(crop.size, Image.Resampling.BICUBIC)
    strength = np.sqrt(np.clip(np.asarray(shares), 0, 1))[..., None]
    grey = np.asarray(crop.convert("L").convert("RGB"), np.float32) * 0.7 + 255 * 0.3
    return Image.fromarray(np.rint(grey * (1 - 0.85 * strength) + _HOT * 0.85 * strength).astype(np.uint8))


def _draw_words(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    width: int,
    words: tuple[str, ...],
    shares: NDArray[np.float32],
) -> None:
    x, y = at
    for word, share in zip(words, shares, strict=True):
        (text, *_) = canvas.wrap(word, width, _SIZE, most=1) or [""]
        wide = round(canvas.font(_SIZE).getlength(text))
        if x > at[0] and x + wide > at[0] + width:
            x, y = at[0], y + 22
        draw.rectangle((x - 2, y - 1, x + wide + 2, y + 18), fill=_tint(float(share)))
        draw.text((x, y), text, fill=canvas.INK, font=canvas.font(_SIZE))
        x += wide + 6


def _tint(share: float) -> tuple[int, int, int]:
    strength = 0.85 * min(max(share, 0.0), 1.0) ** 0.5
    red, green, blue = (round(255 * (1 - strength) + float(hot) * strength) for hot in _HOT)
    return red, green, blue


def _resized(picture: Path | bytes, size: tuple[int, int]) -> Image.Image:
    return load_rgb(picture, lambda image: image.resize(size, Image.Resampling.LANCZOS))


def _draw_scale(draw: ImageDraw.ImageDraw, at: tuple[int, int], top: float) -> None:
    x, y = at
    draw.text((x, y), "0", fill=canvas.SOFT, font=canvas.font(12))
    for step in range(160):
        draw.line((x + 14 + step, y, x + 14 + step, y + 14), fill=_tint(step / 159))
    draw.text((x + 182, y), f"{top:.1f} times even attention", fill=canvas.SOFT, font=canvas.font(12))
