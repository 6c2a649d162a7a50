"""A whole person, drawn back to front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.synth.attributes import Person
from tbps_infer.data.synth.body import Body, Look, pose
from tbps_infer.data.synth.canvas import Canvas, Framing
from tbps_infer.data.synth.carried import draw_backpack, draw_bag_in_hand, draw_held, draw_shoulder_bag, draw_straps
from tbps_infer.data.synth.garments import Wardrobe, draw_arm, draw_upper, wardrobe_of
from tbps_infer.data.synth.head import Head, draw_hair_behind, draw_head, draw_scarf
from tbps_infer.data.synth.legs import draw_leg, draw_lower
from tbps_infer.data.synth.palette import scaled
from tbps_infer.data.synth.shots import Shot

__all__ = ["draw_figure", "framing_of"]

_BEHIND = -0.03


def framing_of(shot: Shot) -> Framing:
    """Where the shot puts the person in its crop."""
    return Framing(
        unit=shot.figure * shot.height,
        left=shot.width * (0.5 + shot.shift),
        top=shot.top * shot.height,
        lean=shot.lean,
    )


def draw_figure(person: Person, shot: Shot, look: Look) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the person alone: colours float32 [height, width, 3] in 0..255 and coverage float32 [height, width, 1]."""
    canvas = Canvas(shot.width, shot.height, framing_of(shot), shot.camera.light)
    body = pose(person, shot, look)
    wardrobe = wardrobe_of(canvas, person, body)
    head = Head(body, shot.bow)
    faces = shot.facing > 0
    if faces:
        draw_backpack(canvas, person, body)
        draw_hair_behind(canvas, person, body, head)
    arms = sorted(body.arms.items(), key=lambda item: item[1].depth)
    for name, arm in arms:
        if arm.depth < _BEHIND:
            _draw_arm_and_load(canvas, person, body, wardrobe, name)
    legs = sorted(body.legs.values(), key=lambda leg: leg.depth)
    for index, leg in enumerate(legs):
        draw_leg(canvas, person, body, wardrobe, leg, far=index == 0)
    draw_lower(canvas, person, body, wardrobe)
    canvas.tube([(0.0, 0.12, 0.03), (0.0, 0.17, 0.034)], scaled(look.skin, 0.88))
    draw_upper(canvas, person, body, wardrobe)
    draw_straps(canvas, person, body)
    draw_scarf(canvas, person, body)
    draw_shoulder_bag(canvas, person, body)
    if not faces:
        draw_backpack(canvas, person, body)
    draw_head(canvas, person, body, head)
    for name, arm in arms:
        if arm.depth >= _BEHIND:
            _draw_arm_and_load(canvas, person, body, wardrobe, name)
    return canvas.result()


def _draw_arm_and_load(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe, name: str) -> None:
    arm = body.arms[name]
    draw_arm(canvas, person, body, wardrobe, arm)
    draw_bag_in_hand(canvas, person, body, name, arm)
    draw_held(canvas, person, body, name, arm)
