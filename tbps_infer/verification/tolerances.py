"""Every tolerance of the package, by purpose and precision, with its reason; and the refusal of what exceeds one.

- parity: a graph or an engine beside its reference on the same inputs (`tbps_infer.verification.parity`);
- golden: stored vectors, replayed on this machine (`tbps_infer.verification.golden`);
- gate: a model's metrics and rankings on whole data beside its reference's (`tbps_infer.verification.gate`).

A limit is asked for as ``not value >= limit``, so that NaN keeps none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tbps_infer.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from tbps_infer.model_facts import Precision

__all__ = [
    "DISTINCT_COSINE",
    "FP16_ROUNDING",
    "GATE",
    "GOLDEN_COSINE",
    "LEAST_DISTINCT",
    "PARITY",
    "RESIZED_COSINE",
    "ParityLimits",
    "Thresholds",
    "refuse_failures",
]


@dataclass(frozen=True)
class ParityLimits:
    """Bounds on a `tbps_infer.verification.parity_report.ParityReport`.

    The defaults are for FP32 graphs on a CPU beside PyTorch, from which they differ by the order in which sums are
    taken and nothing else. On ONNX Runtime's CPU provider that came to 1.5e-12 below a cosine of 1, 3e-7 in any
    number, 2e-7 in a norm and 7e-8 between an item alone and in a batch, for ResNet-50 with BERT-base and for the
    tiny configuration alike. The defaults leave a factor of thirty or more for other processors' orders, and none for
    what is not FP32: with no more than its weights rounded to TF32's 10 bits the tiny configuration differs by 1.5e-4
    (images) and 9e-5 (text).

    Attributes:
        cosine: The least cosine between candidate and reference, of whole embeddings and of each segment.
        difference: The largest difference of any one number of an embedding.
        norm: The largest difference of an embedding's or segment's norm from what the layout declares.
        drift: The largest difference of any number between an item alone and the same item in a batch, and between
            a caption at its own length and the same caption padded.
        top_k: How many pictures of each caption's ranking are compared.
        overlap: The least share of them that candidate and reference have in common, over all captions.
        tie: Pictures whose reference similarities differ by no more than this may take each other's places.
    """

    cosine: float = 0.9999999
    difference: float = 1e-5
    norm: float = 1e-5
    drift: float = 1e-5
    top_k: int = 5
    overlap: float = 1.0
    tie: float = 1e-5


PARITY: Mapping[Precision, ParityLimits] = {
    # A GPU sums in other orders than a CPU; products rounded to TF32 would differ by 1.5e-4.
    "fp32": ParityLimits(cosine=0.999999, difference=1e-4, norm=1e-4, drift=1e-4, tie=1e-4),
    # Emulated on a CPU, the trained tiny model differs by 3.4e-4 in a number and 1.9e-3 in a similarity, at cosines
    # from 0.9999994 on; a GPU may add up in FP16 too. Norms are made in FP32 from whatever comes in.
    "fp16": ParityLimits(cosine=0.9999, difference=1e-2, norm=1e-4, drift=1e-2, tie=1e-2),
    # Beside the bundle's INT8 graphs on a CPU, whose loss the export has judged. A last bit in FP16 moves a number
    # over the edge of a step of INT8: the trained tiny model, with FP16 emulated on a CPU, comes to cosines from
    # 0.9953 on in one part, whose attention is sharp, and 0.9994 in all; 1.2e-2 in a number, 4.7e-2 in a similarity,
    # 1.2e-3 between a caption and the same padded, and 98.4 % of the first five without ties; a GPU sums in yet
    # another order.
    "int8": ParityLimits(cosine=0.99, difference=5e-2, norm=1e-4, drift=1e-2, overlap=0.95, tie=1e-1),
}
"""What engines must keep of the bundle's graphs that they were built from, and FP16 graphs of PyTorch's numbers."""


FP16_ROUNDING = 1e-5
"""What an FP16 engine differs from FP32 by at least, in the number that differs most. Emulated on a CPU the trained
tiny model differs by 3.4e-4 and MiniLM by 2.3e-4; FP32 graphs differ from each other by 3e-7, by the order of sums
alone. An engine below it computes in FP32, whatever was asked for; how far it may be off is for `PARITY` to say."""

GOLDEN_COSINE: Mapping[Precision, float] = {
    # The vectors are PyTorch's in FP32, so what holds between a graph and PyTorch holds here.
    "fp32": PARITY["fp32"].cosine,
    "fp16": PARITY["fp16"].cosine,
    # INT8's own loss is in it, which the export has judged on whole data and four crops and captions cannot judge
    # again. The trained tiny model keeps 0.997 and more; this only tells a loss from another computation.
    "int8": 0.95,
}
"""The least cosine with the PyTorch model's embeddings. Below it a graph, an engine or a benchmark's arm computes
something else, and its numbers and times mean nothing; whether a precision is good enough is for the gate to say."""

RESIZED_COSINE = 0.9999
"""What the FP32 graphs must keep of the golden embeddings when this machine decodes and resizes the crops itself.
Pillow rounds differently before and after 13.0, by up to 4 of 255: of 180 pictures the worst kept 0.99998. With the
shipped model another filter comes to 0.976, and a shift by one pixel to 0.989."""


@dataclass(frozen=True)
class Thresholds:
    """What the gate asks.

    The defaults are for FP32 and FP16, which keep cosines of 0.9999994 and more (`PARITY`): that moves neighbours of
    nearly equal score past each other and nothing else. They leave room for data on which many scores are nearly
    equal; 0.2 points is one caption of 500.

    Attributes:
        max_rank1_drop: How far R@1 may fall below the reference's, in points; with labels.
        max_map_drop: The same for mAP, by the standard formula.
        min_overlap: The least top-10 overlap, 0 to 1; without labels.
        min_cosine: The least cosine of any embedding with the reference's; without labels.

    Raises:
        UsageError: A limit is no finite number: a verdict is recorded as JSON, which has no other.
    """

    max_rank1_drop: float = 0.2
    max_map_drop: float = 0.2
    min_overlap: float = 0.99
    min_cosine: float = 0.999

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if not math.isfinite(limit):
                raise UsageError(f"{name} is {limit}, want a finite number.", "100 points are no limit to a drop.")


GATE: Mapping[Precision, Thresholds] = {
    "fp32": Thresholds(),
    "fp16": Thresholds(),
    # INT8 keeps 7 bits of an activation and FP16 keeps 11: an embedding comes out at a cosine near 0.9997 and, of
    # hundreds, the worst at 0.998, which moves neighbours of nearly equal score past each other (2 % of the first
    # ten) and no metric. So labels decide where there are some, and the limits without them are wider than FP16's.
    "int8": Thresholds(max_rank1_drop=0.5, max_map_drop=0.5, min_overlap=0.9, min_cosine=0.99),
}
"""What the gate asks at export and at build; `tbps verify` asks the defaults of every precision."""

LEAST_DISTINCT = 16
"""The least number of different pictures, and of different captions where they are judged by labels, that INT8 is
calibrated on and that the gate looks at: with fewer, one odd picture decides for all."""

DISTINCT_COSINE = 0.999
"""Two items are different to the reference when the cosine of its embeddings of them is below this. One picture
stored twice comes out at 1 to the last bits; of 200 synthetic people with 400 captions the trained tiny model brings
no two pictures nearer than 0.957 and no two captions nearer than 0.9973."""


def refuse_failures(failures: Sequence[str], hint: str = "", prefix: str = "") -> None:
    """Refuse what is not tolerated.

    Args:
        failures: A sentence each; none when all limits are kept.
        hint: What to do about it.
        prefix: What comes before the sentences.

    Raises:
        VerificationError: There is a failure; all of them are named.
    """
    if failures:
        raise VerificationError(prefix + " ".join(failures), hint)
