"""Every attribute is in the pixels where it belongs, and nothing is where the view hides it."""

from __future__ import annotations

import dataclasses
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tbps_infer.data.synth.attributes import NONE, Person
from tbps_infer.data.synth.body import look_of
from tbps_infer.data.synth.figure import draw_figure, framing_of
from tbps_infer.data.synth.palette import COLOURS
from tbps_infer.data.synth.picture import draw_jpeg
from tbps_infer.data.synth.scene import draw_occluder
from tbps_infer.data.synth.shots import Camera, Shot, plan_shot

PLAIN = Person(
    kind="man", build="average", hair_style="short", hair_colour="black", headwear=NONE, headwear_colour=NONE,
    glasses=NONE, upper="t-shirt", upper_colour="white", pattern="plain", pattern_colour=NONE, jacket=NONE,
    jacket_colour=NONE, lower="trousers", lower_colour="black", shoes="sneakers", shoes_colour="white",
    scarf_colour=NONE, bag=NONE, bag_colour=NONE, bag_side=NONE, held=NONE, held_colour=NONE, held_side=NONE,
)  # fmt: skip
LEVEL = Camera("level", "street", (1.0, 1.0, 1.0), 1.0, 1.0, 1.0, -0.2, 0.0, 0.0, (1.0, 1.0), (95, 95))
FRONT = Shot(
    camera=LEVEL, width=90, height=256, yaw=0.0, stride=0.0, arm_swing=0.0, figure=0.9, top=0.05, shift=0.0, lean=0.0,
    bow=0.0, brightness=1.0, motion=0.0, detail=1.0, quality=95, occluder="none", occluder_side=1,
)  # fmt: skip
BACK = dataclasses.replace(FRONT, yaw=math.pi)
SIDE = dataclasses.replace(FRONT, yaw=math.radians(50))
CHEST = (slice(80, 130), slice(35, 55))
SHINS = (slice(195, 225), slice(30, 60))


def drawn(shot: Shot = FRONT, **changes: str) -> NDArray[np.float32]:
    """The person over mid grey, float32 [256, 90, 3]."""
    person = dataclasses.replace(PLAIN, **changes)
    # The look belongs to the identity: it must not change with the attribute under test.
    colours, cover = draw_figure(person, shot, look_of(0, 1, PLAIN))
    return np.asarray(128 + (colours - 128) * cover, dtype=np.float32)


def changed(shot: Shot, **changes: str) -> NDArray[np.bool_]:
    """Where the changes show: bool [256, 90]."""
    return np.asarray(np.abs(drawn(shot, **changes) - drawn(shot)).max(axis=2) > 12)


def nearest(pixels: NDArray[np.float32]) -> str:
    """The palette's name of a region's median colour."""
    median = np.median(pixels.reshape(-1, 3), axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(median - COLOURS[name]).sum()))


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_garments_have_their_colour(colour: str) -> None:
    assert nearest(drawn(upper_colour=colour)[CHEST]) == colour
    legs = drawn(lower_colour=colour)[SHINS]
    covered = legs[np.abs(legs - 128).max(axis=2) > 3]
    if colour != "grey":
        assert nearest(covered) == colour


@pytest.mark.parametrize("pattern", ["striped", "checked", "dotted"])
def test_patterns_survive_a_crop_of_96_by_32(pattern: str) -> None:
    def contrast(**changes: str) -> float:
        small = Image.fromarray(drawn(FRONT, **changes).astype(np.uint8)).resize((32, 96), Image.Resampling.BICUBIC)
        chest = np.asarray(small, dtype=np.float32)[28:49, 12:20]
        return float(chest.std(axis=(0, 1)).mean())

    assert contrast(pattern=pattern, pattern_colour="black") > 40
    assert contrast() < 15


