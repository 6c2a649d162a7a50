"""Legs, lower garments and shoes."""

from __future__ import annotations

from tbps_infer.data.synth.attributes import NONE, Person, is_female
from tbps_infer.data.synth.body import Body, Level, Limb, between
from tbps_infer.data.synth.canvas import Canvas
from tbps_infer.data.synth.garments import Wardrobe
from tbps_infer.data.synth.palette import COLOURS, contrasting, scaled

__all__ = ["draw_leg", "draw_lower"]


def draw_leg(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe, leg: Limb, far: bool) -> None:
    """A leg with its trouser leg and shoe; the far one lies in the near one's shadow."""
    g = 0.35 + 0.65 * body.look.girth
    thigh, knee, ankle = 0.05 * g, 0.036 * g, 0.024
    bare = [(*leg.root.point, thigh), (*leg.middle.point, knee), (*leg.end.point, ankle)]
    _draw_shoe(canvas, person, body, wardrobe, leg)
    canvas.tube(bare, wardrobe.skin)
    _draw_shoe_top(canvas, person, wardrobe, leg, knee, ankle)
    ease = {"trousers": 0.006, "jeans": 0.002, "track pants": 0.01, "leggings": 0.0}.get(person.lower)
    if ease is not None:
        low = between(leg.middle.point, leg.end.point, 0.97)
        cloth = [(*leg.root.point, thigh + ease), (*leg.middle.point, knee + ease), (*low, ankle + 0.004 + ease)]
        canvas.tube(cloth, wardrobe.lower, open_end=True)
        x, y = leg.middle.point
        canvas.crease([(x - knee, y + 0.004), (x + knee * 0.5, y - 0.008)], 0.8)
        canvas.crease([(x - knee * 0.6, y + 0.15), (x + knee * 0.7, y + 0.165)], 0.8)
        if person.lower == "track pants":
            canvas.line([(x + thigh * 0.2, y) for x, y, _ in cloth], COLOURS[contrasting(person.lower_colour)], 0.01)
    elif person.lower == "shorts":
        end = between(leg.root.point, leg.middle.point, 0.86)
        canvas.tube([(*leg.root.point, thigh + 0.008), (*end, knee + 0.02)], wardrobe.lower, open_end=True)
    if person.shoes == "boots" and person.lower in ("leggings", "jeans", "trousers"):
        _draw_shoe_top(canvas, person, wardrobe, leg, knee, ankle + 0.004)
    if far:
        reach = [(x - r, y) for x, y, r in bare] + [(x + r, y) for x, y, r in reversed(bare)]
        canvas.shade(reach, 0.78)


def _draw_shoe(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe, leg: Limb) -> None:
    ankle, toe = leg.end, leg.tip
    sole = scaled(wardrobe.shoes, 0.5) if person.shoes_colour != "black" else (70, 70, 72)
    if person.shoes == "sneakers":
        sole = (235, 235, 232) if person.shoes_colour != "white" else (150, 150, 152)
    base = max(ankle.y, toe.y) + 0.022
    lift = 0.016 if person.shoes == "high heels" else 0.0
    heel = (ankle.x - (toe.x - ankle.x) * 0.25, ankle.y + 0.016 - lift)
    paint = wardrobe.skin if person.shoes == "sandals" else wardrobe.shoes
    canvas.tube([(*heel, 0.026), (*ankle.point, 0.024), (toe.x, base - 0.022, 0.025)], sole)
    canvas.tube([(heel[0], heel[1] - 0.008, 0.025), (*ankle.point, 0.023), (toe.x, base - 0.031, 0.024)], paint)
    if person.shoes == "sandals":
        canvas.tube([(toe.x - 0.015, base - 0.035, 0.01), (toe.x + 0.015, base - 0.035, 0.01)], wardrobe.shoes)
    if body.visible(0.0) and person.shoes == "sneakers":
        canvas.crease([(ankle.x, ankle.y + 0.005), (toe.x, base - 0.045)], 1.25, 0.014)


def _draw_shoe_top(canvas: Canvas, person: Person, wardrobe: Wardrobe, leg: Limb, knee: float, ankle: float) -> None:
    if person.shoes == "boots":
        top = between(leg.middle.point, leg.end.point, 0.38)
        canvas.tube([(*top, knee * 0.9 + 0.006), (*leg.end.point, ankle + 0.007)], wardrobe.shoes)
    elif person.shoes == "sandals":
        canvas.tube([(*leg.end.point, ankle + 0.003), (leg.end.x, leg.end.y + 0.012, ankle + 0.003)], wardrobe.shoes)
    elif person.shoes == "sneakers":
        canvas.tube([(*leg.end.point, ankle + 0.004), (leg.end.x, leg.end.y + 0.01, ankle + 0.004)], wardrobe.shoes)


def draw_lower(canvas: Canvas, person: Person, body: Body, wardrobe: Wardrobe) -> None:
    """What joins the legs: the seat of trousers and shorts, or a skirt over both legs."""
    g, female = body.look.girth, is_female(person.kind)
    hip = (0.09 if female else 0.084) * g
    if person.lower in ("skirt", "long skirt"):
        hem, flare = (0.68, 0.045) if person.lower == "skirt" else (0.86, 0.055)
        levels = [(0.43, 0.07 * g, 0.058 * g), (0.5, hip + 0.006, 0.07 * g)]
        levels += [
            (0.5 + (hem - 0.5) * i / 3, hip + 0.006 + flare * i / 3, 0.07 * g + flare * i / 3) for i in (1, 2, 3)
        ]
        canvas.fill(body.outline(levels), wardrobe.lower)
        _shade_skirt(canvas, body, levels)
    elif person.lower != NONE:
        levels = [
            (0.44, 0.074 * g, 0.058 * g),
            (0.5, hip, 0.068 * g),
            (0.555, hip * 0.93, 0.062 * g),
            (0.575, 0.03, 0.03),
        ]
        canvas.fill(body.outline(levels), wardrobe.lower)
        canvas.model(*body.edges(levels[:3]))


def _shade_skirt(canvas: Canvas, body: Body, levels: list[Level]) -> None:
    canvas.model(*body.edges(levels))
    for part in (-0.7, -0.3, 0.15, 0.55):
        fold = [(part * body.half_width(a, t), y) for y, a, t in levels[1:]]
        canvas.crease(fold, 0.8, 0.014)
