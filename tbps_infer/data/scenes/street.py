"""What does not move: the wall, the ground, what people disappear behind, and the light on all of it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tbps_infer.data.scenes.view import View
from tbps_infer.data.synth.palette import COLOURS, RGB, scaled, shade_of
from tbps_infer.data.synth.scene import SCENERY, graded, smooth_noise
from tbps_infer.data.synth.streams import pixel_stream

__all__ = ["Obstacle", "draw_light", "draw_obstacles", "draw_street", "exposed"]

_SHARP = 2
"""Obstacles are drawn this many times larger and reduced, for smooth edges."""


@dataclass(frozen=True)
class Obstacle:
    """Something that stands on the ground.

    Attributes:
        distance: In metres; what is farther away disappears behind it.
        image: RGBA, as the camera shows it in full light.
        left: The image's first column in the picture.
        top: Its first row.
    """

    distance: float
    image: Image.Image
    left: int
    top: int


def exposed(pixels: NDArray[np.float32], view: View) -> NDArray[np.uint8]:
    """The camera's colours for those of the scene, in daylight: uint8 for float32, [height, width, 3]."""
    return np.clip(graded(pixels, view.camera, 1.0), 0, 255).astype(np.uint8)


def draw_street(view: View, rng: Random) -> NDArray[np.uint8]:
    """The wall and the ground as the camera shows them in full light, uint8 [height, width, 3]."""
    wall, ground, clutter = SCENERY[view.camera.scene]
    image = Image.new("RGB", (view.width, view.height), shade_of(rng, wall, 0.14))
    draw = ImageDraw.Draw(image)
    _draw_wall(draw, view, clutter, rng)
    _draw_ground(draw, view, shade_of(rng, ground, 0.14), rng)
    image = image.filter(ImageFilter.GaussianBlur(0.002 * view.height))
    noise, size = pixel_stream(rng), (view.width, view.height)
    grain = smooth_noise(noise, size, (24, 14)) * 10 + smooth_noise(noise, size, (120, 68)) * 6
    return exposed(np.asarray(image, dtype=np.float32) + grain, view)


def _draw_wall(draw: ImageDraw.ImageDraw, view: View, clutter: tuple[RGB, ...], rng: Random) -> None:
    """Windows or bushes in irregular columns, and a door wherever people come out."""
    metre = view.scale(view.wall)
    _, base = view.ground(0, view.wall)
    x = -view.edge(view.wall)
    while x < view.edge(view.wall):
        wide, low, high = rng.uniform(0.8, 2.6), rng.uniform(0.0, 1.2), rng.uniform(1.8, 3.4)
        left, _ = view.ground(x, view.wall)
        colour = shade_of(rng, rng.choice(clutter), 0.15)
        box = [left, base - high * metre, left + wide * metre, base - low * metre]
        if rng.random() < 0.25:
            draw.ellipse(box, fill=colour)
        else:
            draw.rectangle(box, fill=colour, outline=scaled(colour, 0.7))
        x += wide + rng.uniform(0.2, 1.4)
    for door in view.doors:
        left, _ = view.ground(door - 0.6, view.wall)
        draw.rectangle([left, base - 2.2 * metre, left + 1.2 * metre, base], fill=(38, 36, 36))


def _draw_ground(draw: ImageDraw.ImageDraw, view: View, floor: RGB, rng: Random) -> None:
    """The ground with its joints, which run along and across the street, and a few patches."""
    _, base = view.ground(0, view.wall)
    draw.rectangle([0, base, view.width, view.height], fill=floor)
    for _ in range(rng.randint(2, 6)):
        x, z = rng.uniform(-6, 6), rng.uniform(3, view.wall)
        column, row = view.ground(x, z)
        wide, high = rng.uniform(0.3, 1.5) * view.scale(z), 0.12 * view.scale(z)
        draw.ellipse(
            [column - wide, row - high, column + wide, row + high], fill=scaled(floor, rng.uniform(0.8, 1.1))
        )
    joint = scaled(floor, rng.choice((0.82, 0.9, 1.12)))
    step = rng.uniform(1.0, 2.4)
    for number in range(1, 12):
        _, row = view.ground(0, 1.5 + number * step)
        draw.line([(0, row), (view.width, row)], fill=joint)
    for number in range(-8, 9):
        far, near = view.ground(number * step, view.wall), view.ground(number * step, 1.5)
        draw.line([far, near], fill=joint)


def draw_obstacles(view: View, rng: Random) -> list[Obstacle]:
    """Two to four of: a post, a tree, a kiosk, a bush, a parked car."""
    kinds = rng.sample(("post", "tree", "kiosk", "bush", "car"), rng.randint(2, 4))
    return [_draw_obstacle(view, kind, rng) for kind in kinds]


_FOOTPRINTS = {"post": (0.16, 5.0), "tree": (2.6, 5.0), "kiosk": (1.1, 1.9), "bush": (1.8, 0.9), "car": (4.1, 1.45)}
"""Width and height in metres."""


