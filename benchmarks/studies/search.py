"""Searching a gallery: against faiss and the memory's bandwidth, the sketch, the graph, filters, and peak memory.

::

    python -m tbps_infer.benchmarks.studies.search scan
    python -m tbps_infer.benchmarks.studies.search methods --gallery GALLERY.npy --queries QUERIES.npy
    python -m tbps_infer.benchmarks.studies.search filters --folder FOLDER
    python -m tbps_infer.benchmarks.studies.search memory --folder FOLDER

Arms alternate, so that what else the machine does touches all of them; every sample goes to standard output as a line
of JSON, and a table of medians to standard error. What arms return is compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.benchmarks.measure import (
    Arm,
    Clock,
    MemoryRecorder,
    Plan,
    ProcessorClock,
    Sample,
    SystemClock,
    measure,
    without_parts,
)
from tbps_infer.benchmarks.peak_memory import peak_resident_bytes
from tbps_infer.benchmarks.stages import write_gallery
from tbps_infer.benchmarks.studies.peers.indexes import open_faiss, open_usearch
from tbps_infer.benchmarks.summary import paired_ratio, summarise
from tbps_infer.cores import usable_cores
from tbps_infer.errors import BackendError
from tbps_infer.gallery import Filter, Gallery, SearchOptions, index_gallery
from tbps_infer.gallery.search.multiply import numkong_usable
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import ScanOptions, top_k
from tbps_infer.gallery.vectors import StoredVectors, quantise
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import ModelFacts
from tbps_infer.preprocessing import Preprocessing

__all__ = ["interleaved", "main"]

K = 10


def interleaved(
    arms: Mapping[str, Callable[[], object]], rounds: int, clock: Clock | None = None
) -> dict[str, list[Sample]]:
    """Samples of every arm in every round, once it is warm; see `tbps_infer.benchmarks.measure`."""
    recorder = MemoryRecorder()
    plan = Plan(samples=rounds, least_samples=rounds)
    measure([Arm(name, {}, without_parts(run)) for name, run in arms.items()], recorder, plan, clock or SystemClock())
    return {name: list(recorder.samples_of(name)) for name in arms}


def unit_vectors(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    """float32 ``[count, dim]``, random directions: the hardest case for any bound."""
    values = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def scan(arguments: argparse.Namespace) -> None:
    """Batches of queries against faiss on the same rows, and one query against the memory's bandwidth."""
    rows, dim = arguments.rows, arguments.dim
    full = unit_vectors(rows, dim, 0)
    queries = unit_vectors(64, dim, 1)
    stored = {
        "float16": StoredVectors(full.astype(np.float16)),
        "int8": StoredVectors(*quantise(full)),
        "float32": StoredVectors(full),
    }
    every = Rows.of(np.arange(rows))

    def search(dtype: str, count: int, options: ScanOptions) -> Callable[[], NDArray[np.int64]]:
        return lambda: top_k(stored[dtype], every, queries[:count], K, max_norm=1.02, options=options).indices

    words = stored["float16"].values.view(np.uint64).reshape(-1)
    parts = np.array_split(words, 64)

    def read(threads: int) -> Callable[[], object]:
        """Sum the float16 rows as integers: nothing that looks at every byte can be faster."""
        pool = ThreadPoolExecutor(threads)
        return lambda: list(pool.map(np.sum, parts))

    threads = arguments.threads or usable_cores()
    ways = [("numpy", False)] + ([("numkong", True)] if numkong_usable() else [])
    for count in (64, 1):
        arms: dict[str, Callable[[], object]] = {}
        for dtype in stored:
            for way, numkong in ways:
                if not (dtype == "float32" and numkong):
                    arms[f"{dtype} {way}"] = search(dtype, count, ScanOptions(arguments.threads, numkong=numkong))
        arms |= _faiss_arms(full, queries[:count], threads)
        arms |= _usearch_arm(full, queries[:count], threads)
        arms |= _torch_arm(full, queries[:count])
        if count == 1:
            arms |= {f"read float16, {n} threads": read(n) for n in sorted({1, threads})}
        samples = interleaved(arms, arguments.rounds, _clock(arguments))
        _write(f"{count} queries x {rows} rows x {dim}", samples)
        if count == 1 and numkong_usable():
            share = paired_ratio(samples[f"read float16, {threads} threads"], samples["float16 numkong"])
            assert share is not None  # they have all rounds in common
            low, high = (f"{100 * end:.0f}" for end in share.interval)
            print(
                f"\nfloat16 numkong reads at {100 * share.median:.0f} % of the memory's measured bandwidth "
                f"(95 % {low} to {high}, {threads} threads)",
                file=sys.stderr,
            )


def _clock(arguments: argparse.Namespace) -> Clock:
    return ProcessorClock() if arguments.cpu_time else SystemClock()


