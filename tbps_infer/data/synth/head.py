"""Head, hair, face, headwear, glasses and scarf."""

from __future__ import annotations

import math
from random import Random

from tbps_infer.data.synth.attributes import NONE, Person, is_female
from tbps_infer.data.synth.body import Body
from tbps_infer.data.synth.canvas import Canvas, Point
from tbps_infer.data.synth.palette import COLOURS, HAIR_COLOURS, RGB, scaled, shade_of

__all__ = ["Head", "draw_hair_behind", "draw_head", "draw_scarf"]


class Head:
    """An egg in body axes, and where it is in the picture, on a body that looks down by `bow`, 0 to 1."""

    def __init__(self, body: Body, bow: float) -> None:
        self.body = body
        self.across = 0.048 * body.look.head
        self.through = 0.056 * body.look.head
        self.half = 0.07 * (0.55 + 0.45 * body.look.head)
        self.middle = 0.072 + 0.012 * bow
        self.bow = bow * 0.016

    def radius(self, y: float) -> float:
        """Share of the full girth at height `y`."""
        away = (y - self.middle) / self.half
        chin = 1 - 0.16 * max(0.0, away)
        return chin * math.sqrt(max(0.0, 1 - away * away))

    def band(self, start: float, end: float, top: float, bottom: float, grow: float = 1.0) -> list[Point]:
        """A piece of the surface between two angles, `top` and `bottom` from -1 (crown) to 1 (chin)."""
        levels = []
        for i in range(9):
            y = self.middle + self.half * grow * (top + (bottom - top) * i / 8)
            r = self.radius(self.middle + (y - self.middle) / grow) * grow
            levels.append((y, self.across * r, self.through * r))
        if end - start >= 360:
            return self.body.outline(levels)
        return self.body.patch(start, end, levels)

    def feature(self, angle: float, height: float) -> Point | None:
        """A point of the face, or None when it looks away."""
        if not self.body.visible(angle):
            return None
        y = self.middle + self.half * height
        r = self.radius(y)
        x, y = self.body.surface(angle, y, self.across * r, self.through * r)
        return x, y + self.bow


def _hair(person: Person, body: Body) -> RGB:
    colour = HAIR_COLOURS.get(person.hair_colour, scaled(body.look.skin, 0.8))
    return shade_of(Random(f"{body.look.shade_seed}/hair"), colour, 0.05)


def draw_hair_behind(canvas: Canvas, person: Person, body: Body, head: Head) -> None:
    """The part of long hair that lies behind the neck when the face is seen."""
    if person.hair_style not in ("long", "medium"):
        return
    length = 0.27 if person.hair_style == "long" else 0.18
    wide = head.across * 1.16
    levels = [
        (head.middle - 0.3 * head.half, wide * 0.9, head.through),
        (head.middle + 0.2 * head.half, wide * 1.05, head.through * 0.95),
        (0.15, wide * 1.08, head.through * 0.8),
        (length, wide * 0.9, 0.03),
    ]
    back = -0.02 * math.sin(body.yaw)
    canvas.fill([(x + back, y) for x, y in body.outline(levels)], scaled(_hair(person, body), 0.85))


def draw_head(canvas: Canvas, person: Person, body: Body, head: Head) -> None:
    """Everything above the collar, in the order in which it covers."""
    hair, skin = _hair(person, body), body.look.skin
    full = head.band(-180, 180, -1.0, 1.0)
    canvas.fill(full, skin)
    if person.hair_style != "bald":
        _draw_scalp(canvas, person, head, hair)
        _draw_face(canvas, person, head, skin)
        _draw_hair_front(canvas, person, body, head, hair)
    else:
        _draw_face(canvas, person, head, skin)
    if person.hair_style != "long":
        heights = [head.middle + head.half * part for part in (-0.9, -0.4, 0.2, 0.7, 0.95)]
        levels = [(y, head.across * head.radius(y), head.through * head.radius(y)) for y in heights]
        canvas.model(*body.edges(levels))
    _draw_eyewear(canvas, person, head)
    _draw_headwear(canvas, person, body, head)


def _draw_scalp(canvas: Canvas, person: Person, head: Head, hair: RGB) -> None:
    low = 0.6
    if person.hair_style in ("ponytail", "bun"):
        low = 0.32
    elif person.hair_style == "short" and not is_female(person.kind):
        low = 0.22
    canvas.fill(head.band(-180, 180, -1.0, low, 1.08), hair)
    shine = head.band(-60, 60, -0.85, -0.6, 1.05)
    canvas.shade(shine, 1.35)


def _draw_face(canvas: Canvas, person: Person, head: Head, skin: RGB) -> None:
    wide = 66 if is_female(person.kind) else 74
    face = head.band(-wide, wide, -0.42, 1.0)
    canvas.fill([(x, y + head.bow) for x, y in face], skin)
    if person.hair_style in ("short", "bald") and not is_female(person.kind):
        for angle in (-86, 86):
            ear = head.feature(angle, 0.16)
            if ear:
                canvas.oval(ear, 0.008, 0.014, scaled(skin, 0.9))
    for angle in (-26, 26):
        eye = head.feature(angle, 0.02)
        brow = head.feature(angle, -0.14)
        if eye and brow:
            canvas.oval(eye, 0.0065, 0.0045, (45, 34, 30))
            canvas.line([(brow[0] - 0.009, brow[1]), (brow[0] + 0.009, brow[1])], scaled(skin, 0.5), 0.005)
    nose, mouth = head.feature(0, 0.3), head.feature(0, 0.58)
    if nose and mouth:
        canvas.oval(nose, 0.006, 0.008, scaled(skin, 0.84))
        lips = (176, 78, 78) if is_female(person.kind) else scaled(skin, 0.68)
        canvas.line([(mouth[0] - 0.012, mouth[1]), (mouth[0] + 0.012, mouth[1])], lips, 0.006)