def _draw_obstacle(view: View, kind: str, rng: Random) -> Obstacle:
    z = rng.uniform(7.5, 11.0) if kind == "car" else rng.uniform(4.5, 9.5)
    x = rng.uniform(-0.85, 0.85) * view.edge(z)
    metre = view.scale(z)
    column, row = view.ground(x, z)
    wide, high = (max(2, round(length * metre)) for length in _FOOTPRINTS[kind])
    image = Image.new("RGBA", (wide * _SHARP, high * _SHARP))
    _DRAWN[kind](ImageDraw.Draw(image), wide * _SHARP, high * _SHARP, rng)
    image = image.reduce(_SHARP)
    colours = exposed(np.asarray(image.convert("RGB"), dtype=np.float32), view)
    seen = Image.fromarray(colours)
    seen.putalpha(image.getchannel("A"))
    return Obstacle(z, seen, round(column - wide / 2), round(row - high))


def _post(draw: ImageDraw.ImageDraw, width: int, height: int, rng: Random) -> None:
    grey = scaled((120, 122, 126), rng.uniform(0.4, 1.3))
    draw.rectangle([0, 0, width, height], fill=grey)
    draw.rectangle([0, 0, width * 0.35, height], fill=scaled(grey, 0.8))


def _tree(draw: ImageDraw.ImageDraw, width: int, height: int, rng: Random) -> None:
    bark = scaled((92, 70, 52), rng.uniform(0.7, 1.2))
    draw.rectangle([width * 0.44, height * 0.3, width * 0.56, height], fill=bark)
    _leaves(draw, (0.0, 0.0, width, height * 0.52), width * 0.12, rng)


def _bush(draw: ImageDraw.ImageDraw, width: int, height: int, rng: Random) -> None:
    draw.rounded_rectangle([width * 0.04, height * 0.25, width * 0.96, height], height * 0.2, fill=(52, 84, 40))
    _leaves(draw, (0.0, 0.0, width, height), height * 0.16, rng)


def _leaves(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], size: float, rng: Random) -> None:
    left, top, right, bottom = box
    for _ in range(90):
        x, y, r = rng.uniform(left + size, right - size), rng.uniform(top, bottom), size * rng.uniform(0.5, 1.1)
        green = scaled((64, 104, 48), rng.uniform(0.6, 1.35))
        draw.ellipse([x - r, y - r * 0.7, x + r, y + r * 0.7], fill=green)


def _kiosk(draw: ImageDraw.ImageDraw, width: int, height: int, rng: Random) -> None:
    paint = shade_of(rng, COLOURS[rng.choice(("green", "burgundy", "navy", "grey", "beige"))])
    draw.rectangle([0, 0, width, height], fill=paint)
    draw.rectangle([width * 0.12, height * 0.12, width * 0.88, height * 0.62], fill=scaled(paint, 1.4))
    draw.rectangle([0, 0, width, height * 0.06], fill=scaled(paint, 0.6))


def _car(draw: ImageDraw.ImageDraw, width: int, height: int, rng: Random) -> None:
    paint = shade_of(rng, COLOURS[rng.choice(("white", "black", "grey", "red", "blue", "navy"))])
    roof = [(0.2, 0.42), (0.32, 0.02), (0.74, 0.02), (0.88, 0.42)]
    glass = [(0.25, 0.4), (0.345, 0.1), (0.72, 0.1), (0.83, 0.4)]
    draw.polygon([(x * width, y * height) for x, y in roof], fill=paint)
    draw.polygon([(x * width, y * height) for x, y in glass], fill=(52, 60, 70))
    draw.rounded_rectangle([0, height * 0.38, width, height * 0.86], height * 0.14, fill=paint)
    for middle in (0.2, 0.8):
        x, r = middle * width, height * 0.22
        draw.ellipse([x - r, height - 2 * r, x + r, height], fill=(24, 24, 26))
        draw.ellipse([x - r * 0.5, height - 1.5 * r, x + r * 0.5, height - 0.5 * r], fill=(150, 152, 156))


_DRAWN = {"post": _post, "tree": _tree, "kiosk": _kiosk, "bush": _bush, "car": _car}


def draw_light(view: View, rng: Random) -> NDArray[np.float32]:
    """What the light leaves of every pixel, float32 [height, width, 3] in 0..1; at dusk blue, with lamps on."""
    across = np.linspace(-1, 1, view.width, dtype=np.float32)[None, :, None]
    down = np.linspace(0, 1, view.height, dtype=np.float32)[:, None, None]
    light = np.broadcast_to(0.95 + 0.05 * view.camera.light * across, (view.height, view.width, 3))
    if view.dusk:
        light = light * np.asarray((0.50, 0.55, 0.70), dtype=np.float32)
        for _ in range(2):
            x, y = rng.uniform(-0.8, 0.8), rng.uniform(0.3, 0.8)
            pool = np.exp(-((across - x) ** 2 / 0.09 + (down - y) ** 2 / 0.07))
            light = light + pool * np.asarray((0.40, 0.33, 0.16), dtype=np.float32)
    return np.minimum(light, 1).astype(np.float32)