ONE_EACH: dict[str, dict[str, Any]] = {
    "kind": {"kind": "woman"},
    "hair_style": {"hair_style": "long"},
    "hair_colour": {"hair_colour": "blonde"},
    "headwear": {"headwear": "cap", "headwear_colour": "red"},
    "glasses": {"glasses": "sunglasses"},
    "upper": {"upper": "shirt"},
    "upper_colour": {"upper_colour": "light blue"},
    "pattern": {"pattern": "logo", "pattern_colour": "red"},
    "jacket": {"jacket": "cardigan", "jacket_colour": "brown"},
    "lower": {"lower": "shorts"},
    "lower_colour": {"lower_colour": "navy"},
    "shoes": {"shoes": "boots"},
    "shoes_colour": {"shoes_colour": "red"},
    "scarf": {"scarf_colour": "green"},
    "handbag": {"bag": "handbag", "bag_colour": "brown", "bag_side": "left"},
    "shoulder bag": {"bag": "shoulder bag", "bag_colour": "red", "bag_side": "left"},
    "suitcase": {"bag": "suitcase", "bag_colour": "red", "bag_side": "left"},
    "shopping bag": {"bag": "shopping bag", "bag_colour": "red", "bag_side": "left"},
    "phone": {"held": "phone", "held_colour": "black", "held_side": "left"},
    "umbrella": {"held": "umbrella", "held_colour": "red", "held_side": "left"},
    "bottle": {"held": "bottle", "held_colour": "green", "held_side": "left"},
    "book": {"held": "book", "held_colour": "red", "held_side": "left"},
    "cup": {"held": "cup", "held_colour": "brown", "held_side": "left"},
}


@pytest.mark.parametrize("name", ONE_EACH)
def test_every_attribute_shows_from_the_front(name: str) -> None:
    assert changed(FRONT, **ONE_EACH[name]).sum() > 40


@pytest.mark.parametrize("kind", ["slim", "heavy"])
def test_build_changes_the_outline(kind: str) -> None:
    def width(person: Person) -> float:
        _, cover = draw_figure(person, FRONT, look_of(0, 1, person))
        return float(cover[100:150].sum())

    ratio = width(dataclasses.replace(PLAIN, build=kind)) / width(PLAIN)
    assert ratio < 0.96 if kind == "slim" else ratio > 1.05


@pytest.mark.parametrize("hidden", [{"glasses": "glasses"}, {"pattern": "logo", "pattern_colour": "red"}])
def test_the_back_hides_the_face_and_the_chest(hidden: dict[str, str]) -> None:
    assert not changed(BACK, **hidden).any()


def test_a_backpack_shows_from_behind_and_its_straps_from_the_front() -> None:
    pack = {"bag": "backpack", "bag_colour": "red"}
    behind, front, side = (int(changed(shot, **pack).sum()) for shot in (BACK, FRONT, SIDE))
    assert behind > 4 * front > 0
    assert side > 2 * front
    assert nearest(drawn(BACK, **pack)[80:90, 38:52]) == "red"


def test_an_open_jacket_shows_the_shirt_from_the_front_only() -> None:
    worn = {"jacket": "jacket", "jacket_colour": "red"}
    assert nearest(drawn(FRONT, **worn)[100:130, 42:48]) == "white"
    assert nearest(drawn(BACK, **worn)[100:130, 42:48]) == "red"


@pytest.mark.parametrize(("side", "columns"), [("left", slice(60, 90)), ("right", slice(0, 30))])
def test_sides_are_the_persons_own(side: str, columns: slice) -> None:
    """The left hand is on the picture's right from the front and on its left from behind."""
    where = changed(FRONT, bag="handbag", bag_colour="red", bag_side=side)
    assert where[:, columns].sum() > 0.9 * where.sum()
    mirrored = changed(BACK, bag="handbag", bag_colour="red", bag_side=side)
    assert mirrored[:, columns].sum() < 0.1 * mirrored.sum()


def test_bytes_depend_on_the_numbers_only() -> None:
    shot = plan_shot(5, 9, 1, 128)
    assert draw_jpeg(PLAIN, shot, 5, 9, 1) == draw_jpeg(PLAIN, shot, 5, 9, 1)
    assert draw_jpeg(PLAIN, shot, 5, 9, 1) != draw_jpeg(PLAIN, shot, 6, 9, 1)


@pytest.mark.parametrize("occluder", ["pole", "railing", "passer-by", "foliage"])
@pytest.mark.parametrize(("figure", "top"), [(1.15, 0.02), (0.7, 0.28), (1.0, -0.05)])
def test_an_obstacle_may_reach_beyond_the_crop(occluder: str, figure: float, top: float) -> None:
    shot = dataclasses.replace(FRONT, occluder=occluder, figure=figure, top=top)
    for seed in range(8):
        image = Image.new("RGB", (shot.width, shot.height), (1, 2, 3))
        draw_occluder(image, shot, framing_of(shot), Random(seed))
        assert np.asarray(image).max() > 3
