"""Street videos on disk: a film and its truth for every camera, and who the people are."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.atomic import new_folder
from tbps_infer.data.scenes.film import Film, TrueBox
from tbps_infer.data.scenes.recording import write_video
from tbps_infer.data.scenes.view import plan_view
from tbps_infer.data.scenes.walks import plan_walks
from tbps_infer.data.synth.attributes import Person, draw_people
from tbps_infer.data.synth.captions import write_captions
from tbps_infer.data.synth.dataset import SynthOptions, check_out
from tbps_infer.data.synth.shots import CAMERAS, plan_shot
from tbps_infer.errors import DatasetError, UsageError

__all__ = ["SceneOptions", "SceneReport", "draw_films", "write_scenes"]

SCHEMA = 1
_LIGHTS = ("day", "dusk", "mixed")
_MOST_PEOPLE = 10_000
_LAST_PERSON = 1_000_000
"""Everybody before the first is drawn, too, to come to the first."""
_FIRST_TEST_PERSON = SynthOptions().train + SynthOptions().val + 1


@dataclass(frozen=True)
class SceneOptions:
    """What to draw.

    Attributes:
        cameras: Number of videos.
        people: How many people walk; each passes one camera or more.
        first: Identity of the first, as `tbps data synth` numbers them with the same seed; by default its first
            test person, so that the shipped checkpoint was not trained on any of them.
        seconds: Length of every video.
        fps: Frames per second.
        height: Of the picture in pixels; its width is 16/9 of that. Both are made even.
        light: "day", "dusk", or "mixed": every second camera at dusk.
        captions: Sentences per person: the first that `tbps data synth` writes.
        seed: Everything follows from it.
    """

    cameras: int = 2
    people: int = 12
    first: int = _FIRST_TEST_PERSON
    seconds: float = 20.0
    fps: int = 10
    height: int = 360
    light: str = "mixed"
    captions: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.cameras <= len(CAMERAS):
            raise UsageError(f"cameras is {self.cameras}, want 1 to {len(CAMERAS)}")
        if not 1 <= self.people <= _MOST_PEOPLE:
            raise UsageError(f"people is {self.people}, want 1 to {_MOST_PEOPLE}")
        for name, most in (("first", _LAST_PERSON), ("fps", 240), ("captions", 100)):
            if not 1 <= getattr(self, name) <= most:
                raise UsageError(f"{name} is {getattr(self, name)}, want 1 to {most}")
        if not 1 <= self.seconds <= 86400:
            raise UsageError(f"seconds is {self.seconds}, want 1 to 86400, a day")
        if not 96 <= self.height <= 2160:
            raise UsageError(f"height is {self.height} pixels, want 96 to 2160")
        if self.light not in _LIGHTS:
            raise UsageError(f"light is {self.light!r}, want {', '.join(_LIGHTS)}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture, both even."""
        return self.height // 2 * 2, round(self.height * 8 / 9) * 2

    @property
    def frames(self) -> int:
        """Frames of every video."""
        return max(1, round(self.seconds * self.fps))

    def at_dusk(self, camera: int) -> bool:
        """Whether it is getting dark for a camera, counted from 0."""
        return self.light == "dusk" or (self.light == "mixed" and camera % 2 == 1)


@dataclass(frozen=True)
class SceneReport:
    """What was written; `boxes` counts the true boxes of all frames."""

    out: Path
    cameras: int
    frames: int
    people: int
    tracks: int
    boxes: int


def draw_films(options: SceneOptions) -> list[Film]:
    """The films of all cameras, of which any frame can be drawn; nothing is written, and PyAV is not needed."""
    last = options.first + options.people - 1
    chosen = islice(draw_people(options.seed), options.first - 1, last)
    people = dict(enumerate(chosen, start=options.first))
    views = [
        plan_view(options.seed, number, options.size, options.at_dusk(number)) for number in range(options.cameras)
    ]
    walks = plan_walks(people, views, options.seconds, options.seed)
    return [Film(view, each, options.seed) for view, each in zip(views, walks, strict=True)]


