"""Upper garments on a posed body, with sleeves and open jackets, and the paints of all clothes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from tbps_infer.data.synth.attributes import NONE, Person, is_female
from tbps_infer.data.synth.body import Body, Level, Limb, between
from tbps_infer.data.synth.canvas import Canvas, Paint
from tbps_infer.data.synth.palette import COLOURS, RGB, scaled, shade_of
from tbps_infer.data.synth.textures import pattern_paint

__all__ = ["CUTS", "Wardrobe", "draw_arm", "draw_upper", "wardrobe_of"]


@dataclass(frozen=True)
class Cut:
    """The cut of an upper garment: its hem's height, looseness, sleeve length in arm segments (0 to 2), flare."""

    hem: float
    ease: float
    sleeve: float
    flare: float = 0.0


CUTS: Mapping[str, Cut] = {
    "t-shirt": Cut(0.51, 0.006, 0.72),
    "polo": Cut(0.51, 0.005, 0.68),
    "shirt": Cut(0.52, 0.006, 2.0),
    "blouse": Cut(0.53, 0.007, 1.15, 0.012),
    "tank top": Cut(0.5, 0.001, 0.0),
    "sweater": Cut(0.515, 0.012, 2.0),
    "hoodie": Cut(0.52, 0.014, 2.0),
    "jacket": Cut(0.52, 0.014, 2.0),
    "coat": Cut(0.71, 0.016, 2.0, 0.03),
    "down jacket": Cut(0.535, 0.026, 2.0),
    "dress": Cut(0.67, 0.003, 0.5, 0.05),
    "long dress": Cut(0.87, 0.003, 0.5, 0.06),
    "suit jacket": Cut(0.55, 0.015, 2.0),
    "cardigan": Cut(0.57, 0.013, 2.0),
    "denim jacket": Cut(0.48, 0.014, 2.0),
    "vest": Cut(0.51, 0.018, 0.0),
}


@dataclass(frozen=True)
class Wardrobe:
    """The paints of one identity's clothes on one canvas."""

    skin: RGB
    upper: Paint
    sleeves: Paint
    second: RGB
    jacket: RGB
    lower: RGB
    shoes: RGB


def wardrobe_of(canvas: Canvas, person: Person, body: Body) -> Wardrobe:
    """Mix the paints. The same identity gets the same shades and the same pattern on every canvas."""
    rng = Random(body.look.shade_seed)

    def shade(name: str) -> RGB:
        return shade_of(rng, COLOURS.get(name, COLOURS["black"]))

    base, second = shade(person.upper_colour), shade(person.pattern_colour)
    jacket, lower, shoes = shade(person.jacket_colour), shade(person.lower_colour), shade(person.shoes_colour)
    upper = pattern_paint(canvas, person.pattern, base, second, rng)
    sleeves = second if person.pattern == "contrast sleeves" else upper
    return Wardrobe(body.look.skin, upper, sleeves, second, jacket, lower, shoes)


def _torso_levels(person: Person, body: Body, cut: Cut) -> list[Level]:
    """The torso from collar to hem, as levels of (y, across, through)."""
    female, girth, e = is_female(person.kind), body.look.girth, cut.ease
    waist, hip = (0.066, 0.088) if female else (0.078, 0.082)
    shoulder = body.look.shoulder
    levels = [
        (0.158, 0.036, 0.036),
        (0.168, 0.05 + 0.5 * e, 0.042),
        (0.18, 0.68 * shoulder + 0.7 * e, 0.05 + e),
        (0.19, 0.88 * shoulder + 0.8 * e, 0.054 + e),
        (0.206, 0.99 * shoulder + 0.9 * e, 0.057 * girth + e),
        (0.255, shoulder * 0.9 + e, 0.066 * girth + e),
        (0.375, waist * girth + 1.4 * e, 0.058 * girth + 1.4 * e),
        (0.47, hip * girth + e, 0.066 * girth + e),
    ]
    if cut.hem > 0.56:
        steps = 4
        for i in range(1, steps + 1):
            part = i / steps
            y = 0.47 + (cut.hem - 0.47) * part
            levels.append(
                (y, hip * girth + e + 0.008 + cut.flare * part, 0.066 * girth + e + 0.008 + cut.flare * part)
            )
    else:
        levels.append((cut.hem, hip * girth + e + 0.003 + cut.flare, 0.066 * girth + e + 0.003 + cut.flare))
    return levels


