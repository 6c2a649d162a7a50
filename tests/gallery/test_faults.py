"""Kills and full disks at random moments of whatever changes a gallery: nothing is lost or doubled.

The child works through a list of steps that follows from a seed, and notes in a journal which one has returned. After
each fault the gallery must be as after the last noted step or as after the one that was under way.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    Gallery,
    GalleryWriter,
    SearchOptions,
    compact_gallery,
    index_gallery,
    merge_galleries,
    remove_records,
    upkeep,
)
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

LAYOUT = VectorLayout((Segment("global", 64),))
MODEL = fake_facts(layout=LAYOUT)

State = dict[str, bytes | None]
"""Path to stored embedding; None where the picture was removed, so that a merge leaves it out."""


def embedding(number: int, version: int) -> NDArray[np.float32]:
    values = np.random.default_rng((number, version)).normal(size=64)
    unit: NDArray[np.float32] = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


STEPS = ["add", "add", "add", "remove", "compact", "merge", "index"]
if importlib.util.find_spec("usearch"):
    STEPS.append("graph")
MERGED_AT_ONCE = 7


def entries(chosen: range, number: int) -> list[Entry]:
    return [Entry(Path(f"/p/{n}"), FileStamp(1, number, f"{n}"), {"id": n}) for n in chosen]


def some_pictures(rng: random.Random) -> range:
    first = rng.randrange(100)
    return range(first, first + rng.randrange(1, 30))


def step(path: Path, number: int) -> None:
    """Step `number`: the same whether it is taken for the first time or, after a fault, again."""
    rng = random.Random(number)
    kind = rng.choice(STEPS)
    if kind in ("add", "merge"):
        chosen = some_pictures(rng)
        target = path if kind == "add" else path.with_name("other")
        if kind == "merge":
            shutil.rmtree(target, ignore_errors=True)
        with GalleryWriter.open(target, MODEL) as writer:
            writer.commit(entries(chosen, number), np.stack([embedding(n, number) for n in chosen]))
        if kind == "merge":
            merge_galleries([target], path)
    elif kind == "remove":
        remove_records(path, Filter(where=f"id % 7 = {number % 7}"))
    elif kind == "compact":
        compact_gallery(path)
    else:
        with Gallery.open(path) as gallery:
            empty = len(gallery.vectors) == 0
        if not empty:
            index_gallery(path, graph=kind == "graph")


def after(state: State, number: int, merged: int | None = None) -> State:
    """What `step` makes of a state; `merged`: when a merge has looked at so many pictures only."""
    rng = random.Random(number)
    kind = rng.choice(STEPS)
    if kind in ("add", "merge"):
        chosen = some_pictures(rng)
        new = {f"/p/{n}": embedding(n, number).astype(np.float16).tobytes() for n in chosen}
        return {**state, **new} if kind == "add" else {**dict(list(new.items())[:merged]), **state}
    if kind == "remove":
        return {path: None if int(path[3:]) % 7 == number % 7 else row for path, row in state.items()}
    return state


def live(state: State) -> State:
    """What the gallery holds."""
    return {path: row for path, row in state.items() if row is not None}


def possible(state: State, number: int) -> list[State]:
    """What a step that was stopped may leave: a merge is many commits, all else is one."""
    kind = random.Random(number).choice(STEPS)
    between = [after(state, number, seen) for seen in range(0, 30, MERGED_AT_ONCE)] if kind == "merge" else []
    return [state, *between, after(state, number)]


def contents(path: Path) -> State:
    with Gallery.open(path) as gallery:
        gallery.verify()
        records = list(gallery.records())
        rows = [record.row for record in records]
        assert len(set(rows)) == len(rows)
        found = {str(record.path): gallery.vectors[record.row].tobytes() for record in records}
        assert len(found) == len(records)
        queries = np.eye(64, dtype=np.float32)[:2]
        hits = gallery.search(queries, 10**6)
        assert all(len(some) == gallery.count for some in hits)
        assert hits == gallery.search(queries, 10**6, options=SearchOptions("scan"))
        if gallery.graph is not None:
            assert all(gallery.search(queries, 3, options=SearchOptions("graph"))) or gallery.count == 0
        return found


def main(path: str, journal: str, first: str) -> None:
    """The child: steps without end, each noted when it has returned."""
    upkeep._MERGE_ROWS = MERGED_AT_ONCE
    with Path(journal).open("a", encoding="ascii") as notes:
        for number in range(int(first), 10**6):
            step(Path(path), number)
            notes.write(f"{number}\n")
            notes.flush()


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, kills: int) -> None:
    rng = random.Random(kills)
    gallery, journal = tmp_path / "gallery", tmp_path / "journal"
    GalleryWriter.open(gallery, MODEL).close()
    state: State = {}
    number = 0
    for _ in range(kills):
        journal.write_text("")
        child = subprocess.Popen([sys.executable, __file__, str(gallery), str(journal), str(number)])
        try:
            while not journal.read_text() and child.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.random() * 0.15)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert child.returncode == -signal.SIGKILL
        noted = journal.read_text().split("\n")[:-1]
        for done in noted:
            assert int(done) == number
            state, number = after(state, number), number + 1
        found = contents(gallery)
        assert found in map(live, possible(state, number))


class Faults:
    """System calls that fail once, from the n-th on counted over all of them, as on a disk that has become full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        for name in ("pwrite", "fsync", "ftruncate"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), name))

    def _failing(self, call: Callable[..., int], name: str) -> Callable[..., int]:
        def maybe(handle: int, *arguments: object) -> int:
            self.left -= 1
            if self.left == 0:
                if name == "pwrite":  # half of it still fits
                    data = arguments[0]
                    assert isinstance(data, (bytes, memoryview))
                    call(handle, data[: len(data) // 2], *arguments[1:])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(handle, *arguments)

        return maybe


@pytest.mark.parametrize("rounds", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_full_disk_at_any_write_leaves_the_gallery_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    gallery = tmp_path / "gallery"
    GalleryWriter.open(gallery, MODEL).close()
    faults = Faults(monkeypatch)
    rng = random.Random(1)
    state: State = {}
    failures = 0
    for number in range(rounds):
        faults.left = rng.randrange(1, 4)
        try:
            step(gallery, number)
        except GalleryError as error:
            failures += 1
            assert "No space left" in error.message
            assert contents(gallery) == live(state)
            faults.left = 10**9
            step(gallery, number)
        state = after(state, number)
        assert contents(gallery) == live(state)
    assert failures > rounds // 4


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_small_disk_that_really_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting")
    try:
        state: State = {}
        refused = 0
        # The disk itself is to refuse, not the look at its free space.
        monkeypatch.setattr("tbps_infer.gallery.creation.SPARE_BYTES", -(10**9))
        GalleryWriter.open(disk / "gallery", MODEL).close()
        for number in range(150):
            ballast = disk / "ballast"
            room = random.Random(number).randrange(60_000) if number % 2 else 10**6
            free = shutil.disk_usage(disk).free
            ballast.write_bytes(b"x" * max(0, free - room))
            try:
                step(disk / "gallery", number)
            except GalleryError as error:
                refused += 1
                assert any(
                    word in error.message
                    for word in ("No space", "full", "disk I/O", "unable to open", "cannot be written")
                )
                ballast.unlink()
                if contents(disk / "gallery") == live(state):
                    step(disk / "gallery", number)
            ballast.unlink(missing_ok=True)
            state = after(state, number)
            assert contents(disk / "gallery") == live(state)
        assert refused > 10
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
