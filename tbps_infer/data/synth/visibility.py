"""Which parts of a person one shot shows: captions speak of these and of nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tbps_infer.data.synth.attributes import NONE, Person
from tbps_infer.data.synth.body import SIDES
from tbps_infer.data.synth.shots import Shot

__all__ = ["Visible", "visible_parts"]

_FRONT = 0.3


@dataclass(frozen=True)
class Visible:
    """What can be seen.

    Attributes:
        face: The face, and with it glasses.
        chest: The front of the upper garment: a logo, the shirt under an open jacket.
        feet: The shoes.
        hair: "all", "tied" (a ponytail from the front), "covered" (by a hat) or "none".
        bag: "all", "straps" or "none".
        held: The thing in the hand.
    """

    face: bool
    chest: bool
    feet: bool
    hair: str
    bag: str
    held: bool


def _near(shot: Shot, side: str) -> bool:
    """Whether one side of the body is not turned away."""
    return SIDES[side] * math.sin(shot.yaw) < 0.6


def _hair(person: Person, shot: Shot) -> str:
    if person.headwear != NONE:
        return "none" if person.hair_style in ("bald", "short") else "covered"
    if person.hair_style == "ponytail" and shot.facing > 0.8:
        return "tied"
    return "all"


def _bag(person: Person, shot: Shot) -> str:
    if person.bag == NONE:
        return "none"
    if person.bag == "backpack":
        return "all" if shot.facing < 0 or abs(math.sin(shot.yaw)) > 0.7 else "straps"
    return "all" if _near(shot, person.bag_side) else "none"


def visible_parts(person: Person, shot: Shot) -> Visible:
    """Decide from the view, the framing and what is in the way."""
    shown = person.held != NONE and _near(shot, person.held_side)
    raised = person.held in ("phone", "book", "cup")
    return Visible(
        face=shot.facing > 0,
        chest=shot.facing > _FRONT,
        feet=shot.shows_feet,
        hair=_hair(person, shot),
        bag=_bag(person, shot),
        held=shown and (shot.facing > 0 or not raised),
    )