def _shade_torso(canvas: Canvas, body: Body, levels: list[Level]) -> None:
    """A rounded chest and soft folds at the waist."""
    canvas.model(*body.edges(levels))
    middle = body.half_width(levels[6][1], levels[6][2])
    for x, y, lean in ((-0.6, 0.35, 0.03), (0.5, 0.39, -0.035), (-0.2, 0.43, 0.02), (0.75, 0.3, -0.02)):
        canvas.crease([(x * middle, y), ((x + lean * 8) * middle, y + 0.035)], 0.8)


def draw_upper(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe) -> None:
    """The upper garment without sleeves, its details, and an open jacket over it."""
    cut = CUTS[person.upper]
    levels = _torso_levels(person, body, cut)
    canvas.fill(body.outline(levels), wardrobe.upper)
    _shade_torso(canvas, body, levels)
    _draw_details(canvas, person, body, wardrobe, levels)
    if person.jacket != NONE:
        _draw_jacket(canvas, person, body, wardrobe)


def _dark(paint: Paint, wardrobe: Wardrobe) -> RGB:
    return scaled(paint, 0.6) if isinstance(paint, tuple) else scaled(wardrobe.second, 0.6)


def _draw_details(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe, levels: list[Level]) -> None:
    """Collars, buttons, zips, pockets, quilting, necklines and logos."""
    upper, chest = person.upper, levels[5]
    seam = _dark(wardrobe.upper, wardrobe)
    if upper in ("t-shirt", "tank top", "dress", "long dress", "blouse"):
        depth = 0.03 if upper in ("tank top", "dress", "long dress", "blouse") else 0.012
        neck = [(0.156, 0.04, 0.04), (0.166, 0.042, 0.044), (0.17 + depth, 0.018, 0.052)]
        canvas.fill(body.patch(-75, 75, neck), wardrobe.skin)
    if upper in ("shirt", "polo"):
        _front_line(canvas, body, levels, seam, 0.5 if upper == "shirt" else 0.27)
        for start, end in ((-55, -4), (4, 55)):
            canvas.fill(body.patch(start, end, [(0.15, 0.045, 0.045), (0.183, 0.05, 0.058)]), wardrobe.sleeves)
    if upper in ("jacket", "coat", "down jacket"):
        _front_line(canvas, body, levels, seam, levels[-1][0])
        canvas.fill(body.outline([(0.148, 0.04, 0.04), (0.176, 0.052, 0.054)]), wardrobe.upper)
    if upper == "hoodie":
        canvas.fill(body.outline([(0.14, 0.05, 0.055), (0.165, 0.066, 0.07), (0.19, 0.06, 0.06)]), wardrobe.upper)
        canvas.shade(body.outline([(0.14, 0.05, 0.055), (0.165, 0.05, 0.055)]), 0.7)
        pocket = body.patch(-42, 42, [(0.4, 0.07, 0.066), (0.47, 0.088, 0.072)])
        canvas.shade(pocket, 0.85)
    if upper == "down jacket":
        for y in (0.24, 0.285, 0.33, 0.375, 0.42, 0.465, 0.51):
            width = body.half_width(body.look.shoulder * 0.92 + 0.02, 0.08)
            canvas.crease([(-width, y), (width, y)], 0.62, 0.011)
            canvas.crease([(-width, y - 0.02), (width, y - 0.02)], 1.14, 0.014)
    if upper in ("dress", "long dress"):
        belt = body.half_width(levels[6][1], levels[6][2]) + 0.001
        canvas.shade([(-belt, 0.375), (belt, 0.375), (belt, 0.392), (-belt, 0.392)], 0.66)
    if person.pattern == "logo":
        _draw_logo(canvas, body, wardrobe, chest)


def _front_line(canvas: Canvas, body: Body, levels: list[Level], colour: RGB, bottom: float) -> None:
    if body.visible(0.0):
        line = [body.surface(0.0, y, a, t) for y, a, t in levels if y <= bottom]
        canvas.line(line, colour, 0.006)


