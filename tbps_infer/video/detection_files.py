"""Detections that another program wrote: MOTChallenge text, COCO JSON, and Ultralytics' labels.

- MOTChallenge: ``frame, id, left, top, width, height, confidence, class, visibility`` in each line, of which the last
  three may be missing; separated by commas or blanks. Frames count from 1. A confidence of 0 leaves a box out, −1
  means that there is none. A class other than 1 is no person; 10 columns are MOT15's, which end with a position.
- COCO: an object with ``images``, ``annotations`` and ``categories``, or a list of results. In a video, ``frame_id``
  of an image counts from 0, as CocoVID's does; ``image_id`` in a bare list counts from 1.
- Ultralytics: a folder of ``NAME_FRAME.txt`` for a video, frames counted from 1, or ``NAME.txt`` for each frame of a
  folder; ``class x y width height [confidence] [id]`` in each line, relative to the frame.

Where every box has a track's number (an id of 0 or more), those are the tracks; where none has, boxes are tracked.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from tbps_infer.errors import VideoError
from tbps_infer.formats.json_files import JsonObject, parse_json
from tbps_infer.lists import ListReader
from tbps_infer.video.boxes import Detections
from tbps_infer.video.frames import Frame

__all__ = ["DetectionFile", "detections_of", "open_detections"]

_MOST_JSON_BYTES = 1 << 30
_MOST_TRACK = (1 << 63) - 2  # the next one is an int64, too
_COCO_PERSON = 1
_PEOPLE = frozenset({"person", "pedestrian", "people"})


class _Box(NamedTuple):
    """A box in a file, where it is there, and its numbers as they are given."""

    place: str
    left: float
    top: float
    width: float
    height: float
    score: float
    track: int


Key = int | str
"""A frame's number, from 0, or the name of its file without the extension, in a video with ``_`` and the number."""


@dataclass
class DetectionFile:
    """The detections of a video's or a folder's frames.

    Attributes:
        path: Where they are from.
        frames: The detections by frame.
        relative: Whether the boxes are relative to the frame's size.
        tracked: Whether the file tells the tracks.
        used: Whether a frame that was asked for is in it.
        stamp: What tells that it is the same file as before.
    """

    path: Path
    frames: Mapping[Key, Detections]
    relative: bool
    tracked: bool
    used: bool = False
    stamp: str = ""
    by_number: ClassVar[bool] = True
    crop_score: ClassVar[float] = 0.0

    def detect(self, frame: Frame) -> Detections:
        """The people in a frame."""
        number, name = frame.position.number, Path(frame.file).stem
        found = next((self.frames[key] for key in (number, name, f"{name}_{number + 1}") if key in self.frames), None)
        if found is None:
            return _nobody() if self.tracked else Detections.none()
        self.used = True
        height, width = frame.pixels.shape[:2]
        if self.relative:
            scale = np.array([width, height, width, height], np.float32)
            found = Detections(found.boxes * scale, found.scores, found.tracks)
        return found.inside(width, height)


def detections_of(path: Path, name: str) -> Path:
    """Where a source's detections are: in a folder the file with its name, if there is one, else the path itself."""
    files = (path / f"{name}{extension}" for extension in (".txt", ".json"))
    return next((file for file in files if file.is_file()), path)


