"""What the device can do at most: large products and copies, to judge the other times by."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, skipped
from tbps_infer.benchmarks.machine_limits import limit_arms
from tbps_infer.errors import BackendError

__all__ = ["facts"]

_SAMPLES = 10


def facts(context: SectionContext) -> Iterator[Fact]:
    """The greatest measured rate of every limit."""
    try:
        arms = limit_arms(context.device, 1)
    except BackendError as error:
        yield skipped(error.message)
        return
    for arm in arms:
        arm.run()
        best = float("inf")
        for _ in range(2 if context.on_cpu else _SAMPLES):
            started = time.perf_counter()
            arm.run()
            best = min(best, time.perf_counter() - started)
        work, unit = float(str(arm.configuration["work"])), arm.configuration["unit"]
        yield {
            "timed": arm.name,
            "p50_ms": 1e3 * best,
            "rate_per_s": work / best,
            "unit": unit,
            "samples": _SAMPLES,
            "statistic": "least",
        }
