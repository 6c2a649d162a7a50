"""A sentence to its hits in one process, and what threads that wait in a loop take from what comes next.

::

    python -m tbps_infer.benchmarks.studies.query BUNDLE GALLERY --precision int8 --rounds 25

Two encoders run by turns: one whose threads sleep while they wait, as they do here, and one whose threads wait in a
loop, as ONNX Runtime lets them by itself. Each arm begins after a pause. Every sample is a line of JSON on standard
output, with the processor time of all threads until the arm ends; medians and paired ratios go to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np

from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.benchmarks.measure import Sample
from tbps_infer.benchmarks.summary import paired_ratio, summarise
from tbps_infer.encoder import Encoder
from tbps_infer.gallery import Gallery
from tbps_infer.model_facts import PRECISIONS, Precision
from tbps_infer.runners import RunOptions, onnxruntime_runner

__all__ = ["main", "query_arms", "time_arms"]

_SENTENCE = (
    "a woman in a red coat with a grey backpack and black trousers walks along the street with a white handbag in "
    "her left hand"
)
_WAYS = {"sleeping": "0", "looping": "1"}
_PAUSE_S = 0.04
_WARM_UP = 3

Step = Callable[[], object]


def query_arms(bundle: Path, gallery: Gallery, precision: Precision) -> dict[str, tuple[Step, Step]]:
    """By name, what runs before the clock starts and what is timed."""

    def nothing() -> None: ...

    arms: dict[str, tuple[Step, Step]] = {}
    for way, allowed in _WAYS.items():
        with patch.object(onnxruntime_runner, "_ALLOW_SPINNING", allowed):
            encoder = Encoder.open(bundle, RunOptions(precision=precision))
            encoder.runner("text")
        queries = encoder.encode_texts(_SENTENCE)

        def encode(encoder: Encoder = encoder) -> object:
            return encoder.encode_texts(_SENTENCE)

        def search(queries: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = queries) -> object:
            return gallery.search(queries, 10)

        def whole(encoder: Encoder = encoder) -> object:
            return gallery.search(encoder.encode_texts(_SENTENCE), 10)

        arms["search"] = nothing, search
        arms[f"encode, {way}"] = nothing, encode
        arms[f"search after encoding, {way}"] = encode, search
        arms[f"encode after searching, {way}"] = search, encode
        arms[f"whole, {way}"] = nothing, whole
    return arms


def time_arms(arms: Mapping[str, tuple[Step, Step]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Processor and wall milliseconds of each arm in each round, whose order is random."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    order, random = list(arms), np.random.default_rng(0)
    for number in range(-_WARM_UP, rounds):
        random.shuffle(order)
        for name in order:
            before, timed = arms[name]
            time.sleep(_PAUSE_S)
            before()
            cpu, wall = time.process_time(), time.perf_counter()
            timed()
            taken = 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)
            if number >= 0:
                found[name].append(taken)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("gallery", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args(arguments)
    print(json.dumps(record_environment().stable), flush=True)
    with Gallery.open(given.gallery) as gallery:
        found = time_arms(query_arms(given.bundle, gallery, given.precision), given.rounds)
    arms = {name: [Sample(name, turn, cpu, 1) for turn, (cpu, _) in enumerate(found[name])] for name in found}
    for name, samples in arms.items():
        for sample, (cpu, wall) in zip(samples, found[name], strict=True):
            facts = {"arm": name, "round": sample.round, "cpu_ms": round(cpu, 2), "wall_ms": round(wall, 2)}
            print(json.dumps({"precision": given.precision, **facts}))
        print(f"{name}: {summarise(samples).p50_ms:.1f} ms of processor time", file=sys.stderr)
        if name.endswith("looping"):
            print(f"  {paired_ratio(samples, arms[name.replace('looping', 'sleeping')])}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
