"""What a user chooses about an export. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tbps_infer.errors import UsageError
from tbps_infer.export.limits import VerificationLimits
from tbps_infer.export.mixed_precision import MixedPrecisionOptions
from tbps_infer.families.options import LoadOptions
from tbps_infer.runners.protocol import Precision

if TYPE_CHECKING:
    from PIL import Image

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
        overwrite: Replace a bundle that is already there.
        limits: How far the graphs may be from PyTorch.
        precision: ``fp16`` adds FP16 graphs to the FP32 ones, which every other precision derives from.
        mixed: What stays in FP32 in them.
        samples: Crops with captions to verify on; synthetic ones when not given. They are not copied into the
            bundle, whose golden vectors are always of synthetic people.

    Raises:
        UsageError: The opset or precision is not one of these, or samples are given and have no picture or caption.
    """

    family: str | None = None
    load: LoadOptions = field(default_factory=LoadOptions)
    opset: int = DEFAULT_OPSET
    external_data: bool = False
    overwrite: bool = False
    limits: VerificationLimits = field(default_factory=VerificationLimits)
    precision: Precision = "fp32"
    mixed: MixedPrecisionOptions = field(default_factory=MixedPrecisionOptions)
    samples: Sequence[tuple[Image.Image, Sequence[str]]] | None = None

    def __post_init__(self) -> None:
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise UsageError(
                f"The opset is {self.opset}, want {MIN_OPSET} to {MAX_OPSET}.",
                f"Keep {DEFAULT_OPSET}: it is read by every TensorRT from 10.3 on.",
            )
        if self.precision not in ("fp32", "fp16"):
            raise UsageError(f"Graphs are exported in fp32 or fp16, and {self.precision} was asked for.")
        if self.precision == "fp32" and (self.mixed.keep_fp32 or self.mixed.auto_islands):
            raise UsageError("FP32 islands were asked for in FP32 graphs.", "Choose the precision fp16.")
        if self.samples is not None and not any(captions for _, captions in self.samples):
            raise UsageError(
                "The samples to verify on have no caption.",
                "Give at least one crop with one caption, or none at all.",
            )
