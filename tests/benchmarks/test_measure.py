"""The measuring core under a clock that only the arms move: every number is known beforehand."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from fake_clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from tbps_infer.benchmarks.environment import Environment
from tbps_infer.benchmarks.measure import Arm, MemoryRecorder, Plan, Sample, WarmUp, WarmUpRule, measure, warm_up
from tbps_infer.benchmarks.samples import SampleFile, read_samples
from tbps_infer.benchmarks.summary import median_interval, paired_ratio, summarise
from tbps_infer.errors import BenchmarkError

HERE = Environment({"cpu": "abacus", "packages": {"numpy": "2"}}, {"load": 0.5})
COLD = WarmUpRule(window=1, most_runs=1)
PLAN = Plan(samples=4, least_samples=2, arm_seconds=1e9, settle_below_ms=0, warm_up=COLD)


class Timed:
    """An arm's work: takes the milliseconds it is told, in order, the last one for ever."""

    def __init__(self, clock: FakeClock, *times: float, log: list[str] | None = None, name: str = "") -> None:
        self.clock, self.times, self.calls, self.log, self.name = clock, times, 0, log, name

    def __call__(self) -> None:
        self.clock.time += 1e-3 * self.times[min(self.calls, len(self.times) - 1)]
        self.calls += 1
        if self.log is not None:
            self.log.append(self.name)


def arm(name: str, run: Callable[[], Mapping[str, float] | None], items: int = 1, **configuration: int) -> Arm:
    return Arm(name, configuration, run, items)


# Warming up


def test_warm_once_two_windows_agree() -> None:
    clock = FakeClock()
    run = Timed(clock, 5000, 90, 60, 40, 20, 10, 10, 10)
    # Windows of 3 after six runs: 60 against 10; after seven: 40, 10; eight: 20, 10; nine: 10, 10.
    warm = warm_up(run, WarmUpRule(window=3, tolerance=0.05), clock)
    assert (warm.runs, warm.stable, run.calls) == (10, True, 10)
    assert warm.ms == pytest.approx(10)


def test_agreement_is_relative_to_the_earlier_window() -> None:
    clock = FakeClock()
    assert warm_up(Timed(clock, 1, 100, 95), WarmUpRule(window=1, tolerance=0.051), clock).runs == 3
    assert warm_up(Timed(clock, 1, 100, 94, 94), WarmUpRule(window=1, tolerance=0.051), clock).runs == 4


def test_what_never_settles_ends_at_the_cap_and_says_so() -> None:
    clock = FakeClock()
    growing = [1.0, *(float(10 * 2**n) for n in range(9))]
    warm = warm_up(Timed(clock, *growing), WarmUpRule(most_runs=8, long_ms=1e9), clock)
    assert (warm.runs, warm.stable) == (9, False)
    assert warm.ms == pytest.approx(640)
    compiled_first = Timed(clock, 90_000, 4000, 2000, 1000)
    slow = warm_up(compiled_first, WarmUpRule(most_seconds=5), clock)
    assert (slow.runs, slow.stable) == (3, False)


def test_a_long_run_is_a_window_of_its_own() -> None:
    clock = FakeClock()
    assert warm_up(Timed(clock, 1, 800, 610, 600), WarmUpRule(long_ms=500), clock).runs == 4


# Rounds