def _faiss_arms(
    full: NDArray[np.float32], queries: NDArray[np.float32], threads: int
) -> dict[str, Callable[[], object]]:
    try:
        find = open_faiss(full, K, threads)
    except BackendError:
        print("faiss is not installed: its arm is left out.", file=sys.stderr)
        return {}
    longest = 1.02 * float(np.linalg.norm(full, axis=1).max())
    want = top_k(StoredVectors(full), Rows.of(np.arange(len(full))), queries, K, max_norm=longest).scores
    found = np.take_along_axis(queries @ full.T, find(queries), axis=1)
    np.testing.assert_allclose(found, want, atol=1e-5)
    return {f"faiss-cpu IndexFlatIP float32, {threads} threads": partial(find, queries)}


def _usearch_arm(
    full: NDArray[np.float32], queries: NDArray[np.float32], threads: int
) -> dict[str, Callable[[], object]]:
    try:
        find = open_usearch(full, K, threads)
    except BackendError:
        print("usearch is not installed: its arm is left out.", file=sys.stderr)
        return {}
    return {f"usearch exact float16, {threads} threads": partial(find, queries)}


def _torch_arm(full: NDArray[np.float32], queries: NDArray[np.float32]) -> dict[str, Callable[[], object]]:
    try:
        import torch
    except ImportError:
        return {}
    left, right = torch.from_numpy(queries), torch.from_numpy(full)
    return {"torch float32 matmul + topk": lambda: torch.topk(left @ right.T, K)}


def methods(arguments: argparse.Namespace) -> None:
    """Bytes read and time of a search by the sketch, and recall and time of the graph, on real embeddings."""
    vectors = np.load(arguments.gallery, mmap_mode="r")
    queries = np.load(arguments.queries).astype(np.float32)
    chosen = np.random.default_rng(0).permutation(len(queries))[: arguments.count]
    queries = np.ascontiguousarray(queries[chosen])
    folder = Path(arguments.folder)
    squared = float((vectors[:1000].astype(np.float64) ** 2).sum(axis=1).mean())
    path = _write_gallery(
        folder / "gallery", lambda start, stop: vectors[start:stop].astype(np.float32), vectors.shape, squared
    )
    started = time.perf_counter()
    index_gallery(path)
    built = {"sketch": time.perf_counter() - started}
    threads = arguments.threads or usable_cores()
    options = {method: SearchOptions(method=method, threads=threads) for method in ("scan", "sketch")}
    if arguments.graph:
        started = time.perf_counter()
        index_gallery(path, graph=True)
        built["graph"] = time.perf_counter() - started
        options["graph"] = SearchOptions(method="graph", threads=threads)
    with Gallery.open(path) as gallery:
        results = {name: gallery.search_with_report(queries, K, options=option) for name, option in options.items()}
        assert results["sketch"].hits == results["scan"].hits
        found = [{hit.record for hit in hits} for hits in results["scan"].hits]
        for name in options:
            hits = results[name].hits
            recall = sum(len({h.record for h in some} & want) for some, want in zip(hits, found, strict=True))
            fact = {
                "method": name,
                "share_read": results[name].report.share_read,
                f"recall@{K}": recall / (K * len(queries)),
                "build_s": built.get(name),
            }
            print(json.dumps(fact), file=sys.stderr)
        for count in (1, 64):
            arms: dict[str, Callable[[], object]] = {
                name: partial(gallery.search, queries[:count], K, options=option) for name, option in options.items()
            }
            full = np.ascontiguousarray(vectors, dtype=np.float32)
            arms |= _faiss_arms(full, queries[:count], threads)
            arms |= _usearch_arm(full, queries[:count], threads)
            samples = interleaved(arms, arguments.rounds, _clock(arguments))
            _write(f"{count} queries x {gallery.count} rows x {queries.shape[1]}", samples)


