"""Measures datasets: adding rows, the index, exact, approximate and filtered searches (docs/scale.md).

python -m tbps_infer.benchmarks.studies.lance FOLDER --rows 200000 --dim 832
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery import Entry, FileStamp, Filter, Hit, SearchOptions, compact_gallery, index_with_report
from tbps_infer.gallery.lance.reader import LanceGallery
from tbps_infer.gallery.lance.writer import LanceWriter
from tbps_infer.model_facts import ModelFacts

__all__ = ["main"]

_BATCH = 2048
_CAMERAS = 16
_QUERIES = 32
_CENTRES_PER_ROW = 1 / 50


def main() -> None:
    """Print one line of JSON per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=832)
    arguments = parser.parse_args()
    rows, dim = arguments.rows, arguments.dim
    uri = arguments.folder / f"{rows}x{dim}.lance"
    model = ModelFacts.of_vectors(dim, "study")
    if not uri.exists():  # else its searches are measured again
        _insert(uri, model, rows)
        with _timed("index"):
            print(json.dumps({"index": index_with_report(uri).quality}))
    folder_bytes = sum(file.stat().st_size for file in (uri / "_indices").rglob("*") if file.is_file())
    print(json.dumps({"index_bytes_per_row": round(folder_bytes / rows)}))
    with LanceGallery.open(uri) as gallery:
        print(json.dumps({"dataset_bytes_per_row": round(gallery.bytes / rows)}))
        queries = _queries(gallery, rows)
        _search(gallery, queries, Filter())
        for camera in ("0", "common"):
            _search(gallery, queries, Filter(camera=(camera,)))


def _insert(uri: Path, model: ModelFacts, rows: int) -> None:
    """The first half in one version, as a push does; the rest in commits, as embedding does."""
    half = rows // 2
    first = _Generated(_batches(model, 0, half))
    with _timed("rows in one version", half, first), LanceWriter.open(uri, model) as writer:
        writer.commit_batches({}, ((entries, v.astype(np.float16).view(np.uint8)) for entries, v in first))
    with LanceWriter.open(uri, model) as writer:
        with _timed("known paths read"):
            writer.stamp(Path("/"))
        second = _Generated(_batches(model, half, rows))
        with _timed("rows in commits of 2048", rows - half, second):
            for entries, vectors in second:
                writer.commit(entries, vectors)
    with _timed("compact"):
        compact_gallery(uri)


class _Generated:
    """Batches, and the seconds and CPU seconds that making them took, which are not the dataset's."""

    def __init__(self, batches: Iterator[tuple[list[Entry], NDArray[np.float32]]]) -> None:
        self._batches = batches
        self.s = self.cpu_s = 0.0

    def __iter__(self) -> Iterator[tuple[list[Entry], NDArray[np.float32]]]:
        return self

    def __next__(self) -> tuple[list[Entry], NDArray[np.float32]]:
        started, cpu = time.perf_counter(), time.process_time()
        try:
            return next(self._batches)
        finally:
            self.s += time.perf_counter() - started
            self.cpu_s += time.process_time() - cpu


def _batches(model: ModelFacts, first: int, last: int) -> Iterator[tuple[list[Entry], NDArray[np.float32]]]:
    """Rows around centres, some fifty around each; every second from a camera of its own among sixteen."""
    dim = model.layout.dim
    for start in range(first, last, _BATCH):
        numbers = np.arange(start, min(start + _BATCH, last))
        vectors = np.stack([_row(number, dim) for number in numbers.tolist()])
        cameras = [str(n // 2 % (_CAMERAS // 2)) if n % 2 else "common" for n in numbers.tolist()]
        yield (
            [
                Entry(Path(f"/pictures/{n:09d}.jpg"), FileStamp(n, n, f"{n:064x}"), {"camera": camera})
                for n, camera in zip(numbers.tolist(), cameras, strict=True)
            ],
            vectors,
        )


def _row(number: int, dim: int) -> NDArray[np.float32]:
    centre = np.random.default_rng([1, int(number * _CENTRES_PER_ROW)]).standard_normal(dim, dtype=np.float32)
    noise = np.random.default_rng([2, number]).standard_normal(dim, dtype=np.float32)
    vector = centre + noise
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _queries(gallery: LanceGallery, rows: int) -> NDArray[np.float32]:
    """Between a stored vector and a random one, as a sentence lies beside the pictures."""
    rng = np.random.default_rng(3)
    numbers = np.sort(rng.choice(rows, _QUERIES, replace=False)) + 1
    vectors = gallery.vectors_of(numbers.astype(np.int64))
    noise = rng.standard_normal(vectors.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    mixed = vectors + noise
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), dtype=np.float32)


def _search(gallery: LanceGallery, queries: NDArray[np.float32], where: Filter) -> None:
    assert gallery.index is not None
    passing = gallery.passing(where)
    exact = SearchOptions("exact")
    gallery.search(queries[:1], 10, where, exact)
    truth = _measured("exact, one query", gallery, queries[:4], where, exact, passing)
    truth = _measured(f"exact, {_QUERIES} queries at once", gallery, queries, where, exact, passing, together=True)
    partitions = gallery.index.partitions
    for probes in sorted({max(1, partitions // 16), max(1, partitions // 4), partitions}):
        options = SearchOptions("index", probes=probes)
        found = _measured(f"index, {probes} of {partitions}", gallery, queries, where, options, passing)
        print(json.dumps({"recall@10": _recall(found, truth)}))


def _recall(found: Sequence[Sequence[Hit]], truth: Sequence[Sequence[Hit]]) -> float:
    pairs = [({h.record for h in a}, {h.record for h in b}) for a, b in zip(found, truth, strict=True)]
    return round(sum(len(a & b) for a, b in pairs) / sum(len(b) for _, b in pairs), 4)


def _measured(
    what: str,
    gallery: LanceGallery,
    queries: NDArray[np.float32],
    where: Filter,
    options: SearchOptions,
    passing: int,
    together: bool = False,
) -> list[list[Hit]]:
    started, cpu = time.perf_counter(), time.process_time()
    groups = [queries] if together else [query[None] for query in queries]
    hits = [found for group in groups for found in gallery.search(group, 10, where, options)]
    each = 1000 / len(queries)
    print(
        json.dumps(
            {
                "search": what,
                "passing": passing,
                "ms": round((time.perf_counter() - started) * each, 1),
                "cpu_ms": round((time.process_time() - cpu) * each, 1),
            }
        ),
        flush=True,
    )
    return hits


class _timed:  # noqa: N801 - used as a function
    def __init__(self, what: str, rows: int | None = None, generated: _Generated | None = None) -> None:
        self._what, self._rows, self._generated = what, rows, generated

    def __enter__(self) -> None:
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        if self._generated is not None:
            seconds, cpu = seconds - self._generated.s, cpu - self._generated.cpu_s
        figures: dict[str, object] = {"what": self._what, "s": round(seconds, 2), "cpu_s": round(cpu, 2)}
        if self._rows is not None:
            figures["rows_per_s"] = round(self._rows / seconds)
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
