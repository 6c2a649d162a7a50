"""Synthetic people outside a data set: a folder for a demonstration, crops in memory for golden vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from PIL import Image

from tbps_infer.atomic import new_folder
from tbps_infer.data.synth.attributes import draw_people
from tbps_infer.data.synth.captions import write_captions
from tbps_infer.data.synth.dataset import check_out
from tbps_infer.data.synth.picture import DEFAULT_HEIGHT, decoded, draw_jpeg
from tbps_infer.data.synth.shots import plan_shot
from tbps_infer.errors import DatasetError, UsageError

__all__ = ["Description", "sample_crops", "write_people"]


@dataclass(frozen=True)
class Description:
    """A caption and whom it describes.

    Attributes:
        caption: Written over the identity's first picture.
        identity: Numbered from 1.
        files: The identity's pictures in the folder.
    """

    caption: str
    identity: int
    files: tuple[Path, ...]


def write_people(folder: Path, count: int, seed: int, *, pictures: int = 3) -> list[Description]:
    """Write `count` people as a flat folder of crops named `<identity>_<camera>_<picture>.jpg`.

    Returns:
        One description per identity.

    Raises:
        DatasetError: `folder` holds something or cannot be written.
        UsageError: `count` or `pictures` is below 1.
    """
    if count < 1 or pictures < 1:
        raise UsageError(f"{count} people with {pictures} pictures each were asked for, want at least 1 of both")
    with new_folder(folder, DatasetError) as new:
        check_out(folder)
        described = _write_people(new, count, seed, pictures)
    return [replace(one, files=tuple(folder / file.name for file in one.files)) for one in described]


def _write_people(folder: Path, count: int, seed: int, pictures: int) -> list[Description]:
    descriptions: list[Description] = []
    for identity, person in enumerate(islice(draw_people(seed), count), start=1):
        files: list[Path] = []
        shots = [plan_shot(seed, identity, picture, DEFAULT_HEIGHT) for picture in range(pictures)]
        for picture, shot in enumerate(shots):
            file = folder / f"{identity:04d}_{shot.camera.name}_{picture}.jpg"
            file.write_bytes(draw_jpeg(person, shot, seed, identity, picture))
            files.append(file)
        caption = write_captions(person, shots[0], 1, seed, identity, 0)[0]
        descriptions.append(Description(caption.text, identity, tuple(files)))
    return descriptions


def sample_crops(count: int, seed: int) -> list[tuple[Image.Image, tuple[str, ...]]]:
    """`count` crops of different people (RGB, height 256, decoded from JPEG) with two captions each."""
    crops: list[tuple[Image.Image, tuple[str, ...]]] = []
    for identity, person in enumerate(islice(draw_people(seed), count), start=1):
        shot = plan_shot(seed, identity, 0, DEFAULT_HEIGHT)
        captions = write_captions(person, shot, 2, seed, identity, 0)
        crop = decoded(draw_jpeg(person, shot, seed, identity, 0))
        crops.append((crop, tuple(caption.text for caption in captions)))
    return crops
