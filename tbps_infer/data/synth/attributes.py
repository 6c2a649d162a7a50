"""What a synthetic person is: one value per part, from skewed tables; parts are shared, combinations are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from tbps_infer.data.synth.palette import COLOURS
from tbps_infer.data.synth.streams import pick, stream

__all__ = ["NONE", "Person", "draw_people", "draw_person", "is_female"]

NONE = "none"


@dataclass(frozen=True)
class Person:
    """The describable parts of one identity; `NONE` where a part is absent. Sides are the person's own."""

    kind: str
    build: str
    hair_style: str
    hair_colour: str
    headwear: str
    headwear_colour: str
    glasses: str
    upper: str
    upper_colour: str
    pattern: str
    pattern_colour: str
    jacket: str
    jacket_colour: str
    lower: str
    lower_colour: str
    shoes: str
    shoes_colour: str
    scarf_colour: str
    bag: str
    bag_colour: str
    bag_side: str
    held: str
    held_colour: str
    held_side: str

    def to_json(self) -> dict[str, str]:
        """Attribute to value, in the order of the fields."""
        return dataclasses.asdict(self)


# Few values are common and most are rare, as on a real street; the ratios of a table fall off like 1/rank.
_KIND = {"man": 46.0, "woman": 44.0, "boy": 5.0, "girl": 5.0}
_BUILD = {"average": 66.0, "slim": 20.0, "heavy": 14.0}
_HAIR_COLOUR = {"black": 52.0, "brown": 27.0, "blonde": 11.0, "grey": 7.0, "red": 3.0}
_HAIR_MALE = {"short": 84.0, "bald": 8.0, "medium": 5.0, "ponytail": 3.0}
_HAIR_FEMALE = {"long": 38.0, "ponytail": 27.0, "medium": 17.0, "bun": 10.0, "short": 8.0}
_HEADWEAR = {NONE: 80.0, "cap": 11.0, "beanie": 5.0, "sun hat": 4.0}
_GLASSES = {NONE: 77.0, "glasses": 17.0, "sunglasses": 6.0}
_COLOUR = {
    "black": 22.0, "white": 18.0, "grey": 11.0, "blue": 9.0, "red": 8.0, "navy": 6.0, "pink": 5.0,
    "light blue": 4.5, "green": 4.0, "yellow": 3.0, "brown": 2.6, "beige": 2.4, "purple": 2.2, "orange": 2.0,
    "burgundy": 1.7, "olive": 1.6,
}  # fmt: skip
_UPPER_MALE = {"t-shirt": 34.0, "shirt": 17.0, "polo": 12.0, "jacket": 11.0, "hoodie": 9.0, "sweater": 8.0,
               "coat": 4.0, "down jacket": 3.0, "tank top": 2.0}  # fmt: skip
_UPPER_FEMALE = {"t-shirt": 27.0, "blouse": 14.0, "dress": 12.0, "sweater": 9.0, "jacket": 9.0, "coat": 8.0,
                 "shirt": 6.0, "hoodie": 5.0, "tank top": 4.0, "long dress": 3.0, "down jacket": 3.0}  # fmt: skip
_INNER = {"t-shirt": 50.0, "shirt": 30.0, "sweater": 12.0, "tank top": 8.0}
_PATTERN = {"plain": 54.0, "logo": 14.0, "striped": 13.0, "checked": 8.0, "contrast sleeves": 6.0, "dotted": 5.0}
_PATTERN_OF = {
    "shirt": {"plain": 55.0, "checked": 27.0, "striped": 14.0, "dotted": 4.0},
    "blouse": {"plain": 66.0, "dotted": 18.0, "striped": 12.0, "checked": 4.0},
    "polo": {"plain": 66.0, "striped": 28.0, "contrast sleeves": 6.0},
    "tank top": {"plain": 70.0, "logo": 15.0, "striped": 15.0},
    "dress": {"plain": 60.0, "dotted": 20.0, "striped": 12.0, "checked": 8.0},
    "long dress": {"plain": 66.0, "dotted": 20.0, "striped": 14.0},
    "jacket": {"plain": 82.0, "contrast sleeves": 12.0, "logo": 6.0},
    "coat": {"plain": 92.0, "checked": 8.0},
    "down jacket": {"plain": 1.0},
}
_JACKET = {NONE: 78.0, "jacket": 10.0, "suit jacket": 4.5, "cardigan": 3.5, "denim jacket": 2.5, "vest": 1.5}
_LOWER_MALE = {"trousers": 43.0, "jeans": 30.0, "shorts": 19.0, "track pants": 8.0}
_LOWER_FEMALE = {"jeans": 28.0, "trousers": 24.0, "skirt": 15.0, "shorts": 14.0, "leggings": 11.0, "long skirt": 5.0,
                 "track pants": 3.0}  # fmt: skip
