"""What a latency run notes beside its samples: operations, energy, peak memory. What is noted is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tbps_infer.benchmarks.energy import find_rails, measure_energy
from tbps_infer.benchmarks.measure import Arm, Clock
from tbps_infer.benchmarks.peak_memory import PeakTask, measure_peak
from tbps_infer.benchmarks.samples import SampleFile
from tbps_infer.model_facts import BRANCHES

__all__ = ["note_costs", "note_energy", "note_memory"]


def note_costs(file: SampleFile, bundle: Path, lengths: Sequence[int]) -> None:
    """Operations per item and bytes of weights, where onnx is installed to read them."""
    if "costs" in file.held.notes:
        return
    try:
        import onnx  # noqa: F401
    except ImportError:
        return
    from tbps_infer.benchmarks.flops import graph_cost

    costs: dict[str, dict[str, int]] = {}
    for branch, sizes in (("image", (None,)), ("text", tuple(lengths))):
        for length in sizes:
            cost = graph_cost(bundle / f"{branch}.onnx", {"batch": 1, "length": length or 1})
            name = branch if length is None else f"{branch} {length}"
            costs[name] = {"flops": cost.flops, "weight_bytes": cost.weight_bytes}
    file.add_note("costs", costs)


def note_energy(
    file: SampleFile, arms: Sequence[Arm], clock: Clock, seconds: float, say: Callable[[str], None]
) -> None:
    """Joules per item of each model arm, on boards that measure their own power."""
    rails = find_rails()
    if not rails:
        return
    known = dict(file.held.notes.get("energy", {}))
    for arm in arms:
        if arm.name not in known and arm.configuration.get("what") in BRANCHES:
            say(f"{arm.name}: energy ...")
            known[arm.name] = asdict(measure_energy(arm, rails, clock, seconds))
            file.add_note("energy", known)


def note_memory(file: SampleFile, tasks: Iterable[PeakTask], say: Callable[[str], None]) -> None:
    """Peaks of processes that open one branch and run one batch."""
    known = dict(file.held.notes.get("memory", {}))
    for task in tasks:
        name = f"{task.branch} {task.choice.label}"
        if name not in known:
            say(f"{name}: peak memory at batch {task.batch} ...")
            known[name] = asdict(measure_peak(task))
            file.add_note("memory", known)
