"""The measuring core: arms warmed up until they are stable, then sampled in rounds of shuffled order.

Each round runs every arm once, in an order drawn anew, so that what else the machine does, and what heat does to its
clock, touches all arms alike; two arms are compared round by round. The clock is given: tests know every number.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "Arm",
    "Clock",
    "MemoryRecorder",
    "Plan",
    "ProcessorClock",
    "Recorder",
    "Sample",
    "SystemClock",
    "Value",
    "WarmUp",
    "WarmUpRule",
    "measure",
    "warm_up",
    "without_parts",
]

Value = str | int | float | bool | None


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds since a fixed moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let time pass without work."""


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        """`time.perf_counter`."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """`time.sleep`."""
        time.sleep(seconds)


class ProcessorClock(SystemClock):
    """What all threads of this process worked, for a machine that is not idle; pauses cost nothing."""

    def now(self) -> float:
        """`time.process_time`."""
        return time.process_time()


@dataclass(frozen=True)
class Arm:
    """One thing that is timed.

    Attributes:
        name: Unique in a run.
        configuration: All that distinguishes it from other arms: backend, precision, batch …
        run: Does the work once and waits until it is done, on a device too. It may return milliseconds of parts that
            it timed itself, by events on the device.
        items: How many pictures, captions or queries one run handles.
    """

    name: str
    configuration: Mapping[str, Value]
    run: Callable[[], Mapping[str, float] | None]
    items: int = 1


def without_parts(work: Callable[[], object]) -> Callable[[], None]:
    """Work whose result is not the milliseconds of parts that an arm may return."""

    def run() -> None:
        work()

    return run


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run.

    Attributes:
        arm: Its name.
        round: Samples of different arms with the same number were taken one after the other.
        ms: Milliseconds.
        items: What was handled.
        parts: Milliseconds by part, where the arm times them.
    """

    arm: str
    round: int
    ms: float
    items: int
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WarmUpRule:
    """When an arm counts as warm: the medians of the last two windows of runs agree.

    Attributes:
        window: Runs per window.
        tolerance: How far the medians may differ, relative to the earlier one.
        long_ms: A run at least this long is a window of its own.
        most_runs: Give up after so many, the first one not counted.
        most_seconds: Give up after so long, the first run not counted.
    """

    window: int = 3
    tolerance: float = 0.05
    long_ms: float = 500.0
    most_runs: int = 40
    most_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What warming up took.

    Attributes:
        runs: Unrecorded runs.
        stable: False when a cap of the rule was reached before the medians agreed.
        ms: The median of the last window.
    """

    runs: int
    stable: bool
    ms: float


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        samples: Of each arm, at most.
        least_samples: Of each arm, however slow it is.
        arm_seconds: Measured time after which an arm has enough, once it has its least samples.
        seed: Of the rounds' order.
        pause_s: Before each run, since threads of the arm before may still spin on the cores.
        settle_below_ms: An arm faster than this runs once unrecorded before each sample, which brings its weights
            and its threads back: what is timed is a model in use, not one just woken up.
        warm_up: When sampling may begin.
    """

    samples: int = 30
    least_samples: int = 5
    arm_seconds: float = 5.0
    seed: int = 0
    pause_s: float = 0.01
    settle_below_ms: float = 50.0
    warm_up: WarmUpRule = WarmUpRule()


class Recorder(Protocol):
    """Where samples go, and what it holds from earlier runs of the same measurement."""

    def samples_of(self, arm: str) -> Sequence[Sample]:
        """All samples of an arm so far."""

    def next_round(self) -> int:
        """One more than the greatest round so far, 0 at first."""

    def add_sample(self, arm: Arm, sample: Sample) -> None:
        """Keep one."""

    def add_warm_up(self, arm: Arm, result: WarmUp) -> None:
        """Keep what warming up took."""


class MemoryRecorder:
    """A recorder for drivers that keep their samples elsewhere, or not at all.

    Attributes:
        samples: All of them, in the order taken.
        warm_ups: By arm.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.warm_ups: dict[str, WarmUp] = {}

    def samples_of(self, arm: str) -> Sequence[Sample]:
        """All samples of an arm."""
        return [sample for sample in self.samples if sample.arm == arm]

    def next_round(self) -> int:
        """One more than the greatest round so far."""
        return 1 + max((sample.round for sample in self.samples), default=-1)

    def add_sample(self, _arm: Arm, sample: Sample) -> None:
        """Keep one."""
        self.samples.append(sample)

    def add_warm_up(self, arm: Arm, result: WarmUp) -> None:
        """Keep what warming up took."""
        self.warm_ups[arm.name] = result


def warm_up(run: Callable[[], object], rule: WarmUpRule, clock: Clock) -> WarmUp:
    """Run until two consecutive windows have medians that agree, or a cap is reached.

    The very first run, which may load, allocate or compile for minutes, counts for neither.
    """
    run()
    times: list[float] = []
    started = clock.now()
    while True:
        before = clock.now()
        run()
        times.append(1e3 * (clock.now() - before))
        window = 1 if times[-1] >= rule.long_ms else rule.window
        last = statistics.median(times[-window:])
        if len(times) >= 2 * window:
            earlier = statistics.median(times[-2 * window : -window])
            if abs(last - earlier) <= rule.tolerance * earlier:
                return WarmUp(1 + len(times), True, last)
        if len(times) >= rule.most_runs or clock.now() - started >= rule.most_seconds:
            return WarmUp(1 + len(times), False, last)


def measure(
    arms: Sequence[Arm],
    recorder: Recorder,
    plan: Plan,
    clock: Clock,
    on_sample: Callable[[int, int], None] | None = None,
) -> None:
    """Sample every arm that has not enough samples yet, in rounds.

    Args:
        arms: With distinct names.
        recorder: Each sample is handed over as soon as it is taken, so that nothing is lost by an interruption.
        plan: When an arm has enough.
        clock: Where time comes from.
        on_sample: Called with (samples taken, samples at most) over all arms.

    Raises:
        ValueError: Two arms have the same name.
    """
    if len({arm.name for arm in arms}) != len(arms):
        raise ValueError("two arms have the same name")
    missing = [arm for arm in arms if not _has_enough(recorder.samples_of(arm.name), plan)]
    warm = {}
    for arm in missing:
        clock.sleep(plan.pause_s)
        warm[arm.name] = warm_up(arm.run, plan.warm_up, clock)
        recorder.add_warm_up(arm, warm[arm.name])
    number = recorder.next_round()
    total = plan.samples * len(arms)
    while missing:
        # Seeded by the round as well: a run that was interrupted goes on with the order it would have had.
        order = random.Random(f"{plan.seed} {number}").sample(missing, len(missing))
        for arm in order:
            clock.sleep(plan.pause_s)
            if warm[arm.name].ms < plan.settle_below_ms:
                arm.run()
            recorder.add_sample(arm, _timed(arm, number, clock))
            if on_sample is not None:
                left = sum(max(plan.samples - len(recorder.samples_of(other.name)), 0) for other in missing)
                on_sample(total - left, total)
        number += 1
        missing = [arm for arm in missing if not _has_enough(recorder.samples_of(arm.name), plan)]


def _timed(arm: Arm, number: int, clock: Clock) -> Sample:
    before = clock.now()
    parts = arm.run()
    return Sample(arm.name, number, 1e3 * (clock.now() - before), arm.items, dict(parts or {}))


def _has_enough(samples: Sequence[Sample], plan: Plan) -> bool:
    if len(samples) >= plan.samples:
        return True
    return len(samples) >= plan.least_samples and sum(s.ms for s in samples) >= 1e3 * plan.arm_seconds
