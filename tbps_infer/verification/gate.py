"""The gate: whether a candidate's embeddings may stand in for a reference's, and where the verdict is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tbps_infer import __version__
from tbps_infer.bundle import BUNDLE_JSON, Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BundleError, FeedError, VerificationError
from tbps_infer.layout import VectorLayout
from tbps_infer.model_facts import BRANCHES
from tbps_infer.runners import RunOptions
from tbps_infer.verification.agreement import Agreement, Embedded, agreement, merged_items, unusable
from tbps_infer.verification.differences import Labels, MetricDifference, metric_differences, text_to_image
from tbps_infer.verification.evaluation_set import EvaluationSet, OnProgress, embed_set, refuse_few
from tbps_infer.verification.references import Reference
from tbps_infer.verification.tolerances import GATE, Thresholds

__all__ = ["GateResult", "Verdict", "hold_to_gate", "judge", "record_verdict"]

# A drop of exactly the threshold is allowed; this is for the last bits of means of many queries, in points.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        thresholds: What the candidate was held to.
        failures: A sentence with the numbers per reason to fail; empty when it passed.
        agreement: How far the embeddings agree; None when they could not be compared.
        differences: The metrics of both, with labels; empty without, or when they could not be compared.
    """

    thresholds: Thresholds
    failures: tuple[str, ...]
    agreement: Agreement | None
    differences: tuple[MetricDifference, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "passed": self.passed,
            "failures": list(self.failures),
            "thresholds": asdict(self.thresholds),
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "metrics": {each.name: each.to_json() for each in self.differences},
        }


@dataclass(frozen=True)
class GateResult:
    """One verdict with all that it is about.

    Attributes:
        run: Backend, device and precision of the candidate.
        branches: How each of its branches describes itself.
        reference: What it was compared with.
        data: On what.
        verdict: What came of it.
        when: ISO 8601 UTC.
    """

    run: RunOptions
    branches: Mapping[str, str]
    reference: Reference
    data: EvaluationSet
    verdict: Verdict
    when: str

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "when": self.when,
            "tbps_infer": __version__,
            "backend": self.run.backend,
            "device": self.run.device,
            "precision": self.run.precision,
            "branches": dict(self.branches),
            "reference": {"kind": self.reference.kind, "description": self.reference.description},
            "data": self.data.to_json(),
            **self.verdict.to_json(),
        }


def judge(
    reference: Embedded,
    candidate: Embedded,
    layout: VectorLayout,
    labels: Labels | None,
    thresholds: Thresholds = GATE["fp32"],
) -> Verdict:
    """Hold a candidate's embeddings to thresholds.

    With labels it fails when R@1 or mAP (captions as queries, ties lost) drops too far; without them when the top-10
    overlap or the least cosine is too low. In both cases embeddings that are missing, NaN, infinite, zero or of
    another shape fail, and so does a branch that gives different items the same embedding.

    Raises:
        UsageError: There is not one label per item.
        VerificationError: No caption has a picture of its person.
    """
    problems = tuple(unusable(reference, candidate, layout))
    if problems:
        return Verdict(thresholds, problems, None, ())
    found = agreement(reference, candidate, layout)
    failures = [*_merged(reference, candidate)]
    differences: tuple[MetricDifference, ...] = ()
    if labels is None:
        failures += _disagreements(found, thresholds)
    else:
        differences = metric_differences(text_to_image(reference, labels), text_to_image(candidate, labels))
        failures += _drops(differences, thresholds)
    return Verdict(thresholds, tuple(failures), found, differences)


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
        ImageError, UsageError: A picture or a caption cannot be embedded, or too few of them differ.
    """
    if not data.golden:
        refuse_few(data)
    count = len(data)
    wanted = reference.embed(data, lambda done, _: on_progress(done, 2 * count))
    descriptions: dict[str, str] = {}
    try:
        descriptions = {branch: candidate.runner(branch).description for branch in BRANCHES}
        found = embed_set(candidate, data, lambda done, _: on_progress(count + done, 2 * count))
    except (FeedError, VerificationError) as error:
        verdict = Verdict(thresholds, (error.message,), None, ())
    else:
        verdict = judge(wanted, found, candidate.facts.layout, data.labels, thresholds)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return GateResult(run, descriptions, reference, data, verdict, when)


def record_verdict(bundle: Path, result: GateResult) -> None:
    """Write a verdict into a bundle's facts; it replaces an earlier one of the same engine, reference and data.

    Raises:
        BundleError: The bundle is damaged, or cannot be written to.
    """
    opened = Bundle.open(bundle)
    entry = result.to_json()
    if entry["agreement"] is not None:
        for branch in BRANCHES:  # single items are of use beside the pictures, which the bundle does not have
            del entry["agreement"][branch]["worst"], entry["agreement"][branch]["parts"]
    kept = [verdict for verdict in opened.gate if _subject(verdict) != _subject(entry)]
    try:
        dataclasses.replace(opened, gate=(*kept, entry)).write_facts()
    except OSError as error:
        raise BundleError(
            f"The verdict cannot be written into {bundle / BUNDLE_JSON}: {error.strerror}.",
            "Make the bundle's folder writable, or ask for no record.",
        ) from error


def _merged(reference: Embedded, candidate: Embedded) -> Iterator[str]:
    for (branch, wanted), (_, given) in zip(reference.branches(), candidate.branches(), strict=True):
        merged = merged_items(wanted, given)
        if merged:
            yield (
                f"The candidate's {branch} branch gives {merged} of {len(given)} items exactly the embedding of a "
                "different item."
            )


def _disagreements(found: Agreement, thresholds: Thresholds) -> Iterator[str]:
    if not found.overlap >= thresholds.min_overlap:
        yield (
            f"Only {found.overlap:.2%} of the first {found.k} pictures are the reference's, "
            f"and the limit is {thresholds.min_overlap:.2%}."
        )
    for branch in (found.image, found.text):
        if not branch.whole.minimum >= thresholds.min_cosine:
            yield (
                f"The {branch.branch} embeddings' cosine with the reference falls to {branch.whole.minimum:.6f} "
                f"(item {branch.worst[0].index}), and the limit is {thresholds.min_cosine:g}."
            )


def _drops(differences: tuple[MetricDifference, ...], thresholds: Thresholds) -> Iterator[str]:
    by_name = {each.name: each for each in differences}
    for name, limit in (("R@1", thresholds.max_rank1_drop), ("mAP", thresholds.max_map_drop)):
        each = by_name[name]
        if not -each.difference <= limit + _ROUNDING:
            yield (
                f"{name} drops by {-each.difference:.2f} points, from {each.reference:.2f} to {each.candidate:.2f} "
                f"(95 % interval of the change {each.low:+.2f} to {each.high:+.2f}), and the limit is {limit:g}."
            )


def _subject(verdict: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a recorded verdict is about: the engine, the reference and the data."""
    reference, data = verdict.get("reference", {}), verdict.get("data", {})
    engine = (verdict.get(name) for name in ("backend", "device", "precision"))
    return (*engine, reference.get("kind"), data.get("fingerprint"))