_LOWER_COLOUR = {"black": 42.0, "grey": 14.0, "navy": 10.0, "beige": 9.0, "blue": 6.0, "white": 5.5, "brown": 4.0,
                 "olive": 3.5, "red": 2.0, "pink": 1.6, "green": 1.4, "yellow": 1.0}  # fmt: skip
_JEANS_COLOUR = {"blue": 54.0, "navy": 19.0, "black": 13.0, "light blue": 11.0, "grey": 3.0}
_SHOES_MALE = {"sneakers": 60.0, "dress shoes": 22.0, "boots": 9.0, "sandals": 9.0}
_SHOES_FEMALE = {"sneakers": 47.0, "boots": 15.0, "sandals": 14.0, "high heels": 13.0, "flats": 11.0}
_SHOES_COLOUR = {"white": 36.0, "black": 33.0, "grey": 9.0, "brown": 6.0, "red": 5.0, "blue": 4.0, "beige": 3.0,
                 "pink": 2.0, "yellow": 1.0, "green": 1.0}  # fmt: skip
_BAG = {NONE: 36.0, "backpack": 27.0, "shoulder bag": 15.0, "handbag": 11.0, "shopping bag": 6.0, "suitcase": 5.0}
_BAG_MALE = {NONE: 45.0, "backpack": 33.0, "shoulder bag": 11.0, "shopping bag": 6.0, "suitcase": 5.0}
_BAG_COLOUR = {"black": 40.0, "red": 10.0, "brown": 10.0, "blue": 8.0, "grey": 8.0, "white": 7.0, "pink": 4.0,
               "yellow": 4.0, "green": 4.0, "purple": 3.0, "orange": 2.0}  # fmt: skip
_HELD = {NONE: 62.0, "phone": 12.0, "bottle": 8.0, "umbrella": 7.0, "book": 6.0, "cup": 5.0}
_HELD_COLOUR = {
    "phone": {"black": 1.0},
    "bottle": {"light blue": 50.0, "green": 25.0, "white": 15.0, "red": 10.0},
    "umbrella": {"black": 40.0, "red": 18.0, "blue": 16.0, "purple": 10.0, "yellow": 8.0, "green": 8.0},
    "book": {"white": 40.0, "red": 25.0, "blue": 20.0, "green": 15.0},
    "cup": {"white": 70.0, "brown": 30.0},
}
_SIDE = {"left": 1.0, "right": 1.0}
_WARM = frozenset({"jacket", "coat", "down jacket", "hoodie", "sweater"})
_DRESSES = frozenset({"dress", "long dress"})
_OPENABLE = frozenset({"t-shirt", "shirt", "sweater", "tank top", "polo"})


def is_female(kind: str) -> bool:
    """Whether the pronoun is "she"."""
    return kind in ("woman", "girl")


def _other_colour(rng: Random, colour: str, weights: Mapping[str, float]) -> str:
    """A colour far enough from `colour` that the two are told apart in a small, noisy crop."""
    distant = {
        name: weight
        for name, weight in weights.items()
        if sum(abs(a - b) for a, b in zip(COLOURS[name], COLOURS[colour], strict=True)) > 190
    }
    return pick(rng, distant)


def _draw_pattern(rng: Random, upper: str, colour: str) -> tuple[str, str]:
    pattern = pick(rng, _PATTERN_OF.get(upper, _PATTERN))
    if pattern == "plain":
        return pattern, NONE
    return pattern, _other_colour(rng, colour, _COLOUR)