def _draw_logo(canvas: Canvas, body: Body, wardrobe: Wardrobe, chest: tuple[float, float, float]) -> None:
    rng = Random(f"{body.look.shade_seed}/logo")
    _, across, through = chest
    top, size = 0.25, rng.uniform(0.055, 0.075)
    wide = rng.uniform(26, 34)
    if rng.random() < 0.5:
        canvas.fill(body.patch(-wide, wide, [(top, across, through), (top + size, across, through)]), wardrobe.second)
    else:
        steps = [i / 6 for i in range(7)]
        round_ = [(top + size * s, across, through) for s in steps]
        widths = [wide * (1 - (2 * s - 1) ** 2) ** 0.5 for s in steps]
        left = [body.patch(-w - 0.5, w + 0.5, [level]) for w, level in zip(widths, round_, strict=True)]
        if all(len(pair) == 2 for pair in left):
            canvas.fill([p[0] for p in left] + [p[1] for p in reversed(left)], wardrobe.second)


def _draw_jacket(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe) -> None:
    """Two panels over the shirt: the whole outline minus a front opening that widens downwards."""
    levels = _torso_levels(person, body, CUTS[person.jacket])
    shirt = _torso_levels(person, body, CUTS[person.upper])
    dark = scaled(wardrobe.jacket, 0.62)
    gap = 22 if person.jacket == "suit jacket" else 28
    inner = [level for level in shirt if level[0] >= 0.18]
    panels = [level for level in levels if level[0] >= 0.165]
    canvas.fill(body.outline(panels), wardrobe.jacket)
    _shade_torso(canvas, body, levels)
    opening = body.patch(-gap, gap, [(0.165, 0.05, 0.06), *inner])
    canvas.fill(opening, wardrobe.upper)
    for angle in (-gap, gap):
        if body.visible(angle):
            canvas.line([body.surface(angle, y, a, t) for y, a, t in panels], dark, 0.007)
    if person.jacket == "suit jacket":
        for start, end in ((-gap - 14, -gap), (gap, gap + 14)):
            canvas.fill(body.patch(start, end, [(0.165, 0.05, 0.056), (0.3, 0.095, 0.075)]), dark)
    if opening:
        collar = [(0.154, 0.043, 0.043), (0.166, 0.044, 0.05), (0.19, 0.012, 0.056)]
        canvas.fill(body.patch(-70, 70, collar), wardrobe.skin)


def draw_arm(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe, arm: Limb) -> None:
    """An arm with its hand and sleeve."""
    g = 0.5 + 0.5 * body.look.girth
    slim = 0.92 if is_female(person.kind) else 1.0
    upper, fore, wrist = 0.03 * g * slim, 0.024 * g * slim, 0.017
    joints = [(*arm.root.point, upper), (*arm.middle.point, fore), (*arm.end.point, wrist)]
    canvas.tube(joints, wardrobe.skin)
    hand = ((arm.end.x + arm.tip.x) / 2, (arm.end.y + arm.tip.y) / 2)
    canvas.oval(hand, 0.019, 0.026, wardrobe.skin)
    over = person.jacket if person.jacket not in (NONE, "vest") else person.upper
    _draw_sleeve(
        canvas, arm, CUTS[over], wardrobe.jacket if over == person.jacket else wardrobe.sleeves, (upper, fore, wrist)
    )


def _draw_sleeve(canvas: Canvas, arm: Limb, cut: Cut, paint: Paint, radii: tuple[float, float, float]) -> None:
    if cut.sleeve <= 0:
        return
    ease = 0.003 + cut.ease * 0.65
    joints = [(*arm.root.point, radii[0] + ease)]
    part = min(1.0, cut.sleeve)
    joints.append((*between(arm.root.point, arm.middle.point, part), radii[0] + (radii[1] - radii[0]) * part + ease))
    if cut.sleeve > 1.0:
        low = cut.sleeve - 1.0
        joints.append((*between(arm.middle.point, arm.end.point, low), radii[1] + (radii[2] - radii[1]) * low + ease))
    canvas.tube(joints, paint, open_end=True)
    if cut.sleeve == 2.0:
        x, y = arm.middle.point
        canvas.crease([(x - 0.02, y - 0.006), (x + 0.02, y + 0.006)], 0.78)
