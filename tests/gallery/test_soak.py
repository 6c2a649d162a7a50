"""Years in the life of a gallery: random operations, beside a model of it in plain Python.

Some operations are first done by a child that is killed at a random moment. After each operation the gallery must be
what the model says; after a kill it must be as before the operation, as after it, or, where an operation has several
steps, as between two of them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from embedded_folders import contents, embed, embed_items, picture, stored_vector, write_pictures

from tbps_infer.embedding import EmbedReport
from tbps_infer.errors import GalleryError, SourceError
from tbps_infer.gallery import (
    Gallery,
    Removal,
    compact_gallery,
    copy_gallery,
    index_gallery,
    is_gallery,
    relocate_gallery,
    remove_records,
)
from tbps_infer.pruning import prune_gallery
from tbps_infer.sources import SourceItem, read_sources
from tbps_infer.watching import WatchOptions, watch_sources


@dataclass
class Model:
    """What a gallery should hold: path to content, the content that is removed, and the paths where it was."""

    records: dict[str, bytes] = field(default_factory=dict)
    contents: set[bytes] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    def copy(self) -> Model:
        return Model(dict(self.records), set(self.contents), set(self.paths))

    def embed(self, files: dict[str, bytes]) -> None:
        for path, content in sorted(files.items()):
            if self.records.get(path) == content:
                continue
            if path not in self.records:
                if path in self.paths or content in self.contents:
                    continue
                gone = [old for old, other in self.records.items() if other == content and old not in files]
                if gone:
                    del self.records[gone[0]]
            elif content in self.contents:
                del self.records[path]
                continue
            self.records[path] = content

    def remove(self, paths: list[str], purge: bool) -> None:
        for path in paths:
            self.contents.add(self.records.pop(path))
            self.paths.add(path)
        if purge:
            self.paths.clear()

    def prune(self, files: dict[str, bytes]) -> None:
        self.records = {path: content for path, content in self.records.items() if path in files}


class World:
    """A folder of pictures that changes, the gallery of it, and the model."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.rng, self.colour = place, random.Random(seed), 0
        self.folder, self.gallery = place / "pictures", place / "gallery"
        self.model = Model()
        self.copies = 0
        self.counts: dict[str, int] = {}
        self.change_files()
        embed(self.gallery, self.folder)
        self.model.embed(self.files())

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.folder.rglob("*.ppm")}

    def change_files(self) -> None:
        """New, changed, moved and deleted files; what holds always: two files never have the same content."""
        files = sorted(self.files())
        for _ in range(self.rng.randrange(1, 6)):
            self.colour += 1
            write_pictures(self.folder / self.rng.choice("abc"), [self.colour])
        for path in self.rng.sample(files, min(len(files), self.rng.randrange(4) + len(files) // 30)):
            match self.rng.randrange(3):
                case 0:
                    self.colour += 1
                    Path(path).write_bytes(picture(self.colour))
                    os.utime(path, ns=(self.colour, self.colour))
                case 1:
                    self.colour += 1
                    Path(path).rename(self.folder / f"moved-{self.colour}.ppm")
                case _ if len(files) > 30:
                    Path(path).unlink()

    def step(self) -> tuple[str, Callable[[], object], list[Model]]:
        """An operation, and what the gallery may be after it: the last one, unless it is killed."""
        name = self.rng.choice(("embed", "embed", "watch", "prune", "move", "rm", "rm", "purge", "compact", "copy"))
        now, then = self.model, self.model.copy()
        if name in ("embed", "watch", "prune"):
            self.change_files()
        if name == "embed":
            then.embed(self.files())
            return name, lambda: embed(self.gallery, self.folder), [now, then]
        if name == "watch":
            then.embed(self.files())
            return name, self.watch_once, [now, then]
        if name == "prune":
            between = now.copy()
            between.embed(self.files())
            then.embed(self.files())
            then.prune(self.files())
            return name, self.prune, [now, between, then]
        if name == "move":
            new = self.place / f"pictures-{self.colour}"
            self.colour += 1
            self.folder.rename(new)
            old, self.folder = self.folder, new
            then = _moved(now, str(old), str(new))
            return name, lambda: relocate_gallery(self.gallery, old, new), [now, then]
        if name in ("rm", "purge"):
            some = self.rng.sample(sorted(now.records), min(len(now.records), self.rng.randrange(1, 3)))
            then.remove(some, name == "purge")
            removed = now.copy()
            removed.remove(some, False)
            what = Removal(paths=tuple(map(Path, some)))
            return name, lambda: remove_records(self.gallery, what, purge=name == "purge"), [now, removed, then]
        if name == "compact":
            return name, self.compact, [now]
        self.copies += 1
        target = self.place / f"copy-{self.copies}"
        return name, lambda: copy_gallery(self.gallery, target), [now]

    def prune(self) -> None:
        embed(self.gallery, self.folder)
        prune_gallery(self.gallery, [self.folder], "all")

    def compact(self) -> None:
        if contents(self.gallery):
            index_gallery(self.gallery)
        compact_gallery(self.gallery)

    def watch_once(self) -> None:
        stop, left = threading.Event(), len(self.files())

        def embed_some(items: Sequence[SourceItem]) -> EmbedReport:
            nonlocal left
            report = embed_items(self.gallery, list(items), [self.folder])
            left -= len(items)
            if left == 0:
                stop.set()
            return report

        options = WatchOptions(poll_seconds=0.01, settle_seconds=0)
        watch_sources(lambda: read_sources([str(self.folder)]), embed_some, [self.folder], stop, options)

    def do(self, kill: bool) -> None:
        """Take a step; a killed one is looked at, and then taken again."""
        name, operation, possible = self.step()
        self.counts[name] = self.counts.get(name, 0) + 1
        if kill:
            _killed(operation, self.rng.random() * 0.05)
            found = _records(self.gallery)
            assert any(_within(found, possible[at : at + 2]) for at in range(len(possible))), name
            if name in ("rm", "purge"):  # what went is not there to be removed again
                gone = tuple(map(Path, possible[0].records.keys() - possible[-1].records.keys()))
                operation = lambda: remove_records(self.gallery, Removal(paths=gone), purge=name == "purge")  # noqa: E731
            elif name == "move" and found == _vectors(possible[-1]):
                operation = lambda: None  # noqa: E731
            elif name == "copy":
                assert not (self.place / f"copy-{self.copies}").exists() or _records(
                    self.place / f"copy-{self.copies}"
                ) == _vectors(possible[0])
                shutil.rmtree(self.place / f"copy-{self.copies}", ignore_errors=True)
        operation()
        self.model = possible[-1]
        self.check(name)

    def check(self, name: str) -> None:
        assert _records(self.gallery) == _vectors(self.model), name
        with Gallery.open(self.gallery) as opened:
            assert opened.missing(every_file=True) == len(self.model.records.keys() - self.files().keys())
        if name == "copy":
            copy = self.place / f"copy-{self.copies}"
            assert _records(copy) == _vectors(self.model)
            if self.rng.random() < 0.5:  # the backup takes the gallery's place
                shutil.rmtree(self.gallery)
                copy.rename(self.gallery)
            else:
                shutil.rmtree(copy)
        if name == "purge":
            data = b"".join(file.read_bytes() for file in self.gallery.iterdir())
            gone = self.model.contents - set(self.model.records.values())
            assert not [content for content in gone if stored_vector(content) in data]


def _moved(model: Model, old: str, new: str) -> Model:
    def change(path: str) -> str:
        return path.replace(f"{old}/", f"{new}/", 1)

    records = {change(path): content for path, content in model.records.items()}
    return replace(model.copy(), records=records, paths=set(map(change, model.paths)))


def _records(gallery: Path) -> dict[str, bytes]:
    return {path: vector for path, (_, vector) in contents(gallery).items()} if is_gallery(gallery) else {}


def _vectors(model: Model) -> dict[str, bytes]:
    return {path: stored_vector(content) for path, content in model.records.items()}


def _within(found: dict[str, bytes], models: list[Model]) -> bool:
    """Whether every record is as one of some neighbouring models says; embedding commits its pictures by and by."""
    states = [set(_vectors(model).items()) for model in models]
    return set.intersection(*states) <= set(found.items()) <= set.union(*states)


def _killed(operation: Callable[[], object], seconds: float) -> None:
    """Let a child do an operation, and kill it after some seconds."""
    child = os.fork()
    if child == 0:
        try:
            operation()
        except (GalleryError, SourceError):
            pass
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("operations", "seed"), [(60, 1), *(pytest.param(500, seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_the_gallery_is_what_the_model_says(tmp_path: Path, operations: int, seed: int) -> None:
    print(f"seed {seed}")
    world = World(tmp_path, seed)
    for number in range(operations):
        print(f"operation {number}")
        world.do(kill=world.rng.random() < 0.25)
    print(world.counts)