def filters(arguments: argparse.Namespace) -> None:
    """One query, filtered by a camera of few or many rows, by an expression that says the same, without an identity.

    A gallery remembers what the last filter let pass; "again" is a search that finds it so.
    """
    rows, dim = arguments.rows, arguments.dim
    folder = Path(arguments.folder)
    path = folder / "gallery"

    def metadata(number: int) -> Mapping[str, str | int]:
        camera = next((f"every {step}th" for step in (1000, 100, 10) if number % step == 0), "rest")
        return {"camera": camera, "id": number % 1000}

    try:
        shape = (rows, dim)
        _write_gallery(path, lambda start, stop: unit_vectors(stop - start, dim, start + 2), shape, 1.0, metadata)
        query = unit_vectors(1, dim, 1)
        with Gallery.open(path) as gallery:

            def search(where: Filter | None, *, anew: bool = True) -> None:
                if anew:
                    gallery.selected(Filter(id=("nobody",)))
                gallery.search(query, K, where, SearchOptions(method="scan"))

            arms = {"no filter": partial(search, None), "--not-id, 0.1 %": partial(search, Filter(not_id=("17",)))}
            for name in ("every 1000th", "every 100th", "every 10th", "rest"):
                camera = Filter(camera=(name,))
                arms[f"--camera, {name}"] = partial(search, camera)
                arms[f"again, {name}"] = partial(search, camera, anew=False)
                arms[f"--where, {name}"] = partial(search, Filter(where=f"camera = '{name}'"))
            _write(f"1 query x {rows} rows x {dim}, filtered", interleaved(arms, arguments.rounds))
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write_gallery(
    path: Path,
    vectors: Callable[[int, int], NDArray[np.float32]],
    shape: tuple[int, int],
    squared_norm: float,
    metadata: Callable[[int], Mapping[str, str | int]] | None = None,
) -> Path:
    count, dim = shape
    layout = VectorLayout((Segment("all", dim, squared_norm),))
    facts = ModelFacts("benchmark", {}, Preprocessing(), "none", 64, 0, layout, "0" * 64)
    return write_gallery(path, facts, count, vectors, metadata)


def memory(arguments: argparse.Namespace) -> None:
    """Peak resident memory of searches in a gallery larger than that; its rows are random directions."""
    rows, dim = arguments.rows, arguments.dim
    folder = Path(arguments.folder)
    needed, free = 2 * rows * dim, shutil.disk_usage(folder).free
    if free < 1.2 * needed:
        sys.exit(f"skipped: {free / 1e9:.1f} GB of disk are free, and {1.2 * needed / 1e9:.1f} GB are needed")
    path = folder / "gallery"
    try:
        _write_gallery(path, lambda start, stop: unit_vectors(stop - start, dim, start + 2), (rows, dim), 1.0)
        command = [sys.executable, "-m", "tbps_infer.benchmarks.studies.search", "search"]
        # A process of its own, whose peak is the search's.
        subprocess.run([*command, "--folder", str(path), "--dim", str(dim)], check=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def search(arguments: argparse.Namespace) -> None:
    """Search a gallery with 1 and with 64 queries and tell the peak of this process."""
    queries = unit_vectors(64, arguments.dim, 1)
    with Gallery.open(Path(arguments.folder)) as gallery:
        for count in (1, 64):
            started = time.perf_counter()
            gallery.search(queries[:count], K, options=SearchOptions(method="scan"))
            fact = {
                "queries": count,
                "rows": gallery.count,
                "gigabytes": gallery.stored.row_bytes * gallery.count / 1e9,
                "seconds": round(time.perf_counter() - started, 2),
                "peak_resident_gb": peak_resident_bytes() / 1e9,
            }
            print(json.dumps(fact), flush=True)


def _write(problem: str, samples: Mapping[str, Sequence[Sample]]) -> None:
    for name, taken in samples.items():
        for sample in taken:
            print(json.dumps({"problem": problem, "arm": name, "round": sample.round, "ms": round(sample.ms, 3)}))
    print(f"\n{problem}", file=sys.stderr)
    first = next(iter(samples.values()))
    for name, taken in samples.items():
        ratio = paired_ratio(first, taken)
        beside = "" if ratio is None or taken is first else f"   {ratio.median:5.2f} times as fast as the first"
        summary = summarise(taken)
        times = f"median {summary.p50_ms:8.1f} ms   least {summary.least_ms:8.1f} ms"
        print(f"  {name:48} {times}{beside}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse arguments and run one benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m tbps_infer.benchmarks.studies.search", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(required=True)
    for run in (scan, methods, filters, memory, search):
        command = commands.add_parser(run.__name__, help=(run.__doc__ or "").split("\n")[0])
        command.set_defaults(run=run)
        command.add_argument("--rows", type=int, default=1_000_000 if run is memory else 200_000)
        command.add_argument("--dim", type=int, default=6656 if run is memory else 512)
        command.add_argument("--rounds", type=int, default=7)
        command.add_argument(
            "--folder", default=".", help="where galleries are written; filters and memory remove their own"
        )
        if run in (scan, methods):
            command.add_argument(
                "--cpu-time",
                action="store_true",
                help="processor time of all threads, for a machine that is not idle",
            )
            command.add_argument("--threads", type=int, help="threads of the search's own; default: the usable cores")
        if run is methods:
            command.add_argument("--gallery", required=True, help="npy file of embeddings [n, dim]")
            command.add_argument("--queries", required=True, help="npy file of embeddings [m, dim]")
            command.add_argument("--count", type=int, default=200, help="queries taken from the file")
            command.add_argument("--graph", action="store_true", help="the graph as well")
    parsed = parser.parse_args(arguments)
    environment = record_environment()
    print(json.dumps({**environment.stable, **environment.conditions}), file=sys.stderr)
    parsed.run(parsed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
