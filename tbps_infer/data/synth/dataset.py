"""A synthetic data set on disk, in CUHK-PEDES's layout: `reid_raw.json` and `imgs/<camera>/`."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tbps_infer.atomic import is_vacant, new_folder
from tbps_infer.cores import usable_cores
from tbps_infer.data.synth.attributes import Person, draw_people
from tbps_infer.data.synth.captions import Caption, caption_tokens, write_captions
from tbps_infer.data.synth.oracle import oracle_rank1
from tbps_infer.data.synth.picture import DEFAULT_HEIGHT, draw_jpeg
from tbps_infer.data.synth.shots import CAMERAS, plan_shot
from tbps_infer.errors import DatasetError, UsageError

__all__ = ["SCHEMA", "SynthOptions", "SynthReport", "write_dataset"]

SCHEMA = 1
_LEAST_HEIGHT = 48


SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SynthOptions:
    """What to draw. Identities are numbered from 1, training first, then validation, then test.

    Attributes:
        train: Identities of the training split.
        val: Identities of the validation split.
        test: Identities of the test split.
        pictures: Pictures per identity.
        captions: Captions per picture.
        seed: Everything follows from it; picture i of identity j depends on (seed, j, i) alone.
        height: Of a crop in pixels; its width is about a third and varies.
        workers: Processes that draw; None takes one per usable CPU core. No influence on the files.
        only: Write these splits alone; the people in them are the same as beside the others.
    """

    train: int = 2000
    val: int = 100
    test: int = 200
    pictures: int = 4
    captions: int = 2
    seed: int = 0
    height: int = DEFAULT_HEIGHT
    workers: int | None = None
    only: tuple[str, ...] = SPLITS

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test) < 0 or self.identities < 1:
            raise UsageError(
                f"the splits have {self.train}, {self.val} and {self.test} identities, want one or more in all"
            )
        if not self.only or set(self.only) - set(SPLITS) or not any(getattr(self, name) for name in self.only):
            raise UsageError(f"only {self.only!r} leaves nothing to write; want some of {', '.join(SPLITS)}")
        for name in ("pictures", "captions"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, want at least 1")
        if self.height < _LEAST_HEIGHT:
            raise UsageError(f"height is {self.height} pixels, want at least {_LEAST_HEIGHT}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers is {self.workers}, want at least 1", "Leave it out for one per CPU core.")

    @property
    def identities(self) -> int:
        """Identities of all splits."""
        return self.train + self.val + self.test

    def split_of(self, identity: int) -> str:
        """The split of identity number `identity`, counted from 1."""
        if identity <= self.train:
            return "train"
        return "val" if identity <= self.train + self.val else "test"


@dataclass(frozen=True)
class SynthReport:
    """What was written.

    Attributes:
        mean_words: Mean length of a caption.
        oracle_rank1: Rank-1 on the test split of a searcher who makes no mistake, ties counted as lost; None
            without test identities. No model can be expected above it.
    """

    out: Path
    identities: int
    pictures: int
    captions: int
    mean_words: float
    oracle_rank1: float | None


def _draw_identity(imgs: Path, options: SynthOptions, numbered: tuple[int, Person]) -> list[dict[str, Any]]:
    """Write one identity's pictures; returns their records for the annotation file."""
    identity, person = numbered
    records: list[dict[str, Any]] = []
    for picture in range(options.pictures):
        shot = plan_shot(options.seed, identity, picture, options.height)
        file = f"{shot.camera.name}/{identity:05d}_{picture:02d}.jpg"
        jpeg = draw_jpeg(person, shot, options.seed, identity, picture)
        (imgs / file).write_bytes(jpeg)
        written = write_captions(person, shot, options.captions, options.seed, identity, picture)
        texts = [caption.text for caption in written]
        records.append({
            "split": options.split_of(identity),
            "captions": texts,
            "file_path": file,
            "processed_tokens": [caption_tokens(text) for text in texts],
            "id": identity,
        })  # fmt: skip
    return records


def _run(
    draw: Callable[[tuple[int, Person]], list[dict[str, Any]]], chosen: Iterable[tuple[int, Person]], workers: int
) -> Generator[list[dict[str, Any]], None, None]:
    """Each identity's records, in order; closing it stops the workers."""
    if workers == 1:
        yield from map(draw, chosen)
        return
    # spawn: a fork of a process with threads (torch, ONNX Runtime) may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, chosen, chunksize=4)


def check_out(out: Path) -> None:
    """Refuse a path that holds something. Raises DatasetError."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DatasetError(f"{out} is a file or a link, want a folder to make", "Give another path, or remove it.")
    if not is_vacant(out):
        raise DatasetError(
            f"{out} is not empty, want a new or empty folder", "Give another path, or remove the folder."
        )


def _test_oracle(options: SynthOptions, people: list[Person]) -> float | None:
    first = options.train + options.val
    if options.test == 0:
        return None

    def pairs() -> Iterator[tuple[Caption, int]]:
        for index in range(options.test):
            identity = first + index + 1
            for picture in range(options.pictures):
                shot = plan_shot(options.seed, identity, picture, options.height)
                person = people[identity - 1]
                for caption in write_captions(person, shot, options.captions, options.seed, identity, picture):
                    yield caption, index

    return oracle_rank1(pairs(), people[first:])


def write_dataset(
    out: Path, options: SynthOptions, on_progress: Callable[[int, int], None] | None = None
) -> SynthReport:
    """Draw a data set: `reid_raw.json`, `imgs/`, and `synth.json` with the options and every identity's attributes.

    `out` is whole or absent. With more than one worker the caller's main module must be importable, as for every
    pool of processes.

    Args:
        out: A folder that does not exist or is empty.
        options: What to draw.
        on_progress: Called with (pictures drawn, pictures in all).

    Raises:
        DatasetError: `out` holds something or cannot be written.
    """
    with new_folder(out, DatasetError) as folder:
        check_out(out)
        return _write(folder, out, options, on_progress)


def _write(
    folder: Path, out: Path, options: SynthOptions, on_progress: Callable[[int, int], None] | None
) -> SynthReport:
    for camera in CAMERAS:
        (folder / "imgs" / camera).mkdir(parents=True)
    people = list(islice(draw_people(options.seed), options.identities))
    chosen = [one for one in enumerate(people, start=1) if options.split_of(one[0]) in options.only]
    draw = partial(_draw_identity, folder / "imgs", options)
    total = len(chosen) * options.pictures
    records: list[dict[str, Any]] = []
    with closing(_run(draw, chosen, min(options.workers or usable_cores(), len(chosen)))) as batches:
        for drawn in batches:
            records += drawn
            if on_progress is not None:
                on_progress(len(records), total)
    oracle = _test_oracle(options, people)
    (folder / "reid_raw.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    _write_facts(folder / "synth.json", options, people, oracle)
    words = [len(text.split()) for record in records for text in record["captions"]]
    return SynthReport(out, len(chosen), total, len(words), sum(words) / len(words), oracle)


def _write_facts(file: Path, options: SynthOptions, people: list[Person], oracle: float | None) -> None:
    chosen = dataclasses.asdict(options)
    del chosen["workers"]  # no influence on what is written
    facts = {
        "schema": SCHEMA,
        "options": chosen,
        "oracle_rank1": oracle,
        "identities": {str(number): person.to_json() for number, person in enumerate(people, start=1)},
    }
    file.write_text(json.dumps(facts, indent=1), encoding="utf-8")
