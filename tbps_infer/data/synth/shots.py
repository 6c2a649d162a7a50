"""How one picture is taken: camera, view, pose, framing, light and what is in the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from tbps_infer.data.synth.streams import pick, stream

__all__ = ["CAMERAS", "Camera", "Shot", "plan_shot"]


@dataclass(frozen=True)
class Camera:
    """A fixed camera: what it looks at and what it does to light.

    Attributes:
        name: Also the folder of its pictures.
        scene: The family of its backgrounds.
        gains: White balance, a factor per channel R G B.
        brightness: Factor on all channels.
        contrast: Factor on the distance from mid grey.
        saturation: 1 keeps colours, 0 removes them.
        light: Where the light comes from, -1 (left) to 1 (right).
        pitch: How far it looks down, in degrees.
        noise: Standard deviation of its sensor noise, in levels of 255.
        detail: Share of the crop's resolution it resolves, (least, most).
        quality: JPEG quality, (least, most).
    """

    name: str
    scene: str
    gains: tuple[float, float, float]
    brightness: float
    contrast: float
    saturation: float
    light: float
    pitch: float
    noise: float
    detail: tuple[float, float]
    quality: tuple[int, int]


CAMERAS: Mapping[str, Camera] = {
    camera.name: camera
    for camera in (
        Camera("cam_a", "street", (1.00, 1.00, 1.00), 1.04, 1.04, 1.00, -0.7, 7.0, 2.0, (0.75, 1.0), (82, 94)),
        Camera("cam_b", "park", (1.05, 1.02, 0.90), 1.05, 1.06, 1.10, 0.8, 9.0, 2.0, (0.65, 1.0), (80, 92)),
        Camera("cam_c", "corridor", (1.02, 1.03, 0.92), 0.97, 0.95, 0.92, 0.2, 14.0, 3.5, (0.5, 0.85), (70, 88)),
        Camera("cam_d", "plaza", (0.95, 1.00, 1.07), 1.02, 0.98, 0.92, -0.4, 11.0, 2.5, (0.6, 0.95), (76, 92)),
        Camera("cam_e", "shop", (1.07, 1.00, 0.92), 1.03, 0.98, 1.05, 0.5, 12.0, 3.0, (0.55, 0.9), (72, 90)),
        Camera("cam_f", "garage", (0.94, 1.02, 1.03), 0.86, 0.93, 0.84, -0.2, 13.0, 4.5, (0.45, 0.8), (66, 84)),
    )
}

_VIEWS = {"front": 36.0, "back": 30.0, "left": 17.0, "right": 17.0}
_OCCLUDERS = {"none": 80.0, "pole": 6.0, "foliage": 6.0, "passer-by": 5.0, "railing": 3.0}


@dataclass(frozen=True)
class Shot:
    """One picture's conditions. Lengths are shares of the crop's height unless they say otherwise.

    Attributes:
        width: Of the crop, in pixels.
        height: Of the crop, in pixels.
        yaw: Radians; 0 faces the camera, positive turns the face to the picture's right, pi shows the back.
        stride: Swing of the legs in radians, signed; near 0 stands.
        figure: The person's height.
        top: From the crop's upper edge to the top of the head.
        shift: Of the person's middle from the crop's, as a share of the crop's width.
        lean: Sideways shift of the head against the feet, as a share of the person's height.
        bow: How far the head looks down, 0 to 1.
        detail: Share of the crop's resolution that the camera resolves.
        occluder: "none" or what stands in front.
        occluder_side: -1 left, 1 right.
    """

    camera: Camera
    width: int
    height: int
    yaw: float
    stride: float
    arm_swing: float
    figure: float
    top: float
    shift: float
    lean: float
    bow: float
    brightness: float
    motion: float
    detail: float
    quality: int
    occluder: str
    occluder_side: int

    @property
    def facing(self) -> float:
        """1 when the person faces the camera, -1 when the back is shown, 0 from the side."""
        return math.cos(self.yaw)

    @property
    def walking(self) -> bool:
        """Whether the legs are far enough apart to say so."""
        return abs(self.stride) > 0.2

    @property
    def shows_feet(self) -> bool:
        """Whether the shoes are inside the crop and not covered."""
        return self.top + self.figure < 1.01 and self.occluder not in ("foliage", "railing")


def _draw_yaw(rng: Random) -> float:
    view = pick(rng, _VIEWS)
    if view == "front":
        return math.radians(rng.uniform(-20, 20))
    if view == "back":
        return math.radians(180 + rng.uniform(-32, 32))
    angle = rng.uniform(28, 68)
    return math.radians(-angle if view == "left" else angle)


def plan_shot(seed: int, identity: int, picture: int, height: int) -> Shot:
    """The conditions of picture `picture` (from 0) of `identity`, decided by these numbers and nothing else.

    An identity's first six pictures come from six different cameras, in an order of its own.
    """
    order = list(CAMERAS)
    stream(seed, "cameras", identity).shuffle(order)
    camera = CAMERAS[order[picture % len(order)]]
    rng = stream(seed, "shot", identity, picture)
    cut = rng.random() < 0.06
    figure = rng.uniform(1.04, 1.14) if cut else rng.uniform(0.82, 0.94)
    top = rng.uniform(0.01, 0.04) if cut else rng.uniform(0.02, 0.98 - figure)
    walks = rng.random() < 0.65
    stride = rng.choice((-1, 1)) * (rng.uniform(0.25, 0.5) if walks else rng.uniform(0.0, 0.1))
    return Shot(
        camera=camera,
        width=max(1, round(height * rng.uniform(0.33, 0.43))),
        height=height,
        yaw=_draw_yaw(rng),
        stride=stride,
        arm_swing=-stride * rng.uniform(0.5, 1.1) + rng.uniform(-0.08, 0.08),
        figure=figure,
        top=top,
        shift=rng.uniform(-0.07, 0.07),
        lean=rng.uniform(-0.025, 0.025),
        bow=rng.uniform(0, 1) ** 3,
        brightness=rng.uniform(0.86, 1.12),
        motion=max(0.0, rng.gauss(0.0, 0.8)),
        detail=rng.uniform(*camera.detail),
        quality=rng.randint(*camera.quality),
        occluder=pick(rng, _OCCLUDERS),
        occluder_side=rng.choice((-1, 1)),
    )
