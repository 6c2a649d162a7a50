"""What is around the person: backgrounds by family, things in front, and the camera's own marks on the picture."""

from __future__ import annotations

import io
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tbps_infer.data.synth.canvas import Framing, oval_points
from tbps_infer.data.synth.palette import COLOURS, RGB, scaled, shade_of
from tbps_infer.data.synth.shots import Camera, Shot
from tbps_infer.data.synth.streams import pixel_stream

__all__ = ["SCENERY", "draw_background", "draw_occluder", "expose", "graded", "smooth_noise", "to_jpeg"]

# Wall or sky, ground, and the colours of the clutter between them.
SCENERY: dict[str, tuple[RGB, RGB, tuple[RGB, ...]]] = {
    "street": ((168, 166, 162), (128, 126, 124), ((92, 96, 104), (150, 70, 60), (70, 90, 120), (196, 190, 176))),
    "park": ((120, 148, 92), (150, 144, 118), ((62, 98, 48), (90, 124, 60), (112, 84, 58), (48, 76, 44))),
    "corridor": (
        (196, 190, 172),
        (158, 150, 136),
        ((222, 218, 206), (140, 132, 116), (104, 98, 90), (178, 160, 128)),
    ),
    "plaza": ((188, 196, 204), (174, 172, 168), ((146, 150, 158), (206, 208, 210), (120, 126, 136), (96, 112, 104))),
    "shop": ((206, 186, 160), (186, 172, 152), ((170, 60, 50), (220, 190, 90), (90, 120, 150), (240, 236, 226))),
    "garage": ((104, 108, 108), (84, 86, 86), ((60, 64, 66), (140, 142, 138), (168, 150, 60), (44, 46, 48))),
}


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> NDArray[np.float32]:
    """Smooth noise in about -1..1, float32 [height, width, 1]."""
    coarse = rng.integers(0, 256, size=(cells[1], cells[0]), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return (np.asarray(smooth, dtype=np.float32)[..., None] - 127.5) / 127.5


def draw_background(shot: Shot, rng: Random) -> NDArray[np.float32]:
    """The crop without the person, float32 [height, width, 3] in 0..255."""
    size = (shot.width, shot.height)
    wall, ground, clutter = SCENERY[shot.camera.scene]
    image = Image.new("RGB", size, shade_of(rng, wall, 0.14))
    draw = ImageDraw.Draw(image)
    horizon = shot.height * rng.uniform(0.3, 0.72)
    tilt = rng.uniform(-0.12, 0.12) * shot.width
    floor = shade_of(rng, ground, 0.14)
    for _ in range(rng.randint(2, 7)):
        _draw_clutter(draw, size, horizon, shade_of(rng, rng.choice(clutter), 0.15), rng)
    draw.polygon([(0, horizon - tilt), (shot.width, horizon + tilt), size, (0, shot.height)], fill=floor)
    if shot.camera.scene in ("street", "corridor", "plaza", "garage", "shop"):
        for _ in range(rng.randint(0, 3)):
            y = rng.uniform(horizon, shot.height)
            bend = rng.uniform(-0.4, 0.4) * shot.width
            draw.line(
                [(0, y - bend), (shot.width, y + bend)],
                fill=scaled(floor, rng.choice((0.82, 1.16))),
                width=rng.randint(1, 4),
            )
    if rng.random() < 0.22:
        _draw_bystander(draw, size, rng)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2.4) * shot.height / 256))
    _draw_shadow(image, shot, rng)
    pixels = np.asarray(image, dtype=np.float32)
    noise = pixel_stream(rng)
    grain = smooth_noise(noise, size, (6, 14)) * 14 + smooth_noise(noise, size, (24, 60)) * 6
    return np.asarray(np.clip(pixels + grain, 0, 255), dtype=np.float32)


def _draw_clutter(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: float, colour: RGB, rng: Random) -> None:
    width, height = size
    x, half = rng.uniform(-0.1, 1.1) * width, rng.uniform(0.05, 0.3) * width
    top = rng.uniform(-0.1, 0.9) * horizon
    bottom = horizon + rng.uniform(0, 0.04) * height
    if rng.random() < 0.3:
        draw.ellipse([x - half, top, x + half, top + rng.uniform(0.5, 2.5) * half], fill=colour)
    else:
        draw.rectangle([x - half, top, x + half, bottom], fill=colour)
        if rng.random() < 0.5:
            step = max(3.0, 0.04 * height)
            y = top + step
            while y < bottom:
                draw.line([(x - half, y), (x + half, y)], fill=scaled(colour, 0.82), width=1)
                y += step


def _draw_bystander(draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: Random) -> None:
    """Somebody small and far away, as dark shapes."""
    width, height = size
    tall = rng.uniform(0.18, 0.42) * height
    x, top = rng.choice((rng.uniform(0.0, 0.22), rng.uniform(0.78, 1.0))) * width, rng.uniform(0.05, 0.35) * height
    coat, legs = (
        shade_of(rng, COLOURS[rng.choice(("black", "grey", "navy", "white", "red", "blue"))]) for _ in range(2)
    )
    draw.rectangle([x - tall * 0.08, top + tall * 0.5, x + tall * 0.08, top + tall], fill=legs)
    draw.rounded_rectangle(
        [x - tall * 0.13, top + tall * 0.15, x + tall * 0.13, top + tall * 0.55], tall * 0.05, fill=coat
    )
    draw.ellipse([x - tall * 0.06, top, x + tall * 0.06, top + tall * 0.16], fill=(150, 112, 90))


