"""What the program itself costs at a million pictures: a gallery of tiny JPEG files, embedded by a stand-in model.

::

    python -m tbps_infer.benchmarks.studies.many_pictures --folder SCRATCH --count 1000000 --cameras 1000

The stand-in copies vectors out of a table, so the time goes into listing, reading, decoding and recording. One line
of JSON per stage goes to standard output. The scratch folder's content is removed at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.benchmarks.peak_memory import peak_resident_bytes
from tbps_infer.embedding import EmbedOptions, embed_gallery
from tbps_infer.gallery import Filter, Gallery, GalleryWriter
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import ModelFacts
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.sources import SourceItem, read_sources

__all__ = ["StandIn", "main", "write_pictures"]

_TENTHS = 10
_TABLE_ROWS = 4096


class StandIn:
    """A `tbps_infer.embedding.CropEncoder` that takes no time: its embeddings are rows of a random table."""

    def __init__(self, dim: int) -> None:
        layout = VectorLayout((Segment("all", dim),))
        self.facts = ModelFacts("stand-in", {}, Preprocessing((32, 16)), "none", 16, 0, layout, "0" * 64)
        table = np.random.default_rng(0).standard_normal((_TABLE_ROWS, dim), dtype=np.float32)
        self._table = table / np.linalg.norm(table, axis=1, keepdims=True)

    def encode_stream(
        self, crops: Iterable[NDArray[np.uint8]], batch_size: int
    ) -> Generator[NDArray[np.float32], None, None]:
        """As `tbps_infer.embedding.CropEncoder`, for batches of up to 4096 crops."""
        source = iter(crops)
        while count := sum(1 for _ in islice(source, batch_size)):
            yield self._table[:count]


def write_pictures(folder: Path, count: int, cameras: int) -> None:
    """Write different JPEG files of 16 x 32 pixels, divided evenly among the folders of some cameras."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
    picture = buffer.getvalue()
    for number in range(count):
        place = folder / f"cam_{number % cameras:04}"
        if number < cameras:
            place.mkdir(parents=True)
        # Behind the picture's end: its pixels are the same, and its content is not.
        (place / f"{number // cameras:07}.jpg").write_bytes(picture + number.to_bytes(8, "big"))


@contextmanager
def _timed(*names: str) -> Iterator[dict[str, float]]:
    """The seconds spent in methods of the gallery's writer."""
    seconds = dict.fromkeys(names, 0.0)

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(GalleryWriter, name)

        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                seconds[name] += time.perf_counter() - started

        return call

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(GalleryWriter, name, counted(name)))
        yield seconds


def _embed(what: str, model: StandIn, items: Sequence[SourceItem], gallery: Path) -> None:
    """Embed, and tell the rate and the peak memory after each tenth."""
    marks = [(0, time.perf_counter(), time.process_time(), peak_resident_bytes())]

    def on_progress(done: int, total: int) -> None:
        if done * _TENTHS // total >= len(marks):
            marks.append((done, time.perf_counter(), time.process_time(), peak_resident_bytes()))

    with _timed("commit", "find", "was_removed", "of_content") as seconds:
        report = embed_gallery(model, items, gallery, EmbedOptions(), on_progress)
    wall, cpu = time.perf_counter() - marks[0][1], time.process_time() - marks[0][2]
    pairs = list(pairwise(marks))
    _tell(
        what,
        pictures=len(items),
        embedded=report.embedded,
        seconds=round(wall, 2),
        cpu_seconds=round(cpu, 2),
        per_second=[round((b[0] - a[0]) / (b[1] - a[1])) for a, b in pairs],
        per_cpu_second=[round((b[0] - a[0]) / (b[2] - a[2])) for a, b in pairs],
        peak_resident_mb=[round(mark[3] / 1e6) for mark in marks],
        writer_seconds={name: round(value, 2) for name, value in seconds.items()},
    )


def _tell(stage: str, **facts: Any) -> None:
    print(json.dumps({"stage": stage, **facts}), flush=True)


@contextmanager
def _stage(name: str, **facts: Any) -> Iterator[dict[str, Any]]:
    wall, cpu = time.perf_counter(), sum(os.times()[:4])  # of the processes that it starts as well
    yield facts
    _tell(
        name,
        seconds=round(time.perf_counter() - wall, 3),
        cpu_seconds=round(sum(os.times()[:4]) - cpu, 3),
        peak_resident_mb=round(peak_resident_bytes() / 1e6),
        **facts,
    )


def study(folder: Path, count: int, cameras: int, dim: int) -> None:
    """Write the pictures, embed them, look at the gallery, and embed again with nothing, and with one, to do."""
    pictures, gallery, model = folder / "pictures", folder / "gallery", StandIn(dim)
    with _stage("write the pictures", count=count, cameras=cameras, dim=dim):
        write_pictures(pictures, count, cameras)
    with _stage("list the sources"):
        items = [SourceItem(item.path, {"camera": item.path.parent.name}) for item in read_sources([str(pictures)])]
    _embed("embed", model, items, gallery)
    _embed("embed again", model, items, gallery)
    new = pictures / "cam_0000" / "new.jpg"
    new.write_bytes(items[0].path.read_bytes() + b"new")
    _embed("embed one, as --watch does", model, [SourceItem(new, {"camera": "cam_0000"})], gallery)
    with _stage("open the gallery") as facts, Gallery.open(gallery) as opened:
        facts["records"] = opened.count
    with _stage("tbps info, a process of its own"):
        command = [sys.executable, "-c", "from tbps_infer.cli.main import main; main()", "info", str(gallery)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with Gallery.open(gallery) as opened:
        query = np.ones((1, dim), dtype=np.float32)
        for name, where in (("search", None), ("search one camera", Filter(camera=("cam_0000",)))):
            opened.search(query, where=Filter(id=("nobody",)))
            with _stage(name):
                opened.search(query, where=where)
    records = gallery / "records.sqlite"
    _tell("sizes", records_mb=round(records.stat().st_size / 1e6), vectors_mb=round(2 * dim * count / 1e6))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse arguments, run the study, and remove what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, required=True, help="a scratch folder that does not exist yet")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--cameras", type=int, default=100)
    parser.add_argument("--dim", type=int, default=512)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True)
    environment = record_environment()
    print(json.dumps({**environment.stable, **environment.conditions}), file=sys.stderr)
    try:
        study(given.folder, given.count, given.cameras, given.dim)
    finally:
        shutil.rmtree(given.folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
