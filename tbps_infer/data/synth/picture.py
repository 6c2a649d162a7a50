"""One picture of one identity, from plan to JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tbps_infer.data.synth.attributes import Person
from tbps_infer.data.synth.body import look_of
from tbps_infer.data.synth.figure import draw_figure, framing_of
from tbps_infer.data.synth.scene import draw_background, draw_occluder, expose, to_jpeg
from tbps_infer.data.synth.shots import Shot
from tbps_infer.data.synth.streams import stream

__all__ = ["DEFAULT_HEIGHT", "decoded", "draw_jpeg"]

DEFAULT_HEIGHT = 256


def draw_jpeg(person: Person, shot: Shot, seed: int, identity: int, picture: int) -> bytes:
    """Draw one crop and encode it; the bytes depend on the arguments and Pillow's version only."""
    rng = stream(seed, "pixels", identity, picture)
    background = draw_background(shot, rng)
    figure, cover = draw_figure(person, shot, look_of(seed, identity, person))
    scene = background + (figure - background) * cover
    image = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    draw_occluder(image, shot, framing_of(shot), rng)
    return to_jpeg(expose(np.asarray(image, dtype=np.float32), shot, rng), shot.quality)


def decoded(jpeg: bytes) -> Image.Image:
    """The picture in a JPEG, loaded, RGB."""
    return Image.open(io.BytesIO(jpeg)).convert("RGB")