def write_scenes(
    out: Path, options: SceneOptions, on_progress: Callable[[int, int], None] | None = None
) -> SceneReport:
    """Draw and encode a video per camera, with its truth beside it.

    `out` is whole or absent and holds, for every camera, ``CAMERA.mp4`` and ``CAMERA.txt``: MOTChallenge's
    ``frame,id,left,top,width,height,conf,class,visibility``, where frames count from 1, ids are tracks, and pixels
    count from 0. ``tracks.csv`` tells who each track is, ``captions.csv`` describes the people, and ``scenes.json``
    has the options.

    Args:
        out: A folder that does not exist or is empty.
        options: What to draw.
        on_progress: Called with (frames drawn, frames in all).

    Raises:
        DatasetError: `out` holds something or cannot be written.
        BackendError: PyAV is not installed.
    """
    with new_folder(out, DatasetError) as folder:
        check_out(out)
        films = draw_films(options)
        tracks: list[tuple[str, int, int, int, int]] = []
        boxes = 0
        for number, film in enumerate(films):
            truth = _Truth()
            frames = _recorded(film, options, truth, number, on_progress)
            write_video(folder / f"{film.view.camera.name}.mp4", frames, options.size, options.fps)
            truth.write(folder / f"{film.view.camera.name}.txt")
            tracks += truth.tracks(film)
            boxes += len(truth.rows)
        people = _write_people(folder, tracks, _people(films), options)
        facts = {"schema": SCHEMA, "options": asdict(options)}
        (folder / "scenes.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return SceneReport(out, len(films), options.frames * len(films), people, len(tracks), boxes)


class _Truth:
    """The true boxes of one film, by frame."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, TrueBox]] = []

    def add(self, frame: int, boxes: Iterable[TrueBox]) -> None:
        """Take the boxes of a frame, counted from 1."""
        self.rows += ((frame, box) for box in boxes)

    def write(self, file: Path) -> None:
        """Write them in MOTChallenge's format."""
        lines = (
            f"{frame},{box.track},{box.left},{box.top},{box.width},{box.height},1,1,{box.visibility:.3f}\n"
            for frame, box in self.rows
        )
        file.write_text("".join(lines), encoding="utf-8")

    def tracks(self, film: Film) -> Iterator[tuple[str, int, int, int, int]]:
        """Camera, track, identity, first and last frame of everybody who is in the picture at all."""
        seen: dict[int, list[int]] = {}
        for frame, box in self.rows:
            seen.setdefault(box.track, []).append(frame)
        for track, frames in sorted(seen.items()):
            yield film.view.camera.name, track, film.walks[track - 1].identity, frames[0], frames[-1]


def _recorded(
    film: Film,
    options: SceneOptions,
    truth: _Truth,
    camera: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[NDArray[np.uint8]]:
    """The film's frames; their boxes go into `truth`."""
    for number in range(options.frames):
        frame = film.frame(number, number / options.fps)
        truth.add(number + 1, frame.boxes)
        if on_progress is not None:
            on_progress(camera * options.frames + number + 1, options.cameras * options.frames)
        yield frame.pixels


def _people(films: Sequence[Film]) -> dict[int, Person]:
    return {walk.identity: walk.person for film in films for walk in film.walks}


def _write_people(
    folder: Path,
    tracks: Sequence[tuple[str, int, int, int, int]],
    people: dict[int, Person],
    options: SceneOptions,
) -> int:
    """Write who the tracks are and sentences about those who are seen; returns how many people that is."""
    seen = sorted({identity for _, _, identity, _, _ in tracks})
    captions: dict[int, list[str]] = {}
    for identity in seen:
        shot = plan_shot(options.seed, identity, 0, SynthOptions().height)
        written = write_captions(people[identity], shot, options.captions, options.seed, identity, 0)
        captions[identity] = [caption.text for caption in written]
    rows = ((camera, track, who, captions[who][0], first, last) for camera, track, who, first, last in tracks)
    _write_rows(folder / "tracks.csv", ("camera", "track", "id", "caption", "first", "last"), rows)
    sentences = ((text, identity) for identity in seen for text in captions[identity])
    _write_rows(folder / "captions.csv", ("text", "person"), sentences)
    return len(seen)


def _write_rows(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
