"""Bags and held things."""

from __future__ import annotations

import math
from random import Random

from tbps_infer.data.synth.attributes import NONE, Person
from tbps_infer.data.synth.body import SIDES, Body, Limb
from tbps_infer.data.synth.canvas import Canvas, Point
from tbps_infer.data.synth.palette import COLOURS, RGB, scaled, shade_of

__all__ = ["draw_backpack", "draw_bag_in_hand", "draw_held", "draw_shoulder_bag", "draw_straps"]


def _bag_colour(person: Person, body: Body) -> RGB:
    return shade_of(Random(f"{body.look.shade_seed}/bag"), COLOURS[person.bag_colour])


def _box(canvas: Canvas, x: float, top: float, half: float, height: float, colour: RGB, round_: float = 0.02) -> None:
    """An upright box with rounded corners, shaded on the side away from the light."""
    points: list[Point] = []
    for cx, cy, start in (
        (x + half - round_, top + round_, -90), (x + half - round_, top + height - round_, 0),
        (x - half + round_, top + height - round_, 90), (x - half + round_, top + round_, 180),
    ):  # fmt: skip
        for i in range(5):
            turn = math.radians(start + i * 22.5)
            points.append((cx + round_ * math.cos(turn), cy + round_ * math.sin(turn)))
    canvas.fill(points, colour)
    away = -1.0 if canvas.light > 0 else 1.0
    canvas.shade(
        [
            (x + away * half, top),
            (x + away * half, top + height),
            (x + away * half * 0.45, top + height),
            (x + away * half * 0.45, top),
        ],
        0.78,
    )


def draw_backpack(canvas: Canvas, person: Person, body: Body) -> None:
    """The pack itself: whole from behind, its edge from the side, next to nothing from the front."""
    if person.bag != "backpack":
        return
    colour = _bag_colour(person, body)
    middle = body.project(0.0, 0.32, -0.105)
    half = body.half_width(0.082, 0.05)
    _box(canvas, middle.x, 0.195, half, 0.25, colour, 0.03)
    if middle.depth > 0.02:
        front = body.project(0.0, 0.4, -0.15)
        _box(canvas, front.x, 0.325, half * 0.72, 0.1, scaled(colour, 0.86), 0.02)
        canvas.line([(front.x - half * 0.6, 0.335), (front.x + half * 0.6, 0.335)], scaled(colour, 0.5), 0.006)
        canvas.line(
            [(middle.x - half * 0.75, 0.25), (middle.x, 0.235), (middle.x + half * 0.75, 0.25)],
            scaled(colour, 0.55),
            0.006,
        )
        canvas.line(
            [(middle.x - 0.015, 0.197), (middle.x, 0.182), (middle.x + 0.015, 0.197)], scaled(colour, 0.6), 0.008
        )


def draw_straps(canvas: Canvas, person: Person, body: Body) -> None:
    """A backpack's straps over the chest, where the chest is seen."""
    if person.bag != "backpack":
        return
    colour = _bag_colour(person, body)
    shoulder = body.look.shoulder
    for side in SIDES.values():
        levels = [
            (0.176, shoulder * 0.72, 0.035),
            (0.2, shoulder * 0.78, 0.07),
            (0.28, shoulder * 0.9, 0.075),
            (0.35, shoulder * 0.92, 0.068),
        ]
        start, end = sorted((side * 36, side * 58))
        canvas.fill(body.patch(start, end, levels), scaled(colour, 0.92))


def draw_shoulder_bag(canvas: Canvas, person: Person, body: Body) -> None:
    """A bag at the hip on a strap from the other shoulder."""
    if person.bag != "shoulder bag":
        return
    colour = _bag_colour(person, body)
    side = SIDES[person.bag_side]
    strap = scaled(colour, 0.8)
    for flip in (1.0, -1.0):
        across, through = body.look.shoulder * 0.96, 0.075
        steps = [(-38 + 118 * i / 8, 0.178 + 0.25 * i / 8) for i in range(9)]
        angles = [(side * a if flip > 0 else 180 - side * a, y) for a, y in steps]
        line = [body.surface(a, y, across, through) for a, y in angles if body.visible(a)]
        if len(line) > 1:
            canvas.line(line, strap, 0.014)
    at = body.project(side * 0.115 * body.look.girth, 0.47, 0.01)
    half = body.half_width(0.04, 0.07)
    _box(canvas, at.x, 0.42, half + 0.012, 0.105, colour, 0.018)
    canvas.line([(at.x - half, 0.455), (at.x + half, 0.455)], scaled(colour, 0.55), 0.006)


