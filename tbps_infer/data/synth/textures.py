"""Patterns as textures: stripes, checks and dots that follow the body's width, bold enough for a 96-pixel crop."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from tbps_infer.data.synth.canvas import Canvas, Paint
from tbps_infer.data.synth.palette import RGB

__all__ = ["pattern_paint"]

_PERIOD = 0.046


def pattern_paint(canvas: Canvas, pattern: str, base: RGB, second: RGB, rng: Random) -> Paint:
    """The paint of a garment: its plain colour, or a texture for striped, checked and dotted ones."""
    if pattern not in ("striped", "checked", "dotted"):
        return base
    image = Image.new("RGB", canvas.large, base)
    draw = ImageDraw.Draw(image)
    period = _PERIOD * rng.uniform(0.9, 1.15) * canvas.framing.unit * canvas.supersampling
    phase = canvas.framing.top * canvas.supersampling + rng.uniform(0, period)
    if pattern == "striped":
        _stripes(draw, canvas.large, period, phase, second)
    elif pattern == "checked":
        _checks(draw, canvas.large, period * 1.1, phase, base, second)
    else:
        _dots(draw, canvas.large, period, phase, second)
    return image


def _bands(length: int, period: float, phase: float) -> list[float]:
    count = int(length / period) + 3
    return [phase % period + (i - 1) * period for i in range(count)]


def _stripes(draw: ImageDraw.ImageDraw, size: tuple[int, int], period: float, phase: float, second: RGB) -> None:
    width, height = size
    sag = 0.18 * period
    for y in _bands(height, period, phase):
        top = [(0, y - sag), (width / 2, y + sag), (width, y - sag)]
        draw.polygon([*top, *((x, v + 0.46 * period) for x, v in reversed(top))], fill=second)


def _checks(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], period: float, phase: float, base: RGB, second: RGB
) -> None:
    width, height = size
    mixed = tuple(round(0.5 * a + 0.5 * b) for a, b in zip(base, second, strict=True))
    rows = _bands(height, period, phase)
    columns = _bands(width, period, width / 2 + period * 0.25)
    thick = 0.5 * period
    for y in rows:
        draw.rectangle([0, y, width, y + thick], fill=mixed)
    for x in columns:
        draw.rectangle([x, 0, x + thick, height], fill=mixed)
    for y in rows:
        for x in columns:
            draw.rectangle([x, y, x + thick, y + thick], fill=second)


def _dots(draw: ImageDraw.ImageDraw, size: tuple[int, int], period: float, phase: float, second: RGB) -> None:
    width, height = size
    radius = 0.29 * period
    for row, y in enumerate(_bands(height, period * 0.86, phase)):
        for x in _bands(width, period, width / 2 + (row % 2) * period / 2):
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=second)
