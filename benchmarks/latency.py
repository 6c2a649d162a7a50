"""Latency of a bundle on this machine: every backend, precision, batch and text length there is, in one run.

Arms are opened and compared with the bundle's golden vectors before anything is timed. What cannot be had here is
noted with its reason, and never replaced. See `tbps_infer.benchmarks.measure` for how samples are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tbps_infer.benchmarks.backends import WAYS, Choice, Models, TimedRun, Way, list_choices, open_choice
from tbps_infer.benchmarks.environment import Environment, record_environment
from tbps_infer.benchmarks.latency_notes import note_costs, note_energy, note_memory
from tbps_infer.benchmarks.machine_limits import limit_arms
from tbps_infer.benchmarks.measure import Arm, Clock, Plan, Value, measure
from tbps_infer.benchmarks.peak_memory import PeakTask
from tbps_infer.benchmarks.samples import SampleFile, Samples
from tbps_infer.benchmarks.stages import Material, encode_arms, open_material, stage_arms
from tbps_infer.cores import usable_cores
from tbps_infer.devices import Device, MemoryKind
from tbps_infer.errors import BackendError, BenchmarkError, UsageError, VerificationError
from tbps_infer.model_facts import BRANCHES, PRECISIONS, Branch, Precision
from tbps_infer.runners import Runner
from tbps_infer.verification.golden import golden_cosine
from tbps_infer.verification.tolerances import GOLDEN_COSINE

__all__ = ["BATCHES", "LatencyOptions", "run_latency"]

BATCHES = (1, 2, 4, 8, 16, 32)

_BUSY_SHARE = 0.5


@dataclass(frozen=True)
class LatencyOptions:
    """What is timed.

    Attributes:
        devices: ``cpu``, ``cuda:0`` …
        ways: Backends.
        precisions: Of each.
        batches: Items per run.
        lengths: Tokens per caption; powers of two from 16 and the model's greatest when not given.
        threads: On the CPU, of one operator; the usable cores when not given.
        gallery: Searched by the stages; one of random unit vectors is made when not given.
        rows: Of the gallery that is made.
        captions: In the mix of captions of their own lengths.
        stages: Time decoding, resizing, tokenising and searching, and a sentence's whole way.
        peak_memory: Measure peak memory, each arm in a process of its own.
        memory_kind: The package that calls CUDA for engines; the first that works when not given.
        plan: How much is measured.
    """

    devices: tuple[str, ...] = ("cpu",)
    ways: tuple[Way, ...] = WAYS
    precisions: tuple[Precision, ...] = PRECISIONS
    batches: tuple[int, ...] = BATCHES
    lengths: tuple[int, ...] = ()
    threads: int | None = None
    gallery: Path | None = None
    rows: int = 10_000
    captions: int = 64
    stages: bool = True
    peak_memory: bool = True
    memory_kind: MemoryKind | None = None
    plan: Plan = field(default_factory=Plan)


@dataclass
class _Opened:
    """A choice that works here, with the branches that do."""

    choice: Choice
    branches: dict[Branch, tuple[Runner, TimedRun]]


@dataclass
class _Session:
    """What is open during a run."""

    models: Models
    options: LatencyOptions
    material: Material
    notes: dict[str, Any] = field(default_factory=dict)


def run_latency(
    bundle: Path,
    reference: Path | None,
    raw: Path,
    options: LatencyOptions,
    command: Sequence[str],
    clock: Clock,
    say: Callable[[str], None],
    on_sample: Callable[[int, int], None] | None = None,
) -> Samples:
    """Measure, or go on measuring, into a file of raw samples.

    Args:
        bundle: What is timed.
        reference: The checkpoint that it was exported from, for the PyTorch arms.
        raw: The file; continued when it is there.
        options: What is timed.
        command: How this run was started, for the report.
        clock: Where time comes from.
        say: Told in sentences what is going on.
        on_sample: Called with (samples taken, samples at most).

    Returns:
        All that the file then holds.

    Raises:
        UsageError: An option makes no sense for this model.
        BenchmarkError: The file is of another environment or other configurations.
        VerificationError: A backend gives other embeddings than the bundle's golden ones.
    """
    threads = options.threads or usable_cores()
    with ExitStack() as stack:
        environment = record_environment()
        file = stack.enter_context(SampleFile.open(raw, environment, command))
        _say_if_busy(environment, threads, say)
        models = Models.open(bundle, reference, threads, options.memory_kind)
        material = stack.enter_context(open_material(models.bundle, options.gallery, options.rows, options.captions))
        session = _Session(models, options, material)
        lengths = _lengths(options.lengths, models.bundle.model.max_length)
        opened = _open_all(session, stack, say)
        if not opened:
            reason = next(iter(session.notes["absent"].values()), "Ask for another backend or device.")
            raise BenchmarkError("No backend that was asked for runs here.", reason)
        arms = _arms(session, opened, lengths)
        file.refuse_other_configurations(arms)
        file.add_note("model", _model_name(models))
        for subject, value in session.notes.items():
            file.add_note(subject, value)
        note_costs(file, models.bundle.path, lengths)
        say(f"{len(arms)} arms are warmed up, then sampled in shuffled rounds.")
        measure(arms, file, options.plan, clock, on_sample)
        note_energy(file, arms, clock, options.plan.arm_seconds, say)
        if options.peak_memory:
            note_memory(file, _peak_tasks(session, opened, lengths[-1], bundle, reference), say)
        return file.held


def _model_name(models: Models) -> str:
    """The family and the sizes that say most: what a reader has to know of a model that is not theirs."""
    facts = models.bundle.model
    height, width = facts.preprocessing.image_size
    sizes = sum((models.bundle.path / f"{branch}.onnx").stat().st_size for branch in BRANCHES) / 1e6
    return f"{facts.family}, {height}×{width}, {facts.max_length} tokens, {facts.layout.dim} numbers, {sizes:.0f} MB"


def _say_if_busy(environment: Environment, threads: int, say: Callable[[str], None]) -> None:
    """Threads that wait by spinning, PyTorch's for one, are slowed down many times by a process beside them."""
    load = environment.conditions.get("load")
    if load and load[0] > _BUSY_SHARE * threads:
        say(f"This machine is busy (load {load[0]:g} for {threads} threads): figures will be worse than it can do.")


