"""People in motion: a figure at a few moments of its step, drawn once and scaled to where it walks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image

from tbps_infer.data.scenes.street import exposed
from tbps_infer.data.scenes.view import View
from tbps_infer.data.scenes.walks import Walk
from tbps_infer.data.synth.body import look_of
from tbps_infer.data.synth.figure import draw_figure
from tbps_infer.data.synth.shots import Shot, plan_shot

__all__ = ["Walker"]

_MOMENTS = 8
"""Of a turn of two steps. Legs swing as a sine does, so that five poses are enough."""
_STRIDE = 0.38
_FIGURE, _TOP, _WIDTH = 0.92, 0.03, 0.62
"""The person's share of the drawing's height, the room above the head, and the drawing's width for its height."""
_MOST_PIXELS = 240


class Walker:
    """Draws one walk; `seed` is that of the people, who look the same in every picture."""

    def __init__(self, walk: Walk, view: View, seed: int) -> None:
        self.walk = walk
        self._view = view
        self._seed = seed
        nearest = min(walk.origin[1], walk.end[1])
        self._height = min(_MOST_PIXELS, math.ceil(walk.tall * view.scale(nearest) / _FIGURE))
        self._poses: dict[int, Image.Image] = {}

    def at(self, time: float) -> tuple[float, Image.Image, int, int] | None:
        """The distance in metres, the figure as RGBA and its first column and row; None while it is away."""
        place = self.walk.place(time)
        if place is None:
            return None
        x, z = place
        column, row = self._view.ground(x, z)
        unit = self.walk.tall * self._view.scale(z)
        pose = self._pose(self.walk.gait(time))
        height = max(2, round(unit / _FIGURE))
        width = max(2, round(height * pose.width / pose.height))
        figure = pose.resize((width, height), Image.Resampling.BILINEAR)
        return z, figure, round(column - width / 2), round(row - (_TOP + _FIGURE) * height)

    def _pose(self, gait: float) -> Image.Image:
        moment = round(gait / (2 * math.pi) * _MOMENTS) % _MOMENTS
        swing = round(math.sin(2 * math.pi * moment / _MOMENTS), 3)
        key = round(1000 * swing)
        if key not in self._poses:
            self._poses[key] = self._draw(_STRIDE * swing)
        return self._poses[key]

    def _draw(self, stride: float) -> Image.Image:
        shot = self._shot(stride)
        walk = self.walk
        colours, cover = draw_figure(walk.person, shot, look_of(self._seed, walk.identity, walk.person))
        figure = Image.fromarray(exposed(colours, self._view))
        figure.putalpha(Image.fromarray((cover[..., 0] * 255).astype(np.uint8)))
        return figure

    def _shot(self, stride: float) -> Shot:
        return replace(
            plan_shot(self._seed, self.walk.identity, 0, self._height),
            camera=self._view.camera,
            width=round(self._height * _WIDTH),
            yaw=self.walk.yaw,
            stride=stride,
            arm_swing=-0.8 * stride,
            figure=_FIGURE,
            top=_TOP,
            shift=0.0,
            lean=0.0,
            occluder="none",
        )
