"""The colours of garments, hair and skin. A name is an attribute; the shade of one garment varies around it."""

from __future__ import annotations

import random
from collections.abc import Mapping

__all__ = ["COLOURS", "HAIR_COLOURS", "RGB", "SKIN_TONES", "contrasting", "scaled", "shade_of"]

RGB = tuple[int, int, int]

COLOURS: Mapping[str, RGB] = {
    "black": (26, 26, 30),
    "white": (240, 240, 238),
    "grey": (132, 134, 138),
    "navy": (28, 38, 88),
    "blue": (38, 88, 196),
    "light blue": (138, 188, 234),
    "red": (204, 28, 36),
    "burgundy": (108, 20, 42),
    "pink": (244, 140, 178),
    "orange": (242, 122, 24),
    "yellow": (246, 212, 48),
    "green": (34, 142, 68),
    "olive": (92, 98, 48),
    "brown": (108, 66, 38),
    "beige": (212, 192, 150),
    "purple": (116, 52, 156),
}

HAIR_COLOURS: Mapping[str, RGB] = {
    "black": (24, 20, 20),
    "brown": (82, 50, 30),
    "blonde": (208, 168, 92),
    "grey": (158, 156, 154),
    "red": (150, 62, 28),
}

SKIN_TONES: tuple[RGB, ...] = (
    (240, 204, 178),
    (228, 182, 148),
    (204, 152, 114),
    (162, 110, 76),
    (110, 72, 50),
)


def scaled(colour: RGB, factor: float) -> RGB:
    """The colour made darker (factor < 1) or lighter, cut off at 255."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


def shade_of(rng: random.Random, colour: RGB, spread: float = 0.07) -> RGB:
    """One garment's own shade of a named colour: brightness and each channel move a little."""
    bright = 1 + rng.uniform(-spread, spread)
    red, green, blue = (
        max(0, min(255, round(channel * bright + rng.uniform(-60, 60) * spread))) for channel in colour
    )
    return red, green, blue


def contrasting(colour: str) -> str:
    """White for dark colours, black for light ones: the colour of a logo's ink or a shoe's sole."""
    red, green, blue = COLOURS[colour]
    return "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 140 else "white"
