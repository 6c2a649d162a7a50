"""Exact retrieval metrics on an ICFG-PEDES-sized problem: counting in chunks against the field's usual argsort.

Run it as ``python -m tbps_infer.benchmarks.studies.metrics``. Each arm runs in a process of its own, so that its peak
memory is its own; arms alternate, so that what else the machine does touches both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.benchmarks.peak_memory import peak_resident_bytes

__all__ = ["ARMS", "argsort_metrics", "count_metrics", "made_problem"]

SIZE = 19_848
"""Captions and pictures of ICFG-PEDES's test split."""

IDENTITIES = 1000

Problem = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def made_problem(
    size: int, dim: int = 512, identities: int = IDENTITIES, noise: float = 2.8, seed: int = 0
) -> Problem:
    """Unit vectors around one centre per identity: texts, images and the identities both share.

    Returns:
        float32 ``[size, dim]`` twice and int64 ``[size]``.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((identities, dim), dtype=np.float32)
    labels = np.arange(size) % identities
    texts, images = (centres[labels] + noise * rng.standard_normal((size, dim), dtype=np.float32) for _ in range(2))
    return _unit(texts), _unit(images), labels


def count_metrics(problem: Problem) -> dict[str, float]:
    """This project's way."""
    from tbps_infer.evaluation.metrics import retrieval_metrics

    texts, images, labels = problem
    named = retrieval_metrics(texts, images, labels, labels).headline()
    return {name: named[name] for name in ("R@1", "R@5", "R@10", "mAP", "mINP")}


def argsort_metrics(problem: Problem) -> dict[str, float]:
    """The way of the public code: the whole matrix, a full argsort, matches, their cumulative sum."""
    import torch

    texts, images, labels = (torch.from_numpy(array) for array in problem)
    similarity = texts @ images.t()
    order = torch.argsort(similarity, dim=1, descending=True)
    matches = labels[order].eq(labels.view(-1, 1))
    found = matches.cumsum(1)
    recall = {f"R@{k}": 100 * found[:, k - 1].clamp(max=1).float().mean().item() for k in (1, 5, 10)}
    relevant = matches.sum(1)
    place = torch.arange(1, matches.shape[1] + 1)
    precision = (found / place) * matches
    last = matches.shape[1] - matches.flip(1).int().argmax(1)
    return {
        **recall,
        "mAP": 100 * (precision.sum(1) / relevant).mean().item(),
        "mINP": 100 * (relevant / last).mean().item(),
    }


ARMS: dict[str, Callable[[Problem], dict[str, float]]] = {"count": count_metrics, "argsort": argsort_metrics}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _measure(arm: str, size: int) -> dict[str, Any]:
    problem = made_problem(size)
    before = peak_resident_bytes()
    started = time.perf_counter()
    metrics = ARMS[arm](problem)
    seconds = time.perf_counter() - started
    peak = peak_resident_bytes()
    return {
        "arm": arm,
        "size": size,
        "seconds": seconds,
        "peak_mib": peak / 2**20,
        "input_mib": before / 2**20,
    } | metrics


def _in_own_process(arm: str, size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tbps_infer.benchmarks.studies.metrics", "--only", arm, "--size", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both arms and print a table; raw rows go to standard error as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=SIZE, help="captions and pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(ARMS), help="run one arm once in this process and print its row")
    given = parser.parse_args(arguments)
    if given.only:
        print(json.dumps(_measure(given.only, given.size)))
        return 0
    print(json.dumps(dict(record_environment().stable)), file=sys.stderr)
    rows = [_in_own_process(arm, given.size) for _ in range(given.rounds) for arm in ARMS]
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    print(f"| {given.size} × {given.size} | seconds (median of {given.rounds}) | peak MiB | R@1 | mAP | mINP |")
    print("|---|---|---|---|---|---|")
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        seconds, peak = (statistics.median(row[key] for row in mine) for key in ("seconds", "peak_mib"))
        values = " | ".join(f"{mine[0][name]:.3f}" for name in ("R@1", "mAP", "mINP"))
        print(f"| {arm} | {seconds:.1f} | {peak:.0f} | {values} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
