"""Holding a bundle to the gate: which reference it is compared with, and what is written into it afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tbps_infer import __version__
from tbps_infer.bundle import BUNDLE_JSON, Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BundleError, FeedError, UsageError, VerificationError
from tbps_infer.model_facts import Branch
from tbps_infer.runners import RunOptions
from tbps_infer.verification.agreement import Embedded
from tbps_infer.verification.evaluation_set import EvaluationSet, OnProgress, embed_set, golden_set
from tbps_infer.verification.gate import Thresholds, Verdict, judge
from tbps_infer.verification.golden import golden_cosine

if TYPE_CHECKING:
    from tbps_infer.families.table import SourceModel

__all__ = [
    "GateResult",
    "Reference",
    "checkpoint_reference",
    "choose_reference",
    "golden_reference",
    "graphs_reference",
    "hold_to_gate",
    "record_verdict",
]

_BRANCHES: tuple[Branch, ...] = ("image", "text")
# An FP32 graph on any CPU keeps within 1e-6 of PyTorch's; below this it is not the graph that was exported.
_SOUND_COSINE = 0.9999


@dataclass(frozen=True)
class Reference:
    """What a candidate is compared with.

    Attributes:
        kind: ``checkpoint`` in PyTorch, the bundle's own ``fp32 graphs``, or its ``golden vectors``.
        description: For people.
        embed: Embeds a set.
    """

    kind: Literal["checkpoint", "fp32 graphs", "golden vectors"]
    description: str
    embed: Callable[[EvaluationSet, OnProgress], Embedded]


@dataclass(frozen=True)
class GateResult:
    """One verdict with all that it is about.

    Attributes:
        engine: Backend, device and precision of the candidate, and how its branches describe themselves.
        reference: What it was compared with.
        data: On what.
        verdict: What came of it.
        when: ISO 8601 UTC.
    """

    engine: dict[str, Any]
    reference: Reference
    data: EvaluationSet
    verdict: Verdict
    when: str

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "when": self.when,
            "tbps_infer": __version__,
            **self.engine,
            "reference": {"kind": self.reference.kind, "description": self.reference.description},
            "data": self.data.to_json(),
            **self.verdict.to_json(),
        }


def choose_reference(
    bundle: Bundle, run: RunOptions, source: SourceModel | None, data: EvaluationSet | None
) -> tuple[Reference, EvaluationSet]:
    """What to compare an engine with, and on what.

    A checkpoint, where one is given. Otherwise the bundle's FP32 graphs on the CPU; where there are no data, the
    bundle's golden vectors.

    Args:
        bundle: The candidate's.
        run: How the candidate runs.
        source: The checkpoint that the bundle was exported from.
        data: What to compare on; the golden crops and captions when not given.

    Raises:
        UsageError: The candidate would be compared with itself, or the checkpoint is another model's.
        BundleError: The golden vectors are missing or were altered.
    """
    if source is not None:
        return checkpoint_reference(bundle, source, run.threads), data or golden_set(bundle)
    if data is None:
        return golden_reference(bundle), golden_set(bundle)
    if (run.backend, run.device, run.precision) == ("onnxruntime", "cpu", "fp32"):
        raise UsageError(
            "The FP32 graphs on the CPU would be compared with themselves.",
            "Give the checkpoint (--reference CHECKPOINT), or no data, to compare with the golden vectors.",
        )
    return graphs_reference(bundle, run.threads), data


def checkpoint_reference(bundle: Bundle, source: SourceModel, threads: int | None = None) -> Reference:
    """A bundle's checkpoint in PyTorch FP32 on the CPU; raises UsageError when it is another model's."""
    if source.facts.fingerprint != bundle.model.fingerprint:
        raise UsageError(
            f"{bundle.path} was not exported from {source.path}: their fingerprints are "
            f"{bundle.model.fingerprint[:12]} and {source.facts.fingerprint[:12]}.",
            "Give the checkpoint that tbps export was given.",
        )

    def embed(data: EvaluationSet, on_progress: OnProgress) -> Embedded:
        with Encoder.of_model(source, RunOptions("torch", threads=threads)) as encoder:
            return embed_set(encoder, data, on_progress)

    return Reference("checkpoint", f"checkpoint {source.name} in PyTorch fp32 on the CPU", embed)


def graphs_reference(bundle: Bundle, threads: int | None = None) -> Reference:
    """A bundle's FP32 graphs in ONNX Runtime on the CPU, once they have reproduced its golden vectors."""

    def embed(data: EvaluationSet, on_progress: OnProgress) -> Embedded:
        with Encoder.of_model(bundle, RunOptions(threads=threads)) as encoder:
            for branch in _BRANCHES:
                cosine = golden_cosine(bundle.golden(), branch, encoder.runner(branch))
                if not cosine >= _SOUND_COSINE:
                    raise VerificationError(
                        f"The FP32 graph of the {branch} branch is no reference: it gives the golden vectors with a "
                        f"cosine of {cosine:.6f}.",
                        "Export the bundle again, or give the checkpoint: --reference CHECKPOINT.",
                    )
            return embed_set(encoder, data, on_progress)

    return Reference("fp32 graphs", "the bundle's own FP32 graphs in ONNX Runtime on the CPU", embed)


