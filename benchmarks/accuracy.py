"""How accurate every engine of a bundle is, beside its reference, on the same pictures and captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tbps_infer.benchmarks.environment import Environment, record_environment
from tbps_infer.bundle import Bundle
from tbps_infer.devices import MemoryKind
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError, BenchmarkError, FeedError, VerificationError
from tbps_infer.evaluation.metrics import QueryMetrics
from tbps_infer.model_facts import BRANCHES, Precision
from tbps_infer.runners import BackendName, RunOptions
from tbps_infer.tensorrt.flavours import FLAVOURS
from tbps_infer.verification.agreement import Agreement, Embedded, agreement
from tbps_infer.verification.differences import MetricDifference, metric_differences, text_to_image
from tbps_infer.verification.evaluation_set import EvaluationSet, OnProgress, embed_set
from tbps_infer.verification.references import Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AccuracyResults", "EngineAccuracy", "list_engines", "measure_accuracy"]


@dataclass(frozen=True)
class EngineAccuracy:
    """One engine, measured.

    Attributes:
        run: Backend, device and precision.
        description: What its branches say of themselves.
        metrics: The field's metrics, captions as queries, ties lost, in percent; empty without labels.
        differences: From the reference, one per metric; empty for the reference itself and without labels.
        agreement: With the reference; None for the reference itself.
    """

    run: RunOptions
    description: str
    metrics: dict[str, float]
    differences: tuple[MetricDifference, ...] = ()
    agreement: Agreement | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "backend": self.run.backend,
            "device": self.run.device,
            "precision": self.run.precision,
            "description": self.description,
            "is_reference": self.agreement is None,
            "metrics": self.metrics,
            "differences": {each.name: each.to_json() for each in self.differences},
            "agreement": None if self.agreement is None else self.agreement.to_json(),
        }


@dataclass(frozen=True)
class AccuracyResults:
    """All engines on one set.

    Attributes:
        data: What was embedded.
        reference: What the engines were compared with, in words.
        engines: The reference first.
        not_run: What could not be had, or is broken, each by its label with the reason.
        environment: Of the machine.
        command: What was typed.
    """

    data: EvaluationSet
    reference: str
    engines: tuple[EngineAccuracy, ...]
    not_run: tuple[tuple[str, str], ...]
    environment: Environment
    command: str

    @property
    def compared(self) -> tuple[EngineAccuracy, ...]:
        """The engines without the reference."""
        return tuple(engine for engine in self.engines if engine.agreement is not None)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "data": self.data.to_json(),
            "reference": self.reference,
            "engines": [engine.to_json() for engine in self.engines],
            "not_run": [{"engine": label, "reason": reason} for label, reason in self.not_run],
            "environment": dict(self.environment.stable),
            "command": self.command,
        }


def list_engines(
    backends: Sequence[BackendName],
    devices: Sequence[str],
    precisions: Sequence[Precision],
    threads: int | None,
    memory: MemoryKind | None = None,
) -> Iterator[RunOptions]:
    """Every combination that makes sense; whether it is to be had shows when it is opened.

    Raises:
        UsageError: A device is not known.
    """
    for backend in backends:
        for device in devices:
            if backend == "torch" or (backend in FLAVOURS and device == "cpu"):
                continue
            for precision in precisions:
                yield RunOptions(backend, device, precision, threads, memory if backend in FLAVOURS else None)


def measure_accuracy(
    bundle: Bundle,
    reference: Reference,
    runs: Sequence[RunOptions],
    data: EvaluationSet,
    command: str,
    *,
    batch_size: int = 32,
    on_step: Callable[[str], None] = lambda _step: None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> AccuracyResults:
    """Embed a set with the reference once and with every engine, and compare: metrics where there are labels.

    Args:
        bundle: Whose engines.
        reference: What is taken as right.
        runs: The engines; one that is the reference itself is not run again.
        data: The golden set where the reference is the golden vectors.
        command: What was typed, for the report.
        batch_size: Items per run.
        on_step: Called with a sentence when an engine begins.
        on_progress: Called with the items embedded by the engine at work.

    Raises:
        BenchmarkError: None of the engines runs here.
        VerificationError: The reference is broken, or no caption has a picture of its person.
        ImageError, UsageError: A picture or a caption cannot be embedded.
    """
    on_step(f"Embedding with {reference.description}")
    wanted = reference.embed(data, on_progress)
    of_reference = None if data.labels is None else text_to_image(wanted, data.labels)
    own = RunOptions() if reference.kind == "fp32 graphs" else RunOptions("torch")
    engines = [EngineAccuracy(own, reference.description, {} if of_reference is None else _means(of_reference))]
    not_run: list[tuple[str, str]] = []
    for run in runs:
        if run.label == own.label:
            continue
        on_step(f"Embedding with {run.label}")
        try:
            found, description = _embed(bundle, run, data, batch_size, on_progress)
            compared = agreement(wanted, found, bundle.model.layout)
        except (BackendError, VerificationError, FeedError) as error:
            not_run.append((run.label, error.message))
            continue
        if data.labels is None or of_reference is None:
            engines.append(EngineAccuracy(run, description, {}, (), compared))
            continue
        measured = text_to_image(found, data.labels)
        differences = metric_differences(of_reference, measured)
        engines.append(EngineAccuracy(run, description, _means(measured), differences, compared))
    not_run += _without_gpu(bundle, runs)
    if len(engines) == 1:
        reasons = " ".join(f"{label}: {reason}" for label, reason in not_run)
        raise BenchmarkError(
            f"No engine of {bundle.path} was compared: {reasons or 'none was asked for but the reference itself.'}",
            "Compare the FP32 graphs with the checkpoint (--reference CHECKPOINT) or the golden vectors (without "
            "--data), add an engine (tbps export with --precision fp16 or int8, tbps build), or choose others with "
            "--backend, --device and --precision.",
        )
    return AccuracyResults(data, reference.description, tuple(engines), tuple(not_run), record_environment(), command)


def _embed(
    bundle: Bundle, run: RunOptions, data: EvaluationSet, batch_size: int, on_progress: OnProgress
) -> tuple[Embedded, str]:
    with Encoder.of_model(bundle, run, batch_size=batch_size) as encoder:
        # Both before the first item: a branch that is not to be had is known at once.
        described = dict.fromkeys(encoder.runner(branch).description for branch in BRANCHES)
        return embed_set(encoder, data, on_progress), "; ".join(described)


def _without_gpu(bundle: Bundle, runs: Sequence[RunOptions]) -> Iterator[tuple[str, str]]:
    """The bundle's built engines, where no GPU is among the devices."""
    from tbps_infer.tensorrt.engine_folder import engines_of

    if all(run.device == "cpu" for run in runs):
        for folder in engines_of(bundle.path):
            label = f"{folder.facts.flavour} {folder.facts.precision}"
            yield (label, f"There is no GPU among the devices for engines/{folder.path.name}.")


def _means(measured: QueryMetrics) -> dict[str, float]:
    means: NDArray[Any] = measured.values.mean(axis=0)
    return {name: float(value) for name, value in zip(measured.names, means, strict=True)}
