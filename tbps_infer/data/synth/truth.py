"""What is true of drawn parts: which stripes show them, which words describe them, how many people share them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.dataset import Split
from tbps_infer.data.synth.attributes import NONE, Person
from tbps_infer.data.synth.captions import Caption, write_captions
from tbps_infer.data.synth.garments import CUTS
from tbps_infer.data.synth.shots import Shot, plan_shot
from tbps_infer.data.synth.visibility import visible_parts
from tbps_infer.errors import DatasetError
from tbps_infer.formats.json_files import read_json

__all__ = ["PartTruth", "described_words", "part_truth", "stripes_of", "value_shares"]

# Top and bottom of parts in body units (0 the crown, 1 the sole), as head.py, legs.py and carried.py draw them.
_HAIR = {"long": 0.27, "medium": 0.18, "ponytail": 0.215}
_LOWER = {"shorts": 0.7, "skirt": 0.68, "long skirt": 0.86}
_BAGS = {
    "backpack": (0.18, 0.445), "shoulder bag": (0.18, 0.525), "handbag": (0.5, 0.66), "shopping bag": (0.5, 0.69),
    "suitcase": (0.52, 0.97),
}  # fmt: skip
_RAISED = frozenset({"phone", "book", "cup"})
_FUNCTION_WORDS = frozenset({
    "a", "an", "and", "at", "down", "for", "her", "his", "in", "of", "on", "over", "pair", "that", "the", "to",
    "under", "up", "with",
})  # fmt: skip
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "hair": ("hair_style", "hair_colour"),
    "headwear": ("headwear", "headwear_colour"),
    "glasses": ("glasses",),
    "scarf": ("scarf_colour",),
    "outer": ("upper", "upper_colour", "pattern", "pattern_colour", "jacket", "jacket_colour"),
    "lower": ("lower", "lower_colour"),
    "shoes": ("shoes", "shoes_colour"),
    "bag": ("bag", "bag_colour"),
    "held": ("held", "held_colour"),
}
_LEAST_SHARE = 0.25


@dataclass(frozen=True)
class PartTruth:
    """What is true of one picture and its captions, for K stripes.

    Attributes:
        words: For each caption the character spans of describing words, with the stripes that show what they
            describe: ``((start, stop), bool [K])``.
        commonality: float64 ``[K]``: the sum over the values that a stripe shows of the logarithm of the share of
            identities that have them; NaN where it shows no part.
    """

    words: tuple[tuple[tuple[tuple[int, int], NDArray[np.bool_]], ...], ...]
    commonality: NDArray[np.float64]


def part_truth(root: Path, split: Split, stripes: int) -> list[PartTruth]:
    """The truth about every picture of a split of a synthetic data set, in the split's order.

    Raises:
        DatasetError: The data set was not written by ``tbps data synth``, or by another version of it.
    """
    file = root / "synth.json"
    try:
        facts = read_json(file)
        seed, height = int(facts["options"]["seed"]), int(facts["options"]["height"])
        people = {int(number): Person(**values) for number, values in facts["identities"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{file} does not tell what was drawn: {error}.", "Draw a data set with tbps data synth."
        ) from error
    shares = value_shares([people[identity] for identity in dict.fromkeys(split.identities.tolist())])
    return [
        _picture_truth(people[identity], shot, captions, shares, stripes)
        for identity, shot, captions in _drawn(split, people, seed, height)
    ]


def _drawn(
    split: Split, people: Mapping[int, Person], seed: int, height: int
) -> Iterator[tuple[int, Shot, list[Caption]]]:
    for picture in split.pictures:
        number = int(picture.path.stem.rpartition("_")[2])
        shot = plan_shot(seed, picture.identity, number, height)
        person = people[picture.identity]
        written = write_captions(person, shot, len(picture.captions), seed, picture.identity, number)
        if tuple(caption.text for caption in written) != picture.captions:
            raise DatasetError(
                f"The captions of {picture.path} are not those that its seed gives.",
                "Draw the data set again with this version of tbps data synth.",
            )
        yield picture.identity, shot, written


def _picture_truth(
    person: Person, shot: Shot, captions: Sequence[Caption], shares: Mapping[tuple[str, str], float], stripes: int
) -> PartTruth:
    seen = visible_parts(person, shot)
    hidden = {
        "hair": seen.hair == "none",
        "glasses": not seen.face,
        "shoes": not seen.feet,
        "bag": seen.bag == "none",
        "held": not seen.held,
    }
    nowhere = np.zeros(stripes, np.bool_)
    shown = {part: nowhere if hidden.get(part) else stripes_of(part, person, shot, stripes) for part in _ATTRIBUTES}
    commonality = np.full(stripes, np.nan)
    for part, where in shown.items():
        values = [(name, getattr(person, name)) for name in _ATTRIBUTES[part]]
        logarithm = sum(math.log(shares[value]) for value in values if value[1] != NONE)
        commonality[where] = np.nan_to_num(commonality[where]) + logarithm
    words = tuple(
        tuple((span, shown[part]) for span, part in described_words(caption) if shown[part].any())
        for caption in captions
    )
    return PartTruth(words, commonality)


def value_shares(people: Sequence[Person]) -> dict[tuple[str, str], float]:
    """The share of identities that have each (attribute, value)."""
    counts = Counter(pair for person in people for pair in person.to_json().items())
    return {pair: count / len(people) for pair, count in counts.items()}


def described_words(caption: Caption) -> list[tuple[tuple[int, int], str]]:
    """Character spans of the words that describe parts, with the part; articles and prepositions describe none."""
    spans: list[tuple[tuple[int, int], str]] = []
    text = caption.text.lower()
    for part, phrase in caption.phrases:
        start = text.index(phrase.lower())
        for word in re.finditer(r"[a-z-]+", phrase.lower()):
            if word.group() not in _FUNCTION_WORDS:
                spans.append(((start + word.start(), start + word.end()), part))
    return spans


def stripes_of(part: str, person: Person, shot: Shot, stripes: int) -> NDArray[np.bool_]:
    """Which of K stripes of a crop show a part: bool ``[K]``.

    A stripe shows it if the part covers a quarter of the stripe's height, or a quarter of the part lies in it.
    """
    extent = _extent(part, person)
    if extent is None or extent[0] >= extent[1]:  # absent, or wholly under a long coat
        return np.zeros(stripes, np.bool_)
    top, bottom = (shot.top + shot.figure * y for y in extent)
    edges = np.linspace(0, 1, stripes + 1)
    inside = np.clip(np.minimum(bottom, edges[1:]) - np.maximum(top, edges[:-1]), 0, None)
    least = _LEAST_SHARE * min(1 / stripes, bottom - top)
    shows: NDArray[np.bool_] = inside >= least - 1e-9
    return shows


def _extent(part: str, person: Person) -> tuple[float, float] | None:
    """Top and bottom of a part in body units; None for a part that the person lacks."""
    if any(getattr(person, name) == NONE for name in _ATTRIBUTES[part][:1]):
        return None
    garment = person.upper if person.jacket == NONE else person.jacket
    if part == "hair":
        return 0.0, _HAIR.get(person.hair_style, 0.13)
    if part == "lower":
        return CUTS[garment].hem, _LOWER.get(person.lower, 0.96)
    if part == "bag":
        return _BAGS[person.bag]
    if part == "held":
        return (0.27, 0.4) if person.held in _RAISED else (0.47, 0.58)
    if part == "shoes":
        return (0.82 if person.shoes == "boots" else 0.94), 1.0
    fixed = {"headwear": (-0.01, 0.06), "glasses": (0.05, 0.09), "scarf": (0.128, 0.182)}
    return fixed.get(part, (0.15, CUTS[garment].hem))
