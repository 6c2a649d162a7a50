"""The body: a small skeleton posed in three dimensions and seen from the shot's side.

Body units: 1 is the person's height. Body axes: x to the person's left, y down from the crown, z forward.
The view turns by `yaw` and looks down by the camera's pitch; only pictures of points are kept, with their depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tbps_infer.data.synth.attributes import Person, is_female
from tbps_infer.data.synth.canvas import Point
from tbps_infer.data.synth.palette import RGB, SKIN_TONES
from tbps_infer.data.synth.shots import Shot
from tbps_infer.data.synth.streams import stream

__all__ = ["SIDES", "Body", "Joint", "Level", "Limb", "Look", "between", "look_of", "pose"]

Level = tuple[float, float, float]
"""Height and half axes of an ellipse around the body: (y, across, through)."""

SIDES = {"left": 1.0, "right": -1.0}


@dataclass(frozen=True)
class Look:
    """What stays the same between an identity's pictures and no caption speaks of."""

    skin: RGB
    shoulder: float
    girth: float
    head: float
    shade_seed: int


@dataclass(frozen=True, slots=True)
class Joint:
    """A point of the body in the picture: position in body units, and how far it is towards the camera."""

    x: float
    y: float
    depth: float

    @property
    def point(self) -> Point:
        """Where it is in the picture."""
        return self.x, self.y


@dataclass(frozen=True, slots=True)
class Limb:
    """Shoulder, elbow, wrist, hand; or hip, knee, ankle, toe."""

    root: Joint
    middle: Joint
    end: Joint
    tip: Joint

    @property
    def depth(self) -> float:
        """The mean of the middle and the end."""
        return (self.middle.depth + self.end.depth) / 2


@dataclass(frozen=True)
class Body:
    """A posed body and the way it is seen."""

    yaw: float
    tilt: float
    look: Look
    arms: dict[str, Limb]
    legs: dict[str, Limb]

    def project(self, x: float, y: float, z: float) -> Joint:
        """A point in body axes, as the picture shows it."""
        depth = z * math.cos(self.yaw) - x * math.sin(self.yaw)
        return Joint(x * math.cos(self.yaw) + z * math.sin(self.yaw), y + depth * self.tilt, depth)

    def half_width(self, across: float, through: float) -> float:
        """Half the outline's width of an upright ellipse with these radii sideways and forward."""
        return math.hypot(across * math.cos(self.yaw), through * math.sin(self.yaw))

    def visible(self, angle: float) -> bool:
        """Whether the surface at `angle` degrees from the front (positive: the person's left) faces the camera."""
        return math.cos(math.radians(angle) + self.yaw) > 0.0

    def span(self, start: float, end: float) -> tuple[float, float] | None:
        """The part of the surface between two angles, in degrees, that faces the camera; None when hidden."""
        turn = math.degrees(self.yaw)
        for middle in (-turn - 360, -turn, -turn + 360):
            low, high = max(start, middle - 90), min(end, middle + 90)
            if low < high:
                return low, high
        return None

    def surface(self, angle: float, y: float, across: float, through: float) -> Point:
        """A point on an upright ellipse, at `angle` degrees from the front."""
        turn = math.radians(angle)
        return self.project(across * math.sin(turn), y, through * math.cos(turn)).x, y

    def patch(self, start: float, end: float, levels: Sequence[Level]) -> list[Point]:
        """The outline of a piece of surface between two angles; [] when it is hidden."""
        seen = self.span(start, end)
        if seen is None:
            return []
        one = [self.surface(seen[0], y, a, t) for y, a, t in levels]
        other = [self.surface(seen[1], y, a, t) for y, a, t in levels]
        return one + other[::-1]

    def edges(self, levels: Sequence[Level]) -> tuple[list[Point], list[Point]]:
        """Both edges of an upright shape given as levels of (y, across, through)."""
        widths = [(y, self.half_width(a, t)) for y, a, t in levels]
        return [(-w, y) for y, w in widths], [(w, y) for y, w in widths]

    def outline(self, levels: Sequence[Level]) -> list[Point]:
        """The outline of an upright shape given as levels of (y, across, through)."""
        left, right = self.edges(levels)
        return [*left, *reversed(right)]


