"""What a user chooses about INT8."""

from __future__ import annotations

from dataclasses import dataclass

from tbps_infer.errors import UsageError
from tbps_infer.export.int8.calibration import Calibration
from tbps_infer.verification.tolerances import GATE, Thresholds

__all__ = ["Int8Options"]


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
    thresholds: Thresholds = GATE["int8"]
    most_kept: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.most_kept <= 1:
            raise UsageError(f"The share of layers kept in FP32 is {self.most_kept}, want 0 to 1.")