def test_each_round_runs_every_arm_once_in_an_order_of_its_own() -> None:
    clock, log, book = FakeClock(), list[str](), MemoryRecorder()
    names = "abcde"
    arms = [arm(name, Timed(clock, 3, log=log, name=name)) for name in names]
    measure(arms, book, Plan(samples=20, settle_below_ms=0, warm_up=COLD), clock)
    rounds = [tuple(log[10 + start : 15 + start]) for start in range(0, 100, 5)]
    assert all(sorted(order) == list(names) for order in rounds)
    assert len(set(rounds)) > 10
    places = Counter(order.index("a") for order in rounds)
    assert set(places) == set(range(5))
    again = MemoryRecorder()
    repeated: list[str] = []
    measure(
        [arm(name, Timed(clock, 3, log=repeated, name=name)) for name in names],
        again,
        Plan(samples=20, settle_below_ms=0, warm_up=COLD),
        clock,
    )
    assert repeated == log
    assert [sample.round for sample in book.samples] == [n // 5 for n in range(100)]


def test_samples_are_the_run_alone() -> None:
    clock, book = FakeClock(), MemoryRecorder()
    measure([arm("a", Timed(clock, 7, 7, 1, 2, 3, 4), items=5)], book, PLAN, clock)
    assert [sample.ms for sample in book.samples] == pytest.approx([1, 2, 3, 4])
    assert {sample.items for sample in book.samples} == {5}
    assert clock.slept == pytest.approx(5 * PLAN.pause_s)  # before the warm-up, and before each sample


def test_a_fast_arm_settles_before_each_sample() -> None:
    clock, book = FakeClock(), MemoryRecorder()
    fast, slow = Timed(clock, 9, 9, 90, 1, 91, 2, 92, 3, 93, 4), Timed(clock, 50)
    measure([arm("fast", fast), arm("slow", slow)], book, Plan(samples=4, settle_below_ms=10, warm_up=COLD), clock)
    assert [sample.ms for sample in book.samples_of("fast")] == pytest.approx([1, 2, 3, 4])
    assert slow.calls == 2 + 4


def test_a_slow_arm_stops_at_its_time_and_never_before_its_least() -> None:
    clock, book = FakeClock(), MemoryRecorder()
    plan = Plan(samples=10, least_samples=3, arm_seconds=2.0, warm_up=COLD)
    measure([arm(str(ms), Timed(clock, ms)) for ms in (100, 500, 5000)], book, plan, clock)
    assert {name: len(book.samples_of(name)) for name in ("100", "500", "5000")} == {"100": 10, "500": 4, "5000": 3}
    assert {sample.round for sample in book.samples_of("5000")} == {0, 1, 2}


def test_drift_cancels_in_the_paired_ratio() -> None:
    """A machine that slows to a third: the arms' medians mislead, their ratio by round does not."""
    clock, book = FakeClock(), MemoryRecorder()
    start = clock.time

    def work(ms: float) -> Callable[[], None]:
        def run() -> None:
            clock.time += 1e-3 * ms * (1 + 0.2 * (clock.time - start))

        return run

    arms = [arm("slow", work(60)), arm("fast", work(30))]
    measure(arms, book, Plan(samples=60, arm_seconds=1e9, settle_below_ms=0, warm_up=COLD), clock)
    slow, fast = book.samples_of("slow"), book.samples_of("fast")
    assert slow[-1].ms > 2 * slow[0].ms
    ratio = paired_ratio(slow, fast)
    assert ratio is not None
    assert ratio.median == pytest.approx(2, rel=0.02)
    assert ratio.quartiles[1] - ratio.quartiles[0] < 0.1
    assert ratio.rounds == 60


def test_parts_that_an_arm_times_itself() -> None:
    clock, book = FakeClock(), MemoryRecorder()
    measure([arm("a", lambda: {"compute_ms": 2.0, "copy_ms": 0.5})], book, PLAN, clock)
    assert summarise(book.samples).parts_ms == {"compute_ms": 2.0, "copy_ms": 0.5}


def test_progress_ends_at_its_total() -> None:
    clock, book, seen = FakeClock(), MemoryRecorder(), list[tuple[int, int]]()
    arms = [arm("a", Timed(clock, 10)), arm("b", Timed(clock, 2000))]
    plan = Plan(samples=5, least_samples=2, arm_seconds=3, warm_up=COLD)
    measure(arms, book, plan, clock, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_names_are_distinct() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="same name"):
        measure([arm("a", Timed(clock, 1))] * 2, MemoryRecorder(), PLAN, clock)


# The file


def open_file(path: Path, environment: Environment = HERE) -> SampleFile:
    return SampleFile.open(path, environment, ["tbps", "bench", "latency", "a bundle"])


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    clock, raw = FakeClock(), tmp_path / "raw.jsonl"
    calls = {"a": 0, "b": 0}

    def work(name: str) -> Callable[[], None]:
        def run() -> None:
            calls[name] += 1
            clock.time += 0.010
            if name == "b" and calls[name] == 5:  # two to warm up, then two samples, then this
                raise KeyboardInterrupt

        return run

    arms = [arm("a", work("a"), batch=1), arm("b", work("b"), batch=2)]
    with open_file(raw) as book, pytest.raises(KeyboardInterrupt):
        measure(arms, book, PLAN, clock)
    before = read_samples(raw)
    assert len(before.samples["b"]) == 2
    with raw.open("a") as stream:
        stream.write('{"kind": "sample", "arm": "a", "conf')  # killed while it wrote
    with open_file(raw) as book:
        assert len(book.samples_of("b")) == 2
        measure(arms, book, PLAN, clock)
    after = read_samples(raw)
    assert {name: len(rows) for name, rows in after.samples.items()} == {"a": 4, "b": 4}
    assert after.samples["b"][:2] == before.samples["b"]
    resumed = [sample.round for sample in after.samples["b"][2:]]
    assert min(resumed) > max(sample.round for rows in before.samples.values() for sample in rows)
    assert len(after.runs) == 2
    assert after.configurations == {"a": {"batch": 1}, "b": {"batch": 2}}
    assert after.warm_ups["a"] == WarmUp(2, False, 10.0)


def test_a_finished_run_measures_nothing_more(tmp_path: Path) -> None:
    clock = FakeClock()
    work = Timed(clock, 1)
    for _ in range(2):
        with open_file(tmp_path / "raw.jsonl") as book:
            measure([arm("a", work)], book, PLAN, clock)
    assert work.calls == 2 + 4


def test_each_sample_names_its_configuration_and_environment(tmp_path: Path) -> None:
    clock = FakeClock()
    with open_file(tmp_path / "raw.jsonl") as book:
        measure([arm("a", Timed(clock, 1.5), items=2, batch=2)], book, PLAN, clock)
    lines = [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert lines[0]["command"] == "tbps bench latency 'a bundle'"
    samples = [line for line in lines if line["kind"] == "sample"]
    assert len(samples) == 4
    assert samples[0] == {
        "kind": "sample",
        "arm": "a",
        "configuration": {"batch": 2},
        "environment": HERE.fingerprint,
        "round": 0,
        "ms": 1.5,
        "items": 2,
        "parts": {},
    }


def test_environments_are_not_mixed(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    open_file(raw).__exit__(None, None, None)
    content = raw.read_bytes()
    other = Environment({"cpu": "abacus", "packages": {"numpy": "3"}}, {})
    with pytest.raises(BenchmarkError, match=r"another environment \(packages numpy: '2', now '3'\)"):
        open_file(raw, other)
    assert raw.read_bytes() == content
    open_file(raw, Environment(HERE.stable, {"load": 7.0})).__exit__(None, None, None)  # conditions may differ


def test_configurations_are_not_mixed(tmp_path: Path) -> None:
    clock = FakeClock()
    with open_file(tmp_path / "raw.jsonl") as book:
        measure([arm("a", Timed(clock, 1), batch=1)], book, PLAN, clock)
    with open_file(tmp_path / "raw.jsonl") as book:
        with pytest.raises(BenchmarkError, match=r"samples of a under another configuration \(batch: 1, now 8\)"):
            book.refuse_other_configurations([arm("a", Timed(clock, 1), batch=8)])
        with pytest.raises(BenchmarkError, match="another configuration"):
            book.add_sample(arm("a", Timed(clock, 1), batch=8), Sample("a", 9, 1.0, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not JSON\n", "Line 1"),
        ('{"kind": "sample"}\n', "no line of the kind run"),
        ("", "holds no samples"),
        ('{"kind": "run", "schema": 99}\n', "schema 99"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "raw.jsonl").write_text(content)
    with pytest.raises(BenchmarkError, match=words):
        read_samples(tmp_path / "raw.jsonl")


def test_a_sample_of_another_environment_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    with open_file(raw) as book:
        measure([arm("a", Timed(FakeClock(), 1))], book, PLAN, FakeClock())
    raw.write_text(raw.read_text().replace(f'"environment": "{HERE.fingerprint}"', '"environment": "0"', 1))
    with pytest.raises(BenchmarkError, match="another environment"):
        read_samples(raw)


def test_notes_that_grow_are_written_each_time(tmp_path: Path) -> None:
    known: dict[str, int] = {}
    with open_file(tmp_path / "raw.jsonl") as book:
        for name in ("a", "b", "b"):
            known[name] = 1
            book.add_note("memory", known)
    assert read_samples(tmp_path / "raw.jsonl").notes == {"memory": {"a": 1, "b": 1}}
    assert (tmp_path / "raw.jsonl").read_text().count('"note"') == 2


# Statistics


def test_percentiles_interpolate_linearly() -> None:
    samples = [Sample("a", n, float(ms), 4) for n, ms in enumerate([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110])]
    summary = summarise(samples)
    assert (summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms) == pytest.approx((60, 100, 105, 109))
    assert summary.quartiles_ms == pytest.approx((35, 85))
    assert summary.least_ms == 10
    assert summary.per_second == pytest.approx(1000 * 4 / 60)


def test_ratios_pair_rounds() -> None:
    slow = [Sample("slow", n, ms, 2) for n, ms in ((0, 20.0), (1, 40.0), (2, 80.0), (5, 1.0))]
    fast = [Sample("fast", n, ms, 1) for n, ms in ((0, 5.0), (1, 10.0), (2, 10.0), (7, 1.0))]
    ratio = paired_ratio(slow, fast)
    assert ratio is not None
    assert (ratio.median, ratio.rounds) == (2, 3)  # of 2, 2 and 4
    assert paired_ratio(slow, fast[3:]) is None


@given(st.lists(st.floats(1, 1e4), min_size=2, max_size=40))
def test_the_interval_holds_the_median_and_repeats(values: list[float]) -> None:
    low, high = median_interval(np.array(values))
    assert min(values) <= low <= statistics.median(values) <= high <= max(values)
    assert median_interval(np.array(values)) == (low, high)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = median_interval(rng.exponential(size=40))
        covered += low <= np.log(2) <= high
    assert 0.90 <= covered / 200 <= 0.99
