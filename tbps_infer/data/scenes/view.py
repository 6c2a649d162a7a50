"""A fixed camera above a flat street: metres on the ground become pixels of the picture.

Ground axes: x to the camera's right, z away from it, in metres. The camera hangs `mast` metres above the ground and
looks along z; a wall across the street closes the view.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbps_infer.data.synth.shots import CAMERAS, Camera
from tbps_infer.data.synth.streams import stream

__all__ = ["View", "plan_view"]


@dataclass(frozen=True)
class View:
    """What one camera sees.

    Attributes:
        camera: Its name, its scenery and what it does to light.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        focal: Focal length in pixels.
        horizon: The picture's row at the camera's own height.
        mast: Height of the camera in metres.
        wall: Distance of the wall in metres.
        doors: Where the wall has doors: x in metres.
        dusk: Whether it is getting dark.
    """

    camera: Camera
    width: int
    height: int
    focal: float
    horizon: float
    mast: float
    wall: float
    doors: tuple[float, ...]
    dusk: bool

    def scale(self, z: float) -> float:
        """Pixels per metre at a distance."""
        return self.focal / z

    def ground(self, x: float, z: float) -> tuple[float, float]:
        """Column and row of a point on the ground."""
        return self.width / 2 + x * self.scale(z), self.horizon + self.mast * self.scale(z)

    def edge(self, z: float) -> float:
        """How far the picture reaches to either side at a distance, in metres."""
        return self.width / 2 / self.scale(z)


def plan_view(seed: int, number: int, size: tuple[int, int], dusk: bool) -> View:
    """The view of camera `number` (from 0); `size` is (height, width)."""
    height, width = size
    rng = stream(seed, "view", number)
    wall = rng.uniform(13.0, 16.0)
    focal = height * rng.uniform(1.0, 1.25)
    reach = 0.8 * width / 2 * wall / focal
    return View(
        camera=CAMERAS[list(CAMERAS)[number]],
        width=width,
        height=height,
        focal=focal,
        horizon=height * rng.uniform(0.14, 0.24),
        mast=rng.uniform(2.5, 3.1),
        wall=wall,
        doors=tuple(reach * (-0.7 + 0.7 * k + rng.uniform(-0.2, 0.2)) for k in range(3)),
        dusk=dusk,
    )
