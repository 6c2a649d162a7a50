"""How good the crops of drawn street videos are, and what that costs a search.

Run it as ``python -m tbps_infer.benchmarks.studies.cropping SCENES CROPS... --bundle BUNDLE --perfect PEOPLE``:
`SCENES` is what ``tbps data scenes`` drew, each of `CROPS` a folder that ``tbps crop`` made of it, and `PEOPLE` what
``tbps data synth`` drew of the same people.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.readers import read_dataset
from tbps_infer.data.scenes import SceneTruth, read_truth
from tbps_infer.encoder import Encoder
from tbps_infer.images import load_crop
from tbps_infer.video.boxes import iou
from tbps_infer.video.crop_folder import LIST_FILE

__all__ = ["Crop", "main", "rank1", "read_crops", "tracks_with_a_good_crop"]

GOOD_IOU, GOOD_VISIBILITY = 0.5, 0.8
LEAST_HEIGHT = 64


@dataclass(frozen=True)
class Crop:
    """A crop: its file, and where it is from; `box` is left, top, width and height."""

    path: Path
    camera: str
    frame: int
    box: tuple[float, float, float, float]


def read_crops(folder: Path) -> list[Crop]:
    """The crops of a folder that ``tbps crop`` made."""
    with (folder / LIST_FILE).open(newline="", encoding="utf-8") as file:
        return [
            Crop(folder / row["path"], row["camera"], int(row["frame"]), _numbers(row["box"]))
            for row in csv.DictReader(file)
        ]


def tracks_with_a_good_crop(truth: SceneTruth, crops: Sequence[Crop]) -> tuple[int, int]:
    """How many true tracks have a good crop, and how many could have one.

    Those could that are 64 pixels tall and mostly visible in some frame. A good crop has an IoU of 0.5 or more with
    the true box of its frame, at least 80 % of which is visible.
    """
    possible: set[tuple[str, int]] = set()
    found: set[tuple[str, int]] = set()
    for camera, rows in truth.boxes.items():
        good = rows[(rows[:, 5] >= LEAST_HEIGHT) & (rows[:, 8] >= GOOD_VISIBILITY)]
        possible.update((camera, int(track)) for track in good[:, 1])
        for crop in crops:
            here = good[good[:, 0] == crop.frame + 1] if crop.camera == camera else good[:0]
            overlaps = iou(_corners(here[:, 2:6]), _corners(np.array([crop.box])))[:, 0]
            found.update((camera, int(track)) for track in here[overlaps >= GOOD_IOU, 1])
    return len(found), len(possible)


def rank1(
    encoder: Encoder, sentences: Sequence[tuple[str, int]], pictures: Sequence[tuple[Path, int | None]]
) -> tuple[float, int]:
    """The share of sentences whose best picture shows the person, and how many sentences have a picture of theirs."""
    people = np.array([-1 if person is None else person for _, person in pictures])
    vectors = np.concatenate(list(encoder.encode_stream(_decoded(encoder, [path for path, _ in pictures]))))
    asked = [(text, person) for text, person in sentences if person in people]
    best = (encoder.encode_texts([text for text, _ in asked]) @ vectors.T).argmax(axis=1)
    return float(np.mean(people[best] == [person for _, person in asked])), len(asked)


def main() -> None:
    """Print a line for each folder of crops, and one for the perfect crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("crops", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--perfect", type=Path, required=True)
    given = parser.parse_args()
    truth = read_truth(given.scenes)
    with Encoder.open(given.bundle) as encoder:
        for folder in given.crops:
            crops = read_crops(folder)
            people = [truth.identity(crop.camera, crop.frame, crop.box) for crop in crops]
            good, possible = tracks_with_a_good_crop(truth, crops)
            pictures = [(crop.path, person) for crop, person in zip(crops, people, strict=True)]
            share, asked = rank1(encoder, truth.descriptions, pictures)
            nobody = people.count(None)
            print(
                f"{folder.name}: {len(crops)} crops ({nobody} of nobody), a good one of {good} of {possible} tracks "
                f"({good / possible:.1%}), Rank-1 {share:.1%} of {asked} sentences"
            )
        wanted = {person for _, person in truth.descriptions}
        perfect = [pair for pair in _perfect(given.perfect) if pair[1] in wanted]
        share, asked = rank1(encoder, truth.descriptions, perfect)
        print(f"{given.perfect.name}: {len(perfect)} crops, Rank-1 {share:.1%} of {asked} sentences")


def _perfect(folder: Path) -> Iterator[tuple[Path, int | None]]:
    for picture in read_dataset(folder, "test").pictures:
        yield picture.path, picture.identity


def _decoded(encoder: Encoder, files: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    return (load_crop(file, encoder.facts.preprocessing) for file in files)


def _numbers(text: str) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, text.split())
    return left, top, width, height


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)


if __name__ == "__main__":
    main()