def between(a: Point, b: Point, part: float) -> Point:
    """The point a share of the way from `a` to `b`."""
    return a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part


def look_of(seed: int, identity: int, person: Person) -> Look:
    """The unnamed traits of an identity."""
    rng = stream(seed, "look", identity)
    girth = {"slim": 0.9, "average": 1.0, "heavy": 1.2}[person.build]
    child = person.kind in ("boy", "girl")
    return Look(
        skin=SKIN_TONES[rng.choices(range(5), (30, 34, 18, 10, 8))[0]],
        shoulder=(0.101 if is_female(person.kind) else 0.113) * (0.6 + 0.4 * girth) * rng.uniform(0.97, 1.03),
        girth=girth * rng.uniform(0.97, 1.03) * (1.05 if child else 1.0),
        head=1.3 if child else 1.0,
        shade_seed=rng.getrandbits(32),
    )


def _arm(body: Body, side: float, swing: float, raise_: float) -> Limb:
    """An arm that hangs and swings; `raise_` bends the elbow forward, in radians."""
    spread = 0.16 + 0.08 * (body.look.girth - 1)
    shoulder = (side * (body.look.shoulder - 0.024), 0.213, 0.0)
    upper, fore, hand = 0.136, 0.132, 0.04

    def step(
        start: tuple[float, float, float], length: float, angle: float, out: float
    ) -> tuple[float, float, float]:
        down = math.cos(angle) * length
        return (
            start[0] + side * math.sin(out) * length,
            start[1] + down * math.cos(out),
            start[2] + math.sin(angle) * length,
        )

    bend = 0.18 + max(0.0, swing) * 0.5 + raise_
    elbow = step(shoulder, upper, swing * 0.7, spread)
    wrist = step(elbow, fore, swing * 0.7 + bend, 0.03 - 0.18 * min(1.0, raise_))
    palm = step(wrist, hand, swing * 0.7 + bend, 0.0)
    return Limb(body.project(*shoulder), body.project(*elbow), body.project(*wrist), body.project(*palm))


def _leg(body: Body, side: float, swing: float) -> Limb:
    hip = (side * 0.046 * (0.4 + 0.6 * body.look.girth), 0.5, 0.0)
    thigh, shin = 0.235, 0.225
    bend = 0.1 + (0.75 * -swing if swing < 0 else 0.0)
    knee = (hip[0] + side * 0.006, hip[1] + thigh * math.cos(swing), hip[2] + thigh * math.sin(swing))
    low = swing - bend
    ankle = (knee[0] + side * 0.002, knee[1] + shin * math.cos(low), knee[2] + shin * math.sin(low))
    toe = (ankle[0] + side * 0.018, min(ankle[1] + 0.028, 0.99), ankle[2] + 0.088)
    return Limb(body.project(*hip), body.project(*knee), body.project(*ankle), body.project(*toe))


def pose(person: Person, shot: Shot, look: Look) -> Body:
    """Pose the body for a shot: legs and arms swing against each other, a hand that shows something is raised."""
    body = Body(shot.yaw, math.tan(math.radians(shot.camera.pitch)), look, {}, {})
    for name, side in SIDES.items():
        raised = 1.35 if person.held in ("phone", "book", "cup") and person.held_side == name else 0.0
        still = raised > 0 or (person.bag in ("handbag", "suitcase", "shopping bag") and person.bag_side == name)
        swing = side * shot.arm_swing * (0.2 if still else 1.0)
        body.arms[name] = _arm(body, side, swing, raised)
        body.legs[name] = _leg(body, side, side * shot.stride)
    return body
