"""Kills and full disks at random moments of adding, replacing, removing and compacting: nothing is lost or doubled.

The child works through a list of steps that follows from a seed, and notes in a journal which one has returned. After
each fault the gallery must be as after the last noted step or as after the one that was under way.
"""

from __future__ import annotations

import errno
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

from tbps_infer.bundle import ModelFacts
from tbps_infer.errors import GalleryError
from tbps_infer.gallery import Entry, FileStamp, Filter, Gallery, GalleryWriter, compact_gallery, remove_records
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import Preprocessing

LAYOUT = VectorLayout((Segment("global", 64),))
MODEL = ModelFacts("part", {}, Preprocessing(), "none", 64, 0, LAYOUT, "f" * 64)

State = dict[str, bytes]
"""Path to stored embedding."""


def embedding(number: int, version: int) -> NDArray[np.float32]:
    values = np.random.default_rng((number, version)).normal(size=64)
    unit: NDArray[np.float32] = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


def step(path: Path, number: int) -> None:
    """Step `number`: the same whether it is taken for the first time or, after a fault, again."""
    rng = random.Random(number)
    match rng.choice(["add", "add", "add", "remove", "compact"]):
        case "add":
            first = rng.randrange(100)
            chosen = range(first, first + rng.randrange(1, 30))
            entries = [Entry(Path(f"/p/{n}"), FileStamp(1, number, "x"), {"id": n}) for n in chosen]
            with GalleryWriter.open(path, MODEL) as writer:
                writer.commit(entries, np.stack([embedding(n, number) for n in chosen]))
        case "remove":
            remove_records(path, Filter(where=f"id % 7 = {number % 7}"))
        case "compact":
            compact_gallery(path)


def after(state: State, number: int) -> State:
    """What `step` makes of a state."""
    rng = random.Random(number)
    match rng.choice(["add", "add", "add", "remove", "compact"]):
        case "add":
            first = rng.randrange(100)
            chosen = range(first, first + rng.randrange(1, 30))
            return state | {f"/p/{n}": embedding(n, number).astype(np.float16).tobytes() for n in chosen}
        case "remove":
            return {path: row for path, row in state.items() if int(path[3:]) % 7 != number % 7}
        case _:
            return state


def contents(path: Path) -> State:
    with Gallery.open(path) as gallery:
        gallery.verify()
        records = list(gallery.records())
        rows = [record.row for record in records]
        assert len(set(rows)) == len(rows)
        found = {str(record.path): gallery.vectors[record.row].tobytes() for record in records}
        assert len(found) == len(records)
        queries = np.eye(64, dtype=np.float32)[:2]
        assert all(len(hits) == gallery.count for hits in gallery.search(queries, 10**6))
        return found


def main(path: str, journal: str, first: str) -> None:
    """The child: steps without end, each noted when it has returned."""
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
        assert found in (state, after(state, number))


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
            assert contents(gallery) == state
            faults.left = 10**9
            step(gallery, number)
        state = after(state, number)
        assert contents(gallery) == state
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
        monkeypatch.setattr("tbps_infer.gallery.writer.SPARE_BYTES", -(10**9))
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
                assert any(word in error.message for word in ("No space", "full", "disk I/O", "unable to open"))
                ballast.unlink()
                if contents(disk / "gallery") == state:
                    step(disk / "gallery", number)
            ballast.unlink(missing_ok=True)
            state = after(state, number)
            assert contents(disk / "gallery") == state
        assert refused > 10
    finally:
        subprocess.run(["umount", str(disk)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
