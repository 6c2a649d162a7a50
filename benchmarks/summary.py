"""What samples say: percentiles, throughput, spread, and ratios of arms paired by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.measure import Sample
from tbps_infer.verification.bootstrap import bootstrap_interval

__all__ = ["Ratio", "Summary", "median_interval", "paired_ratio", "summarise"]

_DRAWS = 1000


@dataclass(frozen=True)
class Summary:
    """One arm's samples.

    Percentiles interpolate linearly between the two nearest samples (numpy's ``linear``, Hyndman and Fan's type 7);
    beyond the resolution of the number of samples they lie close to the extremes.

    Attributes:
        count: Samples.
        items: Handled per sample.
        p50_ms, p90_ms, p95_ms, p99_ms: Percentiles of the latency.
        least_ms: The fastest sample.
        quartiles_ms: The 25th and 75th percentile.
        median_interval_ms: Bootstrap interval of the median, 95 %.
        per_second: Items per second at the median latency.
        parts_ms: The median of each part that the arm timed itself.
    """

    count: int
    items: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    least_ms: float
    quartiles_ms: tuple[float, float]
    median_interval_ms: tuple[float, float]
    per_second: float
    parts_ms: Mapping[str, float]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one arm is as another.

    Attributes:
        median: Of the rounds' ratios.
        interval: Bootstrap interval of the median, 95 %.
        quartiles: The 25th and 75th percentile of the rounds' ratios.
        rounds: How many rounds both arms ran in.
    """

    median: float
    interval: tuple[float, float]
    quartiles: tuple[float, float]
    rounds: int


def summarise(samples: Sequence[Sample]) -> Summary:
    """Summarise one arm's samples, at least one. Raises ValueError when they handle different numbers of items."""
    if len({sample.items for sample in samples}) != 1:
        raise ValueError("want samples of one arm, at least one, all of the same number of items")
    times = np.array([sample.ms for sample in samples])
    p25, p50, p75, p90, p95, p99 = np.percentile(times, (25, 50, 75, 90, 95, 99), method="linear").tolist()
    names = dict.fromkeys(name for sample in samples for name in sample.parts)
    return Summary(
        count=len(samples),
        items=samples[0].items,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        least_ms=float(times.min()),
        quartiles_ms=(p25, p75),
        median_interval_ms=median_interval(times),
        per_second=1e3 * samples[0].items / p50 if p50 else float("inf"),
        parts_ms={name: float(np.median([s.parts[name] for s in samples if name in s.parts])) for name in names},
    )


def paired_ratio(slow: Sequence[Sample], fast: Sequence[Sample]) -> Ratio | None:
    """How many times as fast as ``slow`` is ``fast``, per item, over the rounds that both ran in.

    Returns:
        Above 1 where ``fast`` is faster; None when they share no round.
    """
    before = {sample.round: sample.ms / sample.items for sample in slow}
    ratios = np.array([before[s.round] / (s.ms / s.items) for s in fast if s.round in before])
    if not len(ratios):
        return None
    p25, p50, p75 = np.percentile(ratios, (25, 50, 75), method="linear").tolist()
    return Ratio(p50, median_interval(ratios), (p25, p75), len(ratios))


def median_interval(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median, in a fixed number of draws; the same every time."""
    low, high = bootstrap_interval(values, np.median, draws=_DRAWS).tolist()
    return low, high