def golden_reference(bundle: Bundle) -> Reference:
    """A bundle's golden vectors, which PyTorch wrote when it was exported."""

    def embed(_data: EvaluationSet, _on_progress: OnProgress) -> Embedded:
        golden = bundle.golden()
        return Embedded(golden.image_embeddings, golden.text_embeddings)

    return Reference("golden vectors", "the golden vectors that PyTorch wrote at export", embed)


def hold_to_gate(
    candidate: Encoder,
    run: RunOptions,
    reference: Reference,
    data: EvaluationSet,
    thresholds: Thresholds,
    on_progress: OnProgress = lambda _done, _total: None,
) -> GateResult:
    """Embed a set with a candidate and its reference, and judge.

    A candidate that cannot embed it, or whose embeddings are none of its model, fails with that sentence.

    Args:
        candidate: Opened.
        run: How it was opened.
        reference: What is taken as right.
        data: What to embed.
        thresholds: What the candidate is held to.
        on_progress: Called with how many of both's items are embedded.

    Raises:
        BackendError: The candidate or the reference is not to be had on this machine.
        VerificationError: The reference is broken, or the labels match nothing.
        ImageError, UsageError: A picture or a caption cannot be embedded.
    """
    count = len(data)
    wanted = reference.embed(data, lambda done, _: on_progress(done, 2 * count))
    descriptions: dict[str, str] = {}
    try:
        descriptions = {branch: candidate.runner(branch).description for branch in _BRANCHES}
        found = embed_set(candidate, data, lambda done, _: on_progress(count + done, 2 * count))
    except (FeedError, VerificationError) as error:
        verdict = Verdict(thresholds, (error.message,), None, ())
    else:
        verdict = judge(wanted, found, candidate.facts.layout, data.labels, thresholds)
    engine = {"backend": run.backend, "device": run.device, "precision": run.precision, "branches": descriptions}
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return GateResult(engine, reference, data, verdict, when)


def record_verdict(bundle: Path, result: GateResult) -> None:
    """Write a verdict into a bundle's facts; it replaces an earlier one of the same engine, reference and data.

    Raises:
        BundleError: The bundle is damaged, or cannot be written to.
    """
    opened = Bundle.open(bundle)
    entry = result.to_json()
    if entry["agreement"] is not None:
        for branch in _BRANCHES:  # single items are of use beside the pictures, which the bundle does not have
            del entry["agreement"][branch]["worst"], entry["agreement"][branch]["parts"]
    kept = [verdict for verdict in opened.gate if _about(verdict) != _about(entry)]
    try:
        dataclasses.replace(opened, gate=(*kept, entry)).write_facts()
    except OSError as error:
        raise BundleError(
            f"The verdict cannot be written into {bundle / BUNDLE_JSON}: {error.strerror}.",
            "Make the bundle's folder writable, or ask for no record.",
        ) from error


def _about(verdict: Any) -> tuple[Any, ...]:
    names = ("backend", "device", "precision")
    reference, data = verdict.get("reference", {}), verdict.get("data", {})
    return (*(verdict.get(name) for name in names), reference.get("kind"), data.get("fingerprint"))