def open_detections(path: Path, person: int | None = None) -> DetectionFile:
    """Read a file or a folder of detections.

    Args:
        path: A ``.txt`` file (MOTChallenge), a ``.json`` file (COCO), or a folder (Ultralytics' labels).
        person: The class of people; None for the format's own: 1, the category ``person`` or 1, and 0.

    Raises:
        VideoError: It cannot be read, follows none of the formats, or only some of its boxes have tracks.
    """
    if path.is_dir():
        boxes, relative = _ultralytics(path, 0 if person is None else person), True
    elif path.suffix.lower() == ".json":
        boxes, relative = _coco(path, person), False
    elif path.suffix.lower() == ".txt":
        boxes, relative = _mot(path, 1 if person is None else person), False
    else:
        raise VideoError(
            f"{path} holds no detections that can be read.",
            "Give MOTChallenge text (.txt), COCO JSON (.json), or a folder of Ultralytics' labels.",
        )
    by_frame: dict[Key, list[_Box]] = defaultdict(list)
    tracked: bool | None = None
    for key, box in boxes:
        if tracked is None:
            tracked = box.track >= 0
        if tracked != (box.track >= 0):
            raise VideoError(
                f"{box.place}: this box has {'no' if tracked else 'a'} track's number, and those before it have "
                f"{'one' if tracked else 'none'}.",
                "Give every box its track, or none.",
            )
        by_frame[key].append(_checked(box))
    frames = {key: _together(some, bool(tracked)) for key, some in by_frame.items()}
    stamp = _stamp(path) if person is None else f"{_stamp(path)} {person}"
    return DetectionFile(path, frames, relative, bool(tracked), stamp=stamp)


def _stamp(path: Path) -> str:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    facts = [(file.name, status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _checked(box: _Box) -> _Box:
    if not all(map(math.isfinite, box[1:])) or box.width < 0 or box.height < 0:
        raise VideoError(f"{box.place}: the box {box.left:g}, {box.top:g}, {box.width:g}, {box.height:g} is none.")
    if box.track > _MOST_TRACK:
        raise VideoError(f"{box.place}: the track's number is {box.track:g}, want {_MOST_TRACK} at most.")
    if not 0 <= box.score <= 1:
        raise VideoError(
            f"{box.place}: the confidence is {box.score:g}, want 0 to 1.",
            "Scale the confidences, as 1 / (1 + exp(−x)) does with scores of a support vector machine.",
        )
    return box


def _together(boxes: Sequence[_Box], tracked: bool) -> Detections:
    numbers = np.array([box[1:6] for box in boxes], np.float32)
    corners = np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:4]], axis=1)
    return Detections(corners, numbers[:, 4], np.array([box.track for box in boxes]) if tracked else None)


def _nobody() -> Detections:
    nobody = Detections.none()
    return Detections(nobody.boxes, nobody.scores, np.empty(0, np.int64))


def _mot(file: Path, person: int) -> Iterator[tuple[Key, _Box]]:
    reader = ListReader(file, VideoError)
    for line, text in reader.lines():
        cells = [cell for cell in re.split(r"[,;\s]+", text.strip()) if cell]
        try:
            numbers = [float(cell) for cell in cells]
        except ValueError as error:
            raise reader.problem(line, f"{text.strip()[:40]!r} is not a line of numbers.", _MOT_HINT) from error
        if not 6 <= len(numbers) <= 10:
            raise reader.problem(line, f"there are {len(numbers)} numbers, want 6 to 10.", _MOT_HINT)
        frame, track, left, top, width, height = numbers[:6]
        if not (frame.is_integer() and frame >= 1 and track.is_integer()):
            raise reader.problem(
                line, f"the frame is {frame:g} and the id {track:g}, want whole numbers, frames from 1 on.", _MOT_HINT
            )
        score = numbers[6] if len(numbers) > 6 else 1.0
        kind = numbers[7] if len(numbers) in (8, 9) else -1  # the last three of ten are a position
        if score == 0 or kind not in (-1, person):
            continue
        score = 1.0 if score == -1 else score
        yield int(frame) - 1, _Box(f"{file}, line {line}", left, top, width, height, score, int(track))


_MOT_HINT = "MOTChallenge's columns are frame, id, left, top, width, height, confidence, class, visibility."


def _coco(file: Path, person: int | None) -> Iterator[tuple[Key, _Box]]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_JSON_BYTES + 1)
        if len(data) > _MOST_JSON_BYTES:
            raise ValueError(f"it has more than {_MOST_JSON_BYTES:,} bytes")
        values = parse_json(data)
        if isinstance(values, list):
            yield from _coco_results(file, values, _COCO_PERSON if person is None else person)
        else:
            yield from _coco_annotations(file, JsonObject(values), person)
    except OSError as error:
        raise VideoError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise VideoError(
            f"{file} is not COCO JSON: {error}.", "Want images, annotations and categories, or a list of results."
        ) from error


