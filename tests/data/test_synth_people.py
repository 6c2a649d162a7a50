"""Synthetic identities share parts, are skewed like a street, and never share everything."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, islice

import pytest

from tbps_infer.data.synth.attributes import NONE, draw_people
from tbps_infer.data.synth.palette import COLOURS
from tbps_infer.data.synth.shots import CAMERAS, plan_shot

PEOPLE = list(islice(draw_people(3), 3000))


def test_no_two_identities_are_equal() -> None:
    assert len(set(PEOPLE)) == len(PEOPLE)


def test_an_identity_depends_on_seed_and_number_only() -> None:
    assert list(islice(draw_people(3), 50)) == PEOPLE[:50]
    assert list(islice(draw_people(4), 50)) != PEOPLE[:50]


def test_parts_are_skewed() -> None:
    colours = Counter(person.upper_colour for person in PEOPLE)
    assert set(colours) == set(COLOURS)
    shares = sorted((count / len(PEOPLE) for count in colours.values()), reverse=True)
    assert shares[0] > 0.17
    assert shares[0] > 8 * shares[-1]
    black_trousers = sum(p.lower in ("trousers", "jeans") and p.lower_colour == "black" for p in PEOPLE) / len(PEOPLE)
    red_hats = sum(p.headwear != NONE and p.headwear_colour == "red" for p in PEOPLE) / len(PEOPLE)
    assert black_trousers > 0.12
    assert 0 < red_hats < 0.03


def test_others_are_near_so_that_only_combinations_tell_people_apart() -> None:
    """Among 200 people nearly everybody has somebody with the same kind, upper colour and lower colour."""
    keys = [(p.kind, p.upper_colour, p.lower_colour) for p in PEOPLE[:200]]
    shared = Counter(keys)
    assert sum(shared[key] > 1 for key in keys) > 80
    values = [tuple(p.to_json().values()) for p in PEOPLE[:200]]
    equal = [sum(a == b for a, b in zip(x, y, strict=True)) / len(x) for x, y in combinations(values, 2)]
    assert max(equal) >= 0.75


def test_parts_fit_each_other() -> None:
    for person in PEOPLE:
        values = person.to_json()
        for part in ("headwear", "jacket", "bag", "held"):
            assert (values[part] == NONE) == (values[f"{part}_colour"] == NONE)
        assert (person.upper in ("dress", "long dress")) == (person.lower == NONE)
        assert (person.pattern == "plain") == (person.pattern_colour == NONE)
        assert person.jacket_colour != person.upper_colour
        if person.bag in ("handbag", "suitcase", "shopping bag") and person.held != NONE:
            assert person.held_side != person.bag_side


def test_six_pictures_come_from_six_cameras() -> None:
    for identity in range(1, 20):
        shots = [plan_shot(0, identity, picture, 256) for picture in range(6)]
        assert {shot.camera.name for shot in shots} == set(CAMERAS)
    assert plan_shot(0, 5, 2, 256) == plan_shot(0, 5, 2, 256)
    backs = sum(plan_shot(0, identity, 0, 256).facing < 0 for identity in range(1000)) / 1000
    assert backs == pytest.approx(0.30, abs=0.06)