def _draw_upper(rng: Random, female: bool) -> dict[str, str]:
    upper = pick(rng, _UPPER_FEMALE if female else _UPPER_MALE)
    jacket = pick(rng, _JACKET) if upper in _OPENABLE else NONE
    if jacket != NONE:
        upper = pick(rng, _INNER)
    colour = pick(rng, _COLOUR)
    pattern, pattern_colour = _draw_pattern(rng, upper, colour)
    jacket_colour = NONE
    if jacket == "denim jacket":
        jacket_colour = pick(rng, {"blue": 60.0, "light blue": 40.0})
    elif jacket != NONE:
        jacket_colour = pick(rng, _COLOUR)
    if jacket != NONE and jacket_colour == colour:
        colour, pattern, pattern_colour = _other_colour(rng, jacket_colour, _COLOUR), "plain", NONE
    return {
        "upper": upper, "upper_colour": colour, "pattern": pattern, "pattern_colour": pattern_colour,
        "jacket": jacket, "jacket_colour": jacket_colour,
    }  # fmt: skip


def _draw_lower(rng: Random, female: bool, upper: str) -> dict[str, str]:
    if upper in _DRESSES:
        return {"lower": NONE, "lower_colour": NONE}
    lower = pick(rng, _LOWER_FEMALE if female else _LOWER_MALE)
    colour = pick(rng, _JEANS_COLOUR if lower == "jeans" else _LOWER_COLOUR)
    return {"lower": lower, "lower_colour": colour}


def _draw_carried(rng: Random, female: bool) -> dict[str, str]:
    bag = pick(rng, _BAG if female else _BAG_MALE)
    bag_side = NONE if bag in (NONE, "backpack") else pick(rng, _SIDE)
    held = pick(rng, _HELD)
    in_hand = bag in ("handbag", "suitcase", "shopping bag")
    held_side = pick(rng, _SIDE)
    if in_hand:
        held_side = "left" if bag_side == "right" else "right"
    return {
        "bag": bag,
        "bag_colour": NONE if bag == NONE else pick(rng, _BAG_COLOUR),
        "bag_side": bag_side,
        "held": held,
        "held_colour": NONE if held == NONE else pick(rng, _HELD_COLOUR[held]),
        "held_side": NONE if held == NONE else held_side,
    }


def draw_person(rng: Random) -> Person:
    """Draw one value per part, with a wardrobe's dependencies: no skirt under a dress, no bun under a hat."""
    kind = pick(rng, _KIND)
    female = is_female(kind)
    hair_style = pick(rng, _HAIR_FEMALE if female else _HAIR_MALE)
    if kind == "boy" and hair_style == "bald":
        hair_style = "short"
    headwear = pick(rng, _HEADWEAR)
    if hair_style == "bun" and headwear != NONE:
        hair_style = "ponytail"
    upper = _draw_upper(rng, female)
    warm = upper["upper"] in _WARM or upper["jacket"] != NONE
    return Person(
        kind=kind,
        build=pick(rng, _BUILD),
        hair_style=hair_style,
        hair_colour=NONE if hair_style == "bald" else pick(rng, _HAIR_COLOUR),
        headwear=headwear,
        headwear_colour=NONE if headwear == NONE else pick(rng, _COLOUR),
        glasses=pick(rng, _GLASSES),
        **upper,
        **_draw_lower(rng, female, upper["upper"]),
        shoes=pick(rng, _SHOES_FEMALE if female else _SHOES_MALE),
        shoes_colour=pick(rng, _SHOES_COLOUR),
        scarf_colour=pick(rng, _COLOUR) if warm and rng.random() < 0.15 else NONE,
        **_draw_carried(rng, female),
    )


def draw_people(seed: int) -> Iterator[Person]:
    """Endless people, no two with the same attributes; person j (from 1) depends on `seed` and j alone."""
    seen: set[Person] = set()
    number = 0
    while True:
        number += 1
        attempt = 0
        while (person := draw_person(stream(seed, "person", number, attempt))) in seen:
            attempt += 1
        seen.add(person)
        yield person
