"""Who walks where and when: straight ways between the sides of a picture and the doors in its wall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tbps_infer.data.scenes.view import View
from tbps_infer.data.synth.attributes import Person
from tbps_infer.data.synth.streams import stream

__all__ = ["Walk", "plan_walks"]

_TALL = {"man": 1.77, "woman": 1.66, "boy": 1.36, "girl": 1.32}
_LATEST = 4.0
"""Seconds before the end by which somebody has to appear, to be seen at all."""


@dataclass(frozen=True)
class Walk:
    """One person on the way through one camera's view.

    Attributes:
        identity: The person's number.
        person: What is worn and carried.
        tall: Height in metres.
        start: When the way begins, in seconds of the video; may lie before it.
        origin: Where it begins, (x, z) in metres.
        end: Where it ends.
        speed: In metres per second.
    """

    identity: int
    person: Person
    tall: float
    start: float
    origin: tuple[float, float]
    end: tuple[float, float]
    speed: float

    @property
    def duration(self) -> float:
        """Seconds from one end to the other."""
        return math.dist(self.origin, self.end) / self.speed

    @property
    def yaw(self) -> float:
        """Radians; 0 walks towards the camera, positive to the picture's right, pi away from it."""
        return math.atan2(self.end[0] - self.origin[0], self.origin[1] - self.end[1])

    def place(self, time: float) -> tuple[float, float] | None:
        """Where the person is, (x, z); None before the way begins and after it ends."""
        part = (time - self.start) / self.duration
        if not 0 <= part < 1:
            return None
        (x0, z0), (x1, z1) = self.origin, self.end
        return x0 + (x1 - x0) * part, z0 + (z1 - z0) * part

    def gait(self, time: float) -> float:
        """Phase of the step in radians: a turn for two steps, which grow with the person."""
        return 2 * math.pi * (time - self.start) * self.speed / (0.8 * self.tall)


def plan_walks(people: Mapping[int, Person], views: Sequence[View], seconds: float, seed: int) -> list[list[Walk]]:
    """The walks through every view, by their beginning; a person is in one view at a time.

    Everybody passes one camera; who comes early enough passes others too, in an order of their own.
    """
    walks: list[list[Walk]] = [[] for _ in views]
    turns = list(range(len(people)))
    stream(seed, "turns").shuffle(turns)
    for turn, (identity, person) in zip(turns, people.items(), strict=True):
        rng = stream(seed, "route", identity)
        tall = _TALL[person.kind] * rng.uniform(0.95, 1.05)
        order = rng.sample(range(len(views)), len(views))
        # Evenly over the time, so that the street is never empty; the first are on their way when the video begins.
        time = -_LATEST + seconds * (turn + rng.random()) / len(people)
        for number in order:
            origin, end = _draw_way(views[number], rng)
            walk = Walk(identity, person, tall, time, origin, end, rng.uniform(1.0, 1.5))
            walks[number].append(walk)
            time += walk.duration + rng.uniform(1.5, 4.0)
            if time > seconds - _LATEST:
                break
    return [sorted(each, key=lambda walk: walk.start) for each in walks]


def _draw_way(view: View, rng: Random) -> tuple[tuple[float, float], tuple[float, float]]:
    """From a door to a side of the picture, from side to side, or the other way round."""
    side = rng.choice((-1, 1))
    near = _beside(view, rng.uniform(3.6, 6.0), side)
    if rng.random() < 0.55:
        far = (rng.choice(view.doors), view.wall - 0.2)
    else:
        far = _beside(view, rng.uniform(7.0, 0.85 * view.wall), -side)
    return (near, far) if rng.random() < 0.5 else (far, near)


def _beside(view: View, z: float, side: int) -> tuple[float, float]:
    """A point just outside the picture."""
    return side * (view.edge(z) + 0.7), z
