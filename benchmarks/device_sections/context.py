"""What every section is given, and the kinds of facts that it yields."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_infer.devices import Device

__all__ = ["Fact", "SectionContext", "checked", "clocked", "noted", "skipped", "timed"]

Fact = Mapping[str, Any]
"""A line of JSON. ``check`` and ``ok``: something that is right or wrong. ``timed``, ``first_ms`` and ``p50_ms``: a
time. ``note``: a sentence. ``skipped``: why something was not done. Other names go beside these."""


@dataclass(frozen=True)
class SectionContext:
    """What is checked.

    Attributes:
        work: A folder for files that are not part of the report.
        bundle: With FP32 and FP16 graphs.
        checkpoint: What it was exported from.
        device: A GPU, or the CPU to try the check itself.
    """

    work: Path
    bundle: Path
    checkpoint: Path
    device: Device

    @classmethod
    def of(cls, *, work: Path, bundle: Path | None, checkpoint: Path | None, device: str) -> SectionContext:
        """With the shipped checkpoint, and a bundle in the folder, where none is given."""
        import tbps_infer

        shipped = Path(tbps_infer.__file__).parent / "assets" / "tiny"
        return cls(work, bundle or work / "bundle", checkpoint or shipped, Device.parse(device))

    @property
    def on_cpu(self) -> bool:
        """Whether only the check itself is tried."""
        return self.device.kind == "cpu"


def checked(what: str, ok: bool, **facts: object) -> Fact:
    """Something that is right or wrong."""
    return {"check": what, "ok": bool(ok), **facts}


def noted(text: str) -> Fact:
    """A sentence for the report."""
    return {"note": text}


def skipped(why: str) -> Fact:
    """Why something was not done."""
    return {"skipped": why}


def timed(what: str, times_ms: Sequence[float], *, warm_up: int = 2, **facts: object) -> Fact:
    """The first time, and the median of those after the warm-up."""
    rest = times_ms[warm_up:]
    return {
        "timed": what,
        "first_ms": round(times_ms[0], 4),
        "p50_ms": round(statistics.median(rest), 4),
        "samples": len(rest),
        **facts,
    }


def clocked(run: Callable[[], object], samples: int, warm_up: int = 2) -> list[float]:
    """Milliseconds of every call by the host's clock, the warm-up's included; ``run`` waits for the device itself."""
    times = []
    for _ in range(samples + warm_up):
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return times