def _coco_results(file: Path, values: Sequence[object], person: int) -> Iterator[tuple[Key, _Box]]:
    for number, value in enumerate(values):
        entry = JsonObject(value, f"[{number}]")
        if entry.integer("category_id") == person:
            name = entry["image_id"]
            key = name if isinstance(name, str) else entry.integer("image_id", least=1) - 1
            yield key, _coco_box(entry, f"{file}, [{number}]")


def _coco_annotations(file: Path, values: JsonObject, person: int | None) -> Iterator[tuple[Key, _Box]]:
    keys: dict[int, Key] = {}
    taken: set[Key] = set()
    for image in values.objects("images"):
        by_number = "frame_id" in image
        key: Key = image.integer("frame_id") if by_number else Path(image.text("file_name")).stem
        if key in taken:
            raise ValueError(f"two of the images are frame {key}; give each video a file of its own")
        taken.add(key)
        keys[image.integer("id")] = key
    people = {person} if person is not None else set(_coco_people(values))
    for number, entry in enumerate(values.objects("annotations")):
        if entry.integer("category_id") not in people:
            continue
        image_id = entry.integer("image_id")
        if image_id not in keys:
            raise ValueError(f"annotations[{number}].image_id is {image_id}, which no image has")
        yield keys[image_id], _coco_box(entry, f"{file}, annotations[{number}]")


def _coco_people(values: JsonObject) -> Iterator[int]:
    found = [each for each in values.objects("categories") if each.text("name").lower() in _PEOPLE]
    if not found:
        names = ", ".join(each.text("name") for each in values.objects("categories"))
        raise ValueError(f"none of the categories {names} is person; name its number (--person)")
    return (each.integer("id") for each in found)


def _coco_box(entry: JsonObject, place: str) -> _Box:
    box = entry.numbers("bbox")
    if len(box) != 4:
        raise ValueError(f"bbox has {len(box)} numbers, want left, top, width and height")
    track = next((entry.integer(name) for name in ("track_id", "instance_id") if name in entry), -1)
    return _Box(place, *box, entry.number("score") if "score" in entry else 1.0, track)


def _ultralytics(folder: Path, person: int) -> Iterator[tuple[Key, _Box]]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise VideoError(
            f"The folder {folder} holds no .txt file.", "Give the folder labels of Ultralytics' results."
        )
    rows: list[tuple[Key, str, list[float]]] = []
    for file in files:
        reader = ListReader(file, VideoError)
        for line, text in reader.lines():
            try:
                numbers = [float(cell) for cell in text.split()]
            except ValueError as error:
                raise reader.problem(line, f"{text[:40]!r} is not a line of numbers.", _LABEL_HINT) from error
            if not 5 <= len(numbers) <= 7:
                raise reader.problem(line, f"there are {len(numbers)} numbers, want 5 to 7.", _LABEL_HINT)
            if not all(map(math.isfinite, numbers)):
                raise reader.problem(line, f"{text[:40]!r} has a number that is not finite.", _LABEL_HINT)
            rows.append((file.stem, f"{file}, line {line}", numbers))
    # With six numbers the last is a confidence or a track; a track is above 1 somewhere, a confidence nowhere.
    sixth_is_track = any(len(numbers) == 6 and numbers[5] > 1 for _, _, numbers in rows)
    for stem, place, (kind, x, y, width, height, *rest) in rows:
        if kind == person:
            score = 1.0 if not rest or (len(rest) == 1 and sixth_is_track) else rest[0]
            track = rest[-1] if len(rest) == 2 or (rest and sixth_is_track) else -1.0
            if not track.is_integer():
                raise VideoError(f"{place}: the id is {track:g}, want a whole number.", _LABEL_HINT)
            yield stem, _Box(place, x - width / 2, y - height / 2, width, height, score, int(track))


_LABEL_HINT = "Ultralytics' columns are class, x, y, width, height, and perhaps confidence and id."
