"""The pictures and captions that INT8 is calibrated on, and those that it is judged on: other people, never the same.

A data set gives its train split to calibrate on, and its val split, or a third of the train split's people where it
has none, to judge on. Its test split is not touched, so an evaluation on it stays one on unseen data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tbps_infer.data.dataset import Picture, Split
from tbps_infer.errors import DatasetError, UsageError
from tbps_infer.verification.evaluation_set import EvaluationSet, first_of_equals, labelled_set
from tbps_infer.verification.tolerances import LEAST_DISTINCT

__all__ = ["CALIBRATE_AT_MOST", "JUDGE_AT_MOST", "Calibration", "read_calibration"]

CALIBRATE_AT_MOST = 256
JUDGE_AT_MOST = 512
"""Pictures of each part. With 512 of two captions each, one query is 0.1 points of R@1."""

_CAPTION_COLUMNS = ("caption", "text")
_HELD_OUT = 3
"""One in so many people is held out, where no split is."""


@dataclass(frozen=True)
class Calibration:
    """What INT8 is made from and judged on.

    Attributes:
        calibrate: What activations are measured on.
        judge: What the gate looks at: no picture, and where there are labels no person, of ``calibrate``.
    """

    calibrate: EvaluationSet
    judge: EvaluationSet

    def to_json(self) -> dict[str, Any]:
        """Names, counts and a hash of both."""
        return {"calibrated_on": self.calibrate.to_json(), "judged_on": self.judge.to_json()}


def read_calibration(data: Path) -> Calibration:
    """Read a data set's folder, or a list of pictures with captions in a column ``caption`` or ``text``.

    A list with an ``id`` for every picture has labels; entries that its ``split`` column calls ``test`` are left out.
    Pictures are decoded here, and of those with the same pixels the first alone is taken.

    Raises:
        UsageError: There are too few different pictures with captions, or too few different captions.
        DatasetError: The data set cannot be read.
        SourceError: The list cannot be read.
        ImageError: A picture cannot be read.
    """
    from tbps_infer.data.readers import find_annotations, read_dataset

    file, form = find_annotations(data, "train")
    if form is None:
        return _from_list(file)
    train = read_dataset(data, "train")
    try:
        held_out = read_dataset(data, "val")
    except DatasetError:
        return _divided(data, train)
    return _checked(data, train, held_out)


def _from_list(file: Path) -> Calibration:
    from tbps_infer.sources import SourceOptions, read_sources

    items = [
        item
        for item in read_sources([str(file)], SourceOptions(first_row=True))
        if item.metadata.get("split") != "test"
    ]
    captioned = [(item, caption) for item in items if (caption := _caption(item.metadata))]
    names = [item.metadata.get("id") for item, _ in captioned]
    labelled = all(name not in (None, "") for name in names)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    pictures = tuple(
        Picture(item.path, numbers[name] if labelled else place, (caption,))
        for place, ((item, caption), name) in enumerate(zip(captioned, names, strict=True))
    )
    return _divided(file, Split(file.stem, "list", pictures, labelled))


def _caption(metadata: Mapping[str, Any]) -> str | None:
    found = next((metadata[name] for name in _CAPTION_COLUMNS if metadata.get(name)), None)
    return None if found is None else str(found)


def _divided(data: Path, split: Split) -> Calibration:
    """Hold out every third person."""
    people = {
        identity: place for place, identity in enumerate(dict.fromkeys(each.identity for each in split.pictures))
    }
    held_out = [people[each.identity] % _HELD_OUT == _HELD_OUT - 1 for each in split.pictures]
    parts = [
        replace(
            split, name=name, pictures=tuple(p for p, out in zip(split.pictures, held_out, strict=True) if out == use)
        )
        for name, use in ((f"{split.name}, two people in three", False), (f"{split.name}, one in three", True))
    ]
    return _checked(data, *parts)


def _checked(data: Path, calibrate: Split, judge: Split) -> Calibration:
    """Both parts without pictures that have no caption or were taken before, and not larger than they need be."""
    parts = []
    seen: set[bytes] = set()
    for split, most in ((calibrate, CALIBRATE_AT_MOST), (judge, JUDGE_AT_MOST)):
        ordered = _spread_people([each for each in split.pictures if each.captions], most)
        places = first_of_equals((each.path for each in ordered), seen)
        chosen = replace(split, pictures=tuple(ordered[place] for place in islice(places, most)))
        counts = {"pictures with captions": len(chosen.pictures), "captions": len(set(chosen.captions))}
        for kind, count in counts.items():
            if count < LEAST_DISTINCT:
                raise UsageError(
                    f"Too few {kind} differ in the {split.name} part of {data}: {count}, and INT8 wants "
                    f"{LEAST_DISTINCT} or more there.",
                    "Equal ones count once. Give a data set's folder, or a .csv or .jsonl list with the columns path "
                    f"and caption, of {LEAST_DISTINCT * _HELD_OUT} different pictures or more.",
                )
        parts.append(labelled_set(chosen))
    return Calibration(*parts)


def _spread_people(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """Pictures by person: first as many people as fit, spread evenly over the data, then the others."""
    if not pictures:
        return []
    groups: dict[int, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.identity, []).append(picture)
    people = list(groups.values())
    count = max(1, min(len(people), most * len(people) // len(pictures)))
    chosen = np.linspace(0, len(people) - 1, count).round().astype(int).tolist()
    order = dict.fromkeys([*chosen, *range(len(people))])
    return [picture for place in order for picture in people[place]]