def draw_bag_in_hand(canvas: Canvas, person: Person, body: Body, name: str, arm: Limb) -> None:
    """A handbag, shopping bag or suitcase at the hand on the bag's side."""
    if person.bag not in ("handbag", "shopping bag", "suitcase") or person.bag_side != name:
        return
    colour = _bag_colour(person, body)
    x, y = arm.tip.point
    handle = scaled(colour, 0.6)
    if person.bag == "handbag":
        half = body.half_width(0.04, 0.062)
        canvas.line(
            [(x - half * 0.6, y + 0.07), (x - 0.008, y), (x + 0.008, y), (x + half * 0.6, y + 0.07)], handle, 0.009
        )
        _box(canvas, x, y + 0.06, half, 0.085, colour, 0.016)
        canvas.oval((x, y + 0.078), 0.007, 0.007, (220, 200, 120))
    elif person.bag == "shopping bag":
        half = body.half_width(0.045, 0.065)
        canvas.line([(x - half * 0.5, y + 0.05), (x, y - 0.004), (x + half * 0.5, y + 0.05)], handle, 0.007)
        bottom = [
            (x - half * 0.9, y + 0.045),
            (x + half * 0.9, y + 0.045),
            (x + half * 1.05, y + 0.18),
            (x - half * 1.05, y + 0.18),
        ]
        canvas.fill(bottom, colour)
        for part in (-0.5, 0.1, 0.6):
            canvas.crease([(x + part * half, y + 0.05), (x + part * half * 0.8, y + 0.17)], 0.76)
    else:
        half = body.half_width(0.062, 0.042)
        top = 0.7
        for rail in (-0.4, 0.4):
            canvas.line([(x + rail * half * 0.5, y), (x + rail * half, top)], (150, 150, 154), 0.007)
        canvas.line([(x - 0.02, y), (x + 0.02, y)], (60, 60, 64), 0.012)
        _box(canvas, x, top, half, 0.255, colour, 0.018)
        for part in (-0.5, 0.0, 0.5):
            canvas.crease([(x + part * half, top + 0.02), (x + part * half, top + 0.235)], 0.74)
        for part in (-0.7, 0.7):
            canvas.oval((x + part * half, 0.963), 0.012, 0.012, (30, 30, 32))


def draw_held(canvas: Canvas, person: Person, body: Body, name: str, arm: Limb) -> None:
    """The thing in the hand `name`, drawn at its tip."""
    if person.held == NONE or person.held_side != name:
        return
    colour = shade_of(Random(f"{body.look.shade_seed}/held"), COLOURS[person.held_colour])
    x, y = arm.tip.point
    if person.held == "phone":
        canvas.fill(
            [(x - 0.013, y - 0.045), (x + 0.013, y - 0.045), (x + 0.013, y + 0.006), (x - 0.013, y + 0.006)], colour
        )
        canvas.fill(
            [(x - 0.009, y - 0.04), (x + 0.009, y - 0.04), (x + 0.009, y), (x - 0.009, y)],
            scaled((120, 150, 180), 0.9),
        )
    elif person.held == "bottle":
        _box(canvas, x, y - 0.005, 0.017, 0.075, colour, 0.008)
        canvas.fill([(x - 0.008, y - 0.03), (x + 0.008, y - 0.03), (x + 0.01, y), (x - 0.01, y)], scaled(colour, 0.6))
    elif person.held == "umbrella":
        canvas.tube([(x, y - 0.02, 0.006), (x, y + 0.03, 0.016), (x + 0.004, y + 0.2, 0.007)], colour)
        canvas.line([(x, y - 0.05), (x, y)], (50, 40, 34), 0.009)
    elif person.held == "book":
        half = body.half_width(0.042, 0.03)
        canvas.fill(
            [(x - half, y - 0.05), (x + half, y - 0.058), (x + half, y + 0.022), (x - half, y + 0.03)], colour
        )
        canvas.line([(x - half, y + 0.03), (x + half, y + 0.022)], (240, 238, 230), 0.006)
    else:
        canvas.fill(
            [(x - 0.016, y - 0.04), (x + 0.016, y - 0.04), (x + 0.011, y + 0.012), (x - 0.011, y + 0.012)], colour
        )
        canvas.fill(
            [(x - 0.017, y - 0.045), (x + 0.017, y - 0.045), (x + 0.017, y - 0.037), (x - 0.017, y - 0.037)],
            (90, 60, 40),
        )
    hand = arm.tip.point
    canvas.oval((hand[0], hand[1] - 0.004), 0.016, 0.012, body.look.skin)