def _lengths(given: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Token counts, ascending. Raises UsageError when one is too small or beyond the model."""
    lengths = given or (*(length for length in (16, 32, 64, 128) if length < most), most)
    for length in lengths:
        if not 3 <= length <= most:
            raise UsageError(f"The text length is {length}, and this model takes 3 to {most} tokens.")
    return tuple(sorted(set(lengths)))


def _open_all(session: _Session, stack: ExitStack, say: Callable[[str], None]) -> list[_Opened]:
    """Open what can be opened and compare it with the golden vectors; note the rest with reasons."""
    options, opened = session.options, list[_Opened]()
    absent: dict[str, str] = {}
    parity: dict[str, float] = {}
    descriptions: dict[str, str] = {}
    for choice in list_choices(options.devices, options.ways, options.precisions):
        branches: dict[Branch, tuple[Runner, TimedRun]] = {}
        reasons: dict[Branch, str] = {}
        for branch in BRANCHES:
            try:
                branches[branch] = open_choice(choice, session.models, branch)
            except BackendError as error:
                reasons[branch] = f"{error.message} {error.hint}".strip()
        if not branches:
            absent[choice.label] = reasons["image"]
            continue
        absent |= {f"the {branch} branch on {choice.label}": reason for branch, reason in reasons.items()}
        for runner, _ in branches.values():
            stack.callback(runner.close)
        say(f"{choice.label}: comparing with the golden vectors ...")
        for branch, (runner, _) in branches.items():
            name = f"{branch} {choice.label}"
            parity[name] = _golden_cosine(session, choice, branch, runner)
            descriptions[name] = runner.description
        opened.append(_Opened(choice, branches))
    session.notes |= {"absent": absent, "parity": parity, "descriptions": descriptions}
    return opened


def _golden_cosine(session: _Session, choice: Choice, branch: Branch, runner: Runner) -> float:
    cosine = golden_cosine(session.models.bundle.golden(), branch, runner)
    if not cosine >= GOLDEN_COSINE[choice.precision]:
        raise VerificationError(
            f"The {branch} branch on {choice.label} has a cosine of {cosine:.6f} with the reference's embeddings of "
            f"the golden inputs; want {GOLDEN_COSINE[choice.precision]} at least.",
            "Do not time it: export or build it again, or leave this backend or precision out.",
        )
    return round(cosine, 9)


def _arms(session: _Session, opened: Sequence[_Opened], lengths: Sequence[int]) -> list[Arm]:
    """All arms: each backend's batches and lengths, the stages around a model, and the machine's limits."""
    options, arms = session.options, list[Arm]()
    for one in opened:
        for batch in options.batches:
            if "image" in one.branches:
                arms.append(_model_arm(session, one, "image", batch, None))
            if "text" in one.branches:
                arms += [_model_arm(session, one, "text", batch, length) for length in lengths]
        if options.stages and "text" in one.branches:
            runners = {branch: runner for branch, (runner, _) in one.branches.items()}
            shared = _configuration(session, one.choice)
            arms += encode_arms(session.material, one.choice.label, shared, runners)
    if options.stages:
        arms += stage_arms(session.material, session.models.bundle.model.fingerprint)
    unmeasured: dict[str, str] = {}
    for name in options.devices:
        device = Device.parse(name)
        try:
            arms += limit_arms(device, session.models.threads)
        except BackendError as error:
            unmeasured[str(device)] = error.message
    session.notes["limits not measured"] = unmeasured
    return arms


def _model_arm(session: _Session, one: _Opened, branch: Branch, batch: int, length: int | None) -> Arm:
    samples, (_, run) = session.material.samples, one.branches[branch]
    feeds = samples.image_batch(0, batch) if length is None else samples.text_batch(0, batch, length)
    configuration = {"what": branch, **_configuration(session, one.choice), "batch": batch, "length": length}
    name = f"{branch} {one.choice.label} batch {batch}" + ("" if length is None else f" length {length}")
    return Arm(name, configuration, lambda: run(feeds), batch)


def _configuration(session: _Session, choice: Choice) -> dict[str, Value]:
    return {
        "backend": choice.way,
        "device": choice.device,
        "precision": choice.precision,
        "cuda_graphs": choice.cuda_graphs,
        "threads": session.models.threads,
        "model": session.models.bundle.model.fingerprint,
    }


def _peak_tasks(
    session: _Session, opened: Sequence[_Opened], length: int, bundle: Path, reference: Path | None
) -> Iterator[PeakTask]:
    """Each branch of each backend at the greatest batch and length."""
    for one in opened:
        for branch in one.branches:
            yield PeakTask(
                bundle=str(bundle.resolve()),
                reference=None if reference is None else str(reference.resolve()),
                branch=branch,
                choice=one.choice,
                batch=max(session.options.batches),
                length=None if branch == "image" else length,
                threads=session.models.threads,
                memory_kind=session.models.memory,
            )
