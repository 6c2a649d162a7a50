"""What a user chooses about INT8."""

from __future__ import annotations

from dataclasses import dataclass, field

from tbps_infer.errors import UsageError
from tbps_infer.export.int8.calibration import Calibration
from tbps_infer.verification.gate import Thresholds

__all__ = ["INT8_THRESHOLDS", "Int8Options"]

INT8_THRESHOLDS = Thresholds(max_rank1_drop=0.5, max_map_drop=0.5, min_overlap=0.9, min_cosine=0.99)
"""INT8 keeps 7 bits of an activation and FP16 keeps 11: an embedding comes out at a cosine near 0.9997 and, of
hundreds, the worst at 0.998, which moves neighbours of nearly equal score past each other (2 % of the first ten) and
no metric. So labels decide where there are some, and the limits without them are wider than FP16's."""


@dataclass(frozen=True)
class Int8Options:
    """How to make INT8 graphs.

    Attributes:
        calibration: What to measure activations on, and what to judge the graphs on.
        thresholds: The gate's.
        most_kept: The greatest share of the layers that may stay in FP32; with more, the graph would be no INT8.

    Raises:
        UsageError: The share is not between 0 and 1.
    """

    calibration: Calibration
    thresholds: Thresholds = field(default=INT8_THRESHOLDS)
    most_kept: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.most_kept <= 1:
            raise UsageError(f"The share of layers kept in FP32 is {self.most_kept}, want 0 to 1.")
