"""Writers that are killed while others write: what was acknowledged is there, once, and nothing is there in part.

The same file is the process that gets killed: ``python test_lance_kill.py URI WRITER``.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from fake_vectors import embeddings

from tbps_infer.gallery import Entry, FileStamp, open_gallery, open_gallery_writer
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

FACTS = fake_facts((8, 4), layout=VectorLayout((Segment("global", 64),)))
VECTORS = embeddings(FACTS.layout, 1000)
ROWS = 8
COMMITS = 60
WRITERS = 4
"""The last two have the same rows."""


def numbers_of(writer: int, commit: int) -> list[int]:
    first = (min(writer, WRITERS - 2) * COMMITS + commit) * ROWS
    return list(range(first, first + ROWS))


def path_of(number: int) -> Path:
    return Path(f"/pictures/{number:06d}.jpg")


def write(uri: str, writer_number: int) -> None:
    """Commit what is not there yet, and print every commit's number when it is acknowledged."""
    with open_gallery_writer(uri, FACTS) as writer:
        print("open", flush=True)
        for commit in range(COMMITS):
            new = [n for n in numbers_of(writer_number, commit) if writer.stamp(path_of(n)) is None]
            entries = [Entry(path_of(n), FileStamp(n, n, f"{n:064x}"), {"id": str(n)}) for n in new]
            if new:
                writer.commit(entries, VECTORS[[n % len(VECTORS) for n in new]])
            print(commit, flush=True)


@pytest.fixture(params=["disk", "store"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "killed.lance")
        return
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed")
    from object_store import BUCKET, object_store

    with object_store() as environment, pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        yield f"s3://{BUCKET}/killed.lance"


@pytest.mark.slow
def test_a_hundred_kills_lose_and_double_nothing(uri: str) -> None:
    rng = random.Random(0)
    kills, acknowledged = 0, set[int]()
    while kills < 100:
        command = [sys.executable, __file__, uri]
        running = [
            subprocess.Popen([*command, str(writer)], stdout=subprocess.PIPE, text=True, env={**os.environ})
            for writer in range(WRITERS)
        ]
        for writer, process in enumerate(running):
            assert process.stdout is not None and process.stdout.readline() == "open\n", "it opens what was killed"
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
            lines = process.stdout.read().split()
            for commit in map(int, lines):
                acknowledged.update(numbers_of(writer, commit))
            kills += process.wait() != 0
            process.stdout.close()
        _check(uri, acknowledged)
    for writer in range(WRITERS):  # undisturbed, they end what was begun
        subprocess.run([*command, str(writer)], check=True, capture_output=True)
    _check(
        uri,
        {number for writer in range(WRITERS) for commit in range(COMMITS) for number in numbers_of(writer, commit)},
    )


def _check(uri: str, acknowledged: set[int]) -> None:
    with open_gallery(uri) as gallery:
        records = list(gallery.records())
        numbers = [int(record.path.stem) for record in records]
        assert len(numbers) == len(set(numbers)), "a row is there twice"
        assert acknowledged <= set(numbers), "a row that was acknowledged is lost"
        stored = gallery.vectors_of(np.array([record.record for record in records]))
        wanted = VECTORS[[number % len(VECTORS) for number in numbers]].astype(np.float16)
        np.testing.assert_array_equal(stored, wanted)
        assert all(record.metadata["id"] == str(number) for record, number in zip(records, numbers, strict=True))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
