"""What a user chooses about an export. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tbps_infer.errors import UsageError
from tbps_infer.export.fp16.convert import MixedPrecisionOptions
from tbps_infer.export.int8.options import Int8Options
from tbps_infer.families.options import LoadOptions
from tbps_infer.model_facts import Precision
from tbps_infer.verification.tolerances import GATE, ParityLimits, Thresholds

if TYPE_CHECKING:
    from PIL import Image

    from tbps_infer.verification.evaluation_set import EvaluationSet

__all__ = ["DEFAULT_OPSET", "MAX_OPSET", "MIN_OPSET", "ExportOptions"]

DEFAULT_OPSET = 18
"""What every TensorRT from 10.3 on reads; the exporter writes no older one."""

MIN_OPSET = DEFAULT_OPSET
MAX_OPSET = 22
"""The last one without an Attention operator, which TensorRT does not build in FP32."""


@dataclass(frozen=True)
class ExportOptions:
    """How to make a bundle.

    Attributes:
        family: The kind of checkpoint, one of `tbps_infer.families.table.FAMILIES`; recognised when None.
        load: What else there is to say about the checkpoint.
        opset: The ONNX opset of both graphs, 18 to 22.
        external_data: Keep the weights in files beside the graphs; graphs too large for one file do so anyway.
        overwrite: Replace the files of a bundle that is already there; what others put into its folder stays.
        add: Add the graphs of `precisions` that a bundle of the same checkpoint does not have yet, made from its FP32
            graphs; `opset`, `external_data` and `limits` are those that it was exported with.
        limits: How far the graphs may be from PyTorch.
        precisions: ``fp16`` and ``int8`` put graphs of theirs beside the FP32 ones, which are always there and which
            every other precision derives from.
        mixed: What stays in FP32 in FP16 graphs.
        int8: What INT8 graphs are calibrated and judged on; wanted where they are made.
        samples: Crops with captions to verify on; synthetic ones when not given. They are not copied into the
            bundle, whose golden vectors are always of synthetic people.
        with_attention: Add graphs that give the decoder's attention; the others stay as they are.
        gate_on: What to hold the graphs that a CPU runs to the gate on; they are not when not given.

    Raises:
        UsageError: The opset is not one of these, INT8 has nothing to be calibrated on, an option belongs to another
            precision or excludes another one, or samples are given and have no picture or caption.
    """

    family: str | None = None
    load: LoadOptions = field(default_factory=LoadOptions)
    opset: int = DEFAULT_OPSET
    external_data: bool = False
    overwrite: bool = False
    add: bool = False
    limits: ParityLimits = field(default_factory=ParityLimits)
    precisions: tuple[Precision, ...] = ("fp32",)
    mixed: MixedPrecisionOptions = field(default_factory=MixedPrecisionOptions)
    int8: Int8Options | None = None
    samples: Sequence[tuple[Image.Image, Sequence[str]]] | None = None
    gate_on: EvaluationSet | None = None
    with_attention: bool = False

    def __post_init__(self) -> None:
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise UsageError(
                f"The opset is {self.opset}, want {MIN_OPSET} to {MAX_OPSET}.",
                f"Keep {DEFAULT_OPSET}: it is read by every TensorRT from 10.3 on.",
            )
        asked = " and ".join(self.precisions)
        if "int8" in self.precisions and not self.add:
            self.refuse_uncalibrated()
        if "int8" not in self.precisions and self.int8 is not None:
            raise UsageError(f"Calibration data was given for {asked} graphs.", "Choose the precision int8.")
        if "fp16" not in self.precisions and self.mixed.asks_for_fp32:
            raise UsageError(
                f"FP32 islands in FP16 graphs were asked for, and the precision {asked}.",
                "Choose the precision fp16.",
            )
        if self.add and (self.overwrite or self.with_attention):
            raise UsageError(
                "Graphs cannot be added to a bundle that is replaced, and attention graphs not at all.",
                "Leave --add out: --overwrite exports everything again.",
            )
        if self.samples is not None and not any(captions for _, captions in self.samples):
            raise UsageError(
                "The samples to verify on have no caption.",
                "Give at least one crop with one caption, or none at all.",
            )

    def refuse_uncalibrated(self) -> None:
        """Raise UsageError where INT8 graphs are to be made and there is nothing to calibrate them on."""
        if self.int8 is None:
            raise UsageError(
                "The precision int8 was asked for, and there is nothing to calibrate it on.",
                "Give pictures with captions like those to be searched (--calibration DATA): a data set's folder, or "
                "a .csv or .jsonl list with the columns path and caption.",
            )

    def gate_limits(self, precision: Precision) -> Thresholds:
        """What the gate asks of the graphs of a precision."""
        return self.int8.thresholds if precision == "int8" and self.int8 is not None else GATE[precision]
