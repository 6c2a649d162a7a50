"""What `tbps_infer.verification.parity` found, and what of it is over the limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tbps_infer.model_facts import Branch
from tbps_infer.verification.tolerances import ParityLimits

__all__ = ["BranchReport", "ParityReport", "RankingReport"]


@dataclass(frozen=True)
class BranchReport:
    """One branch against its reference, over all batches tried.

    Attributes:
        branch: ``image`` or ``text``.
        candidate: What was compared, as its runner describes itself.
        compared: How many embeddings.
        cosine_min: Of candidate and reference, whole embeddings; the worst of them.
        cosine_p1: The first percentile.
        cosine_mean: The mean.
        segment_cosine_min: The worst cosine of each segment of the layout.
        largest_difference: Of any one number.
        norm_error: The largest difference of a norm, of the whole or of a segment, from what the layout declares.
        batch_drift: The largest difference of any number of an embedding between an item alone and in a batch.
        padding_drift: The same between a caption at its own length and beside longer ones; None for pictures.
        worst: The shape at which cosine_min was found.
    """

    branch: Branch
    candidate: str
    compared: int
    cosine_min: float
    cosine_p1: float
    cosine_mean: float
    segment_cosine_min: Mapping[str, float]
    largest_difference: float
    norm_error: float
    batch_drift: float
    padding_drift: float | None
    worst: str

    def failures(self, limits: ParityLimits) -> Iterator[str]:
        """One sentence per limit that is not kept; a NaN keeps none."""
        if not self.cosine_min >= limits.cosine:
            yield (
                f"The {self.branch} embeddings' cosine with the reference falls to {self.cosine_min:.9f} at "
                f"{self.worst}, and the limit is {limits.cosine}."
            )
        low = {name: cosine for name, cosine in self.segment_cosine_min.items() if not cosine >= limits.cosine}
        if low and self.cosine_min >= limits.cosine:
            name = min(low, key=low.__getitem__)
            yield (
                f"The {self.branch} embeddings' segment {name} has a cosine of only {low[name]:.9f} with the "
                f"reference, and the limit is {limits.cosine}."
            )
        drifts: list[tuple[str, float | None, float]] = [
            ("differ from the reference by up to", self.largest_difference, limits.difference),
            ("have norms off by up to", self.norm_error, limits.norm),
            ("change with the batch they are in by up to", self.batch_drift, limits.drift),
            ("change with their padding by up to", self.padding_drift, limits.drift),
        ]
        for verb, value, limit in drifts:
            if value is not None and not value <= limit:
                yield f"The {self.branch} embeddings {verb} {value:.3g}, and the limit is {limit:.3g}."


@dataclass(frozen=True)
class RankingReport:
    """Each caption's ranking of the pictures, by candidate embeddings and by reference embeddings.

    Attributes:
        captions: How many.
        pictures: How many.
        top_k: How many of each ranking were compared.
        overlap: The mean share of them in common, ties (`ParityLimits.tie`) counted as equal.
        largest_difference: Of any similarity.
    """

    captions: int
    pictures: int
    top_k: int
    overlap: float
    largest_difference: float

    def failures(self, limits: ParityLimits) -> Iterator[str]:
        """A sentence when too few pictures are in common."""
        if not self.overlap >= limits.overlap:
            yield (
                f"Candidate and reference have {self.overlap:.1%} of the first {self.top_k} pictures of "
                f"{self.captions} captions in common, and the limit is {limits.overlap:.1%}."
            )


@dataclass(frozen=True)
class ParityReport:
    """A candidate's two branches against their reference.

    Attributes:
        limits: What it was held to.
        image: The image branch.
        text: The text branch.
        ranking: Both together.
        batch_sizes: The batches tried.
        lengths: The lengths tried, in tokens.
    """

    limits: ParityLimits
    image: BranchReport
    text: BranchReport
    ranking: RankingReport
    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per limit that is not kept."""
        parts = (self.image, self.text, self.ranking)
        return tuple(sentence for part in parts for sentence in part.failures(self.limits))

    @property
    def passed(self) -> bool:
        """Whether all limits are kept."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; what is not a finite number is null."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        return {"passed": self.passed, "failures": list(self.failures), **values}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