def _draw_shadow(image: Image.Image, shot: Shot, rng: Random) -> None:
    """The person's shadow on the ground."""
    mask = Image.new("L", image.size)
    foot = (shot.top + shot.figure * 0.985) * shot.height
    unit = shot.figure * shot.height
    middle = shot.width * (0.5 + shot.shift) - shot.camera.light * 0.07 * unit
    outline = oval_points((middle, foot), (0.13 + 0.08 * abs(shot.camera.light)) * unit, 0.018 * unit)
    ImageDraw.Draw(mask).polygon(outline, fill=round(rng.uniform(70, 140)))
    image.paste((20, 20, 24), (0, 0), mask.filter(ImageFilter.GaussianBlur(0.008 * unit)))


def draw_occluder(image: Image.Image, shot: Shot, framing: Framing, rng: Random) -> None:
    """Put the shot's obstacle in front of the person, at the edge or below the knee."""
    if shot.occluder == "none":
        return
    width, height = image.size
    draw = ImageDraw.Draw(image)
    edge = 0.0 if shot.occluder_side < 0 else float(width)
    if shot.occluder == "pole":
        x = edge - shot.occluder_side * rng.uniform(0.06, 0.26) * width
        half = rng.uniform(0.02, 0.045) * width
        grey = scaled((120, 122, 126), rng.uniform(0.4, 1.3))
        draw.rectangle([x - half, 0, x + half, height], fill=grey)
        draw.rectangle([x - half, 0, x - half * 0.3, height], fill=scaled(grey, 0.8))
    elif shot.occluder == "railing":
        y = framing.top + framing.unit * rng.uniform(0.76, 0.84)
        tone = scaled((150, 152, 156), rng.uniform(0.5, 1.2))
        # To a full height below its top: a close crop can put the railing's lower edge beneath the picture.
        draw.rectangle([0, y, width, y + height], fill=scaled(tone, 0.7))
        draw.rectangle([0, y, width, y + 0.03 * height], fill=tone)
    elif shot.occluder == "passer-by":
        x, half = edge + shot.occluder_side * 0.02 * width, rng.uniform(0.14, 0.24) * width
        top = rng.uniform(0.12, 0.22) * height
        coat = shade_of(rng, COLOURS[rng.choice(("black", "grey", "navy", "white", "brown", "blue"))])
        legs = shade_of(rng, COLOURS[rng.choice(("black", "navy", "grey", "beige"))])
        draw.rectangle([x - half * 0.7, top + 0.35 * height, x + half * 0.7, height], fill=legs)
        draw.rounded_rectangle([x - half, top, x + half, top + 0.42 * height], half * 0.4, fill=coat)
        draw.ellipse([x - half * 0.5, top - 0.13 * height, x + half * 0.5, top], fill=(60, 44, 36))
    else:
        for _ in range(60):
            x, y = rng.uniform(0, 1) * width, height * (1 - rng.uniform(0, 0.15))
            r = rng.uniform(0.01, 0.028) * height
            green = scaled((64, 104, 48), rng.uniform(0.6, 1.35))
            draw.ellipse([x - r, y - r * 0.7, x + r, y + r * 0.7], fill=green)


def graded(scene: NDArray[np.float32], camera: Camera, brightness: float) -> NDArray[np.float32]:
    """The colours as a camera gives them, not yet cut off at 0 and 255: saturation, white balance, contrast."""
    grey = (scene[..., :1] + scene[..., 1:2] + scene[..., 2:]) / np.float32(3)
    pixels = grey + (scene - grey) * np.float32(camera.saturation)
    gains = np.asarray(camera.gains, dtype=np.float32) * np.float32(camera.brightness * brightness)
    return np.asarray((pixels * gains - 128) * np.float32(camera.contrast) + 128, dtype=np.float32)


def expose(scene: NDArray[np.float32], shot: Shot, rng: Random) -> Image.Image:
    """What the camera makes of the light: cast, contrast, saturation, lost detail, motion blur, noise.

    The noise is grey: JPEG's halved chroma would wipe out coloured noise anyway.
    """
    camera = shot.camera
    pixels = graded(scene, camera, shot.brightness)
    slope = np.linspace(1 - 0.1 * camera.light, 1 + 0.1 * camera.light, shot.width, dtype=np.float32)
    pixels = pixels * slope[None, :, None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if shot.detail < 0.98:
        small = (max(1, round(shot.width * shot.detail)), max(1, round(shot.height * shot.detail)))
        image = image.resize(small, Image.Resampling.BILINEAR).resize(
            (shot.width, shot.height), Image.Resampling.BICUBIC
        )
    if shot.motion > 0.35:
        image = image.filter(ImageFilter.BoxBlur((shot.motion * shot.height / 256, 0)))
    noise = pixel_stream(rng).standard_normal((shot.height, shot.width, 1), dtype=np.float32) * np.float32(
        camera.noise
    )
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + noise + 0.5, 0, 255).astype(np.uint8))


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode as baseline JPEG with 4:2:0 chroma, as cameras do."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()
