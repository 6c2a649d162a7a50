"""The gate: whether a candidate's embeddings may stand in for a reference's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tbps_infer.layout import VectorLayout
from tbps_infer.verification.agreement import Agreement, Embedded, agreement, merged_items, unusable
from tbps_infer.verification.differences import Labels, MetricDifference, metric_differences, text_to_image

__all__ = ["Labels", "Thresholds", "Verdict", "judge"]

# A drop of exactly the threshold is allowed; this is for the last bits of means of many queries, in points.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Thresholds:
    """What a candidate is held to.

    Attributes:
        max_rank1_drop: How far R@1 may fall below the reference's, in points; with labels.
        max_map_drop: The same for mAP, by the standard formula.
        min_overlap: The least top-10 overlap, 0 to 1; without labels.
        min_cosine: The least cosine of any embedding with the reference's; without labels.
    """

    max_rank1_drop: float = 0.2
    max_map_drop: float = 0.2
    min_overlap: float = 0.99
    min_cosine: float = 0.999


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


_DEFAULT = Thresholds()


def judge(
    reference: Embedded,
    candidate: Embedded,
    layout: VectorLayout,
    labels: Labels | None,
    thresholds: Thresholds = _DEFAULT,
) -> Verdict:
    """Hold a candidate's embeddings to thresholds.

    With labels it fails when R@1 or mAP (captions as queries, ties lost) drops too far; without them when the top-10
    overlap or the least cosine is too low. In both cases embeddings that are missing, NaN, infinite, zero or of
    another shape fail, and so does a branch that gives different items the same embedding.

    Raises:
        UsageError: There is not one label per item.
        VerificationError: No caption has a picture of its person.
    """
    problems = unusable(reference, candidate, layout)
    if problems:
        return Verdict(thresholds, problems, None, ())
    found = agreement(reference, candidate, layout)
    failures = _dead_branches(reference, candidate)
    differences: tuple[MetricDifference, ...] = ()
    if labels is None:
        failures += _disagreements(found, thresholds)
    else:
        differences = metric_differences(text_to_image(reference, labels), text_to_image(candidate, labels))
        failures += _drops(differences, thresholds)
    return Verdict(thresholds, tuple(failures), found, differences)


def _dead_branches(reference: Embedded, candidate: Embedded) -> list[str]:
    said = []
    for (branch, wanted), (_, given) in zip(reference.branches(), candidate.branches(), strict=True):
        merged = merged_items(wanted, given)
        if merged:
            said.append(
                f"The candidate's {branch} branch gives {merged} of {len(given)} items exactly the embedding of a "
                "different item."
            )
    return said


def _disagreements(found: Agreement, thresholds: Thresholds) -> list[str]:
    said = []
    if not found.overlap >= thresholds.min_overlap:
        said.append(
            f"Only {found.overlap:.2%} of the first {found.k} pictures are the reference's, "
            f"and the limit is {thresholds.min_overlap:.2%}."
        )
    for branch in (found.image, found.text):
        if not branch.whole.minimum >= thresholds.min_cosine:
            said.append(
                f"The {branch.branch} embeddings' cosine with the reference falls to {branch.whole.minimum:.6f} "
                f"(item {branch.worst[0].index}), and the limit is {thresholds.min_cosine:g}."
            )
    return said


def _drops(differences: tuple[MetricDifference, ...], thresholds: Thresholds) -> list[str]:
    said = []
    by_name = {each.name: each for each in differences}
    for name, limit in (("R@1", thresholds.max_rank1_drop), ("mAP", thresholds.max_map_drop)):
        each = by_name[name]
        if not -each.difference <= limit + _ROUNDING:
            said.append(
                f"{name} drops by {-each.difference:.2f} points, from {each.reference:.2f} to {each.candidate:.2f} "
                f"(95 % interval of the change {each.low:+.2f} to {each.high:+.2f}), and the limit is {limit:g}."
            )
    return said
