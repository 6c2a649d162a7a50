"""A run that is killed with SIGKILL, again and again at random moments, ends with the gallery of a run that was not.

The same file is the process that gets killed: ``python test_embedding_kill.py PICTURES GALLERY``.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer.embedding import EmbedOptions, embed_gallery
from tbps_infer.errors import GalleryBusyError
from tbps_infer.gallery import Gallery, GalleryWriter, Reject, is_gallery
from tbps_infer.gallery.columns import Value
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts
from tbps_infer.sources import read_sources

LAYOUT = VectorLayout((Segment("global", 24), Segment("coarse", 8)))
FACTS = fake_facts((8, 4), layout=LAYOUT)
OPTIONS = EmbedOptions(batch_size=4, workers=2, commit_rows=8)
BATCH_SECONDS = 0.02
LONGEST_LIFE_SECONDS = 0.6

Contents = tuple[list[tuple[int, str, dict[str, Value], bytes]], list[Reject]]


class SlowEncoder:
    """Takes its time; an embedding depends a little on its batch, as on real hardware, so batches must come again."""

    facts = FACTS

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def encode_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        rows = []
        for crop in crops:
            seed = int.from_bytes(hashlib.sha256(crop.tobytes()).digest()[:8], "little")
            values = np.random.default_rng(seed).normal(size=LAYOUT.dim)
            for piece in LAYOUT.slices.values():
                values[piece] /= np.linalg.norm(values[piece])
            rows.append(values * (1 + 1e-3 * crops.mean() / 255))
        return np.array(rows, dtype=np.float32)

    def encode_stream(
        self, crops: Iterable[NDArray[np.uint8]], batch_size: int
    ) -> Generator[NDArray[np.float32], None, None]:
        source = iter(crops)
        while batch := list(islice(source, batch_size)):
            yield self.encode_crops(np.stack(batch))


def main(pictures: str, gallery: str) -> None:
    print("ready", flush=True)
    embed_gallery(SlowEncoder(BATCH_SECONDS), read_sources([pictures]), Path(gallery), OPTIONS)
    print("done", flush=True)


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        pixels = np.full((8, 4, 3), (number % 256, number // 256, 7), dtype=np.uint8)
        content = b"P6 4 8 255\n" + pixels.tobytes()
        (folder / f"{number:04}.ppm").write_bytes(content if number % 17 else content[:20])


def start(pictures: Path, gallery: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, __file__, str(pictures), str(gallery)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def contents(path: Path) -> Contents:
    with Gallery.open(path) as gallery:
        gallery.verify()
        rows = [
            (r.record, str(r.path), dict(r.metadata), gallery.vectors[r.row].tobytes()) for r in gallery.records()
        ]
        return rows, gallery.rejects


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(tmp_path: Path, kills: int) -> None:
    pictures, gallery = tmp_path / "pictures", tmp_path / "gallery"
    # Even if every child lived its longest life, the work would not be done before the last kill.
    write_pictures(pictures, int(1.2 * kills * LONGEST_LIFE_SECONDS / BATCH_SECONDS * OPTIONS.batch_size))
    embed_gallery(SlowEncoder(0), read_sources([str(pictures)]), tmp_path / "whole", OPTIONS)
    want_rows, want_rejects = contents(tmp_path / "whole")

    lives = random.Random(kills)
    survivors = []
    for number in range(kills):
        child = start(pictures, gallery)
        time.sleep(lives.uniform(0, LONGEST_LIFE_SECONDS))
        while number == kills - 1 and not (is_gallery(gallery) and contents(gallery)[0]):
            time.sleep(0.02)  # where others keep the cores busy, a short life may not reach the first commit
        child.kill()
        child.communicate()
        assert child.returncode == -9
        if is_gallery(gallery):
            rows, rejects = contents(gallery)
            assert rows == want_rows[: len(rows)]
            assert rejects == want_rejects[: len(rejects)]
            survivors.append(len(rows))
    assert survivors == sorted(survivors)
    assert 0 < survivors[-1] < len(want_rows)

    report = embed_gallery(SlowEncoder(0), read_sources([str(pictures)]), gallery, OPTIONS)
    assert report.unchanged == survivors[-1]
    assert report.total == report.embedded + report.unchanged + report.rejected
    assert contents(gallery) == (want_rows, want_rejects)
    with GalleryWriter.open(gallery, FACTS) as writer:
        assert writer.rows == len(want_rows)  # nothing was embedded twice


def test_readers_work_while_another_process_writes(tmp_path: Path) -> None:
    """Each reader sees a prefix of the final gallery and finds every record of it; a second writer is refused."""
    pictures, gallery = tmp_path / "pictures", tmp_path / "gallery"
    write_pictures(pictures, 200)
    embed_gallery(SlowEncoder(0), read_sources([str(pictures)]), tmp_path / "whole", OPTIONS)
    want_rows, _ = contents(tmp_path / "whole")
    child = start(pictures, gallery)
    sizes: set[int] = set()
    refused = 0
    watchdog = threading.Timer(60, child.kill)
    watchdog.start()
    try:
        while child.poll() is None:
            if not is_gallery(gallery):
                continue
            with Gallery.open(gallery) as opened:
                rows = [
                    (r.record, str(r.path), dict(r.metadata), opened.vectors[r.row].tobytes())
                    for r in opened.records()
                ]
                assert rows == want_rows[: len(rows)]
                hits = opened.search(np.asarray(opened.vectors[:2], dtype=np.float32), k=opened.count + 1)
                assert all(len(found) == opened.count for found in hits)
                assert [found[0].record for found in hits] == [1, 2][: opened.count]
                sizes.add(len(rows))
            try:
                GalleryWriter.open(gallery, FACTS).close()
            except GalleryBusyError:
                refused += 1
            else:
                assert child.wait(timeout=30) == 0  # it was just about to end
    finally:
        watchdog.cancel()
        child.communicate()
    assert child.returncode == 0
    assert len(sizes) > 3, "the reader never saw the gallery grow"
    assert refused > 3
    assert contents(gallery) == contents(tmp_path / "whole")


if __name__ == "__main__":
    main(*sys.argv[1:])