def _draw_hair_front(canvas: Canvas, person: Person, body: Body, head: Head, hair: RGB) -> None:
    """Hair over the face's sides, down the back, and tied hair."""
    back = body.yaw and math.cos(body.yaw) < 0.25
    if person.hair_style in ("long", "medium"):
        length = 0.27 if person.hair_style == "long" else 0.172
        if back:
            wide = head.across * 1.2
            levels = [(head.middle, wide, head.through), (0.15, wide * 1.05, 0.045), (length, wide * 0.85, 0.03)]
            canvas.fill(body.outline(levels), hair)
            for x in (-0.5, 0.0, 0.45):
                canvas.crease([(x * wide, 0.05), (x * wide * 0.9, length - 0.01)], 0.78)
        for start, end in ((-105, -62), (62, 105)):
            canvas.fill(head.band(start, end, -0.55, 0.98, 1.1), hair)
    tie = body.project(0.0, 0.075, -head.through * 1.05)
    if person.hair_style == "ponytail" and (tie.depth > -0.02 or abs(tie.x) > head.across * 0.6):
        drop = body.project(0.0, 0.2, -head.through * 1.5)
        middle = ((tie.x + drop.x) / 2 + (0.01 if tie.x > 0 else -0.01), 0.12)
        canvas.tube([(tie.x, 0.07, 0.016), (*middle, 0.021), (drop.x, 0.215, 0.01)], hair)
        canvas.oval((tie.x, 0.068), 0.012, 0.01, scaled(hair, 0.5))
    if person.hair_style == "bun":
        knot = body.project(0.0, 0.008, -head.through * 0.55)
        canvas.oval((knot.x, 0.006), 0.026, 0.022, hair)
        canvas.crease([(knot.x - 0.02, 0.02), (knot.x + 0.02, 0.02)], 0.7)


def _draw_eyewear(canvas: Canvas, person: Person, head: Head) -> None:
    if person.glasses == NONE:
        return
    dark = (18, 18, 20)
    lenses = [p for p in (head.feature(-27, 0.03), head.feature(27, 0.03)) if p]
    for x, y in lenses:
        if person.glasses == "sunglasses":
            canvas.oval((x, y), 0.017, 0.0125, dark)
        else:
            ring = [(x + 0.015 * math.cos(a * 0.6), y + 0.011 * math.sin(a * 0.6)) for a in range(12)]
            canvas.line(ring, dark, 0.0045)
    if len(lenses) == 2:
        canvas.line(lenses, dark, 0.004)


def _draw_headwear(canvas: Canvas, person: Person, body: Body, head: Head) -> None:
    if person.headwear == NONE:
        return
    colour = shade_of(Random(f"{body.look.shade_seed}/hat"), COLOURS[person.headwear_colour])
    rim = head.middle + head.half * -0.3
    if person.headwear == "beanie":
        canvas.fill(head.band(-180, 180, -1.0, -0.12, 1.2), colour)
        canvas.shade(head.band(-180, 180, -0.34, -0.12, 1.2), 0.72)
    elif person.headwear == "sun hat":
        canvas.fill(head.band(-180, 180, -1.0, -0.2, 1.18), colour)
        wide = head.across * 2.15
        canvas.oval((0.0, rim), wide, 0.019, colour)
        canvas.crease([(-wide * 0.55, rim - 0.01), (wide * 0.55, rim - 0.01)], 0.62, 0.012)
    else:
        canvas.fill(head.band(-180, 180, -1.0, -0.2, 1.17), colour)
        canvas.crease([(0.0, rim - 0.04), (0.0, rim)], 0.85)
        _draw_brim(canvas, body, head, scaled(colour, 0.82), rim)


def _draw_brim(canvas: Canvas, body: Body, head: Head, colour: RGB, rim: float) -> None:
    front = body.project(0.0, rim, head.through * 1.75)
    if front.depth < -0.03:
        return
    width = body.half_width(head.across * 0.95, head.through * 0.6)
    root, drop = body.project(0.0, rim, head.through * 0.7), rim + 0.016 + head.bow
    left, right = root.x - width, root.x + width
    tip = 0.8 * width * abs(math.cos(body.yaw)) + 0.006
    canvas.fill([(left, rim - 0.008), (right, rim - 0.008), (front.x + tip, drop), (front.x - tip, drop)], colour)


def draw_scarf(canvas: Canvas, person: Person, body: Body) -> None:
    """A scarf around the neck with one hanging end."""
    if person.scarf_colour == NONE:
        return
    colour = shade_of(Random(f"{body.look.shade_seed}/scarf"), COLOURS[person.scarf_colour])
    canvas.fill(body.outline([(0.128, 0.045, 0.048), (0.15, 0.062, 0.06), (0.182, 0.058, 0.062)]), colour)
    canvas.crease([(-0.05, 0.15), (0.05, 0.16)], 0.7, 0.01)
    if body.visible(12):
        x, _ = body.surface(14, 0.2, 0.08, 0.072)
        canvas.fill([(x - 0.018, 0.16), (x + 0.018, 0.16), (x + 0.02, 0.31), (x - 0.018, 0.31)], colour)
        canvas.crease([(x, 0.18), (x, 0.3)], 0.75)
