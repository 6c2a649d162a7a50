"""What a user chooses about a build of engines, and what each of its steps is given. Nothing here needs TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbps_infer.devices import MemoryKind
from tbps_infer.errors import UsageError
from tbps_infer.export.fp16.convert import MixedPrecisionOptions
from tbps_infer.model_facts import BRANCHES, Branch, ModelFacts, Precision
from tbps_infer.tensorrt.flavours import FlavourName
from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings

if TYPE_CHECKING:
    from tbps_infer.bundle import Bundle
    from tbps_infer.tensorrt.gpus import GpuFacts
    from tbps_infer.tensorrt.library import Library
    from tbps_infer.verification.evaluation_set import EvaluationSet

__all__ = ["DEFAULT_LENGTHS", "BuildContext", "EngineOptions", "OnPlanProgress", "source_precision"]

DEFAULT_LENGTHS = (32, 48, 64)
"""With the model's own greatest: captions have 15 to 40 tokens, and an engine of a fixed length beats a free one."""

OnPlanProgress = Callable[[str, str, int, int], None]
"""A plan's name, a phase of its build, the steps done, the steps in all. It may raise, which cancels."""


def source_precision(precision: Precision) -> Precision:
    """The precision of the bundle's graphs that engines of a precision are made from: FP16 derives from FP32."""
    return "int8" if precision == "int8" else "fp32"


@dataclass(frozen=True)
class EngineOptions:
    """How to build a bundle's engines.

    Attributes:
        backend: Which product builds them.
        precision: ``int8`` wants a bundle with INT8 graphs; what is not INT8 in them becomes FP16.
        image_batch: Crops per run. Pictures are embedded in full batches, so kernels are chosen for the most.
        text_batch: Captions per run. A query is one caption, so kernels are chosen for the least.
        text_lengths: Tokens per caption, each with a profile or engine of its own; `DEFAULT_LENGTHS` and the model's
            greatest when empty.
        settings: The builder's.
        timing_cache: A file with the times of kernels, read and written; TensorRT only, which keeps one beside the
            engines when not given.
        mixed: What stays in FP32 beyond the rules.
        rebuild: Build again what is there and up to date.
        device: Index of the GPU to build and check on.
        memory: The package that calls CUDA there; the first that works when not given.
        gate_on: What to hold the engines to the gate on; they are not when not given.

    Raises:
        UsageError: Something is to stay in FP32 in FP32 engines.
    """

    backend: FlavourName = "tensorrt"
    precision: Precision = "fp16"
    image_batch: BatchRange = field(default_factory=lambda: BatchRange(1, 32, 32))
    text_batch: BatchRange = field(default_factory=lambda: BatchRange(1, 1, 32))
    text_lengths: tuple[int, ...] = ()
    settings: BuildSettings = field(default_factory=BuildSettings)
    timing_cache: Path | None = None
    mixed: MixedPrecisionOptions = field(default_factory=MixedPrecisionOptions)
    rebuild: bool = False
    device: int = 0
    memory: MemoryKind | None = None
    gate_on: EvaluationSet | None = None

    def __post_init__(self) -> None:
        if self.precision == "fp32" and self.mixed.asks_for_fp32:
            raise UsageError("FP32 islands were asked for in an FP32 engine.", "Choose the precision fp16.")

    def batch(self, branch: Branch) -> BatchRange:
        """Items per run of a branch."""
        return self.image_batch if branch == "image" else self.text_batch

    def lengths_for(self, model: ModelFacts) -> tuple[int, ...]:
        """The lengths to build, in order.

        Raises:
            UsageError: None holds the model's longest caption, so some could not be encoded; or one is longer.
        """
        longest = model.max_length
        if not self.text_lengths:
            return (*(length for length in DEFAULT_LENGTHS if length < longest), longest)
        lengths = tuple(sorted(set(self.text_lengths)))
        if lengths[-1] != longest or lengths[0] < 3:
            raise UsageError(
                f"The text lengths are {', '.join(map(str, lengths))}, and this model takes 3 to {longest} tokens.",
                f"Let the greatest be {longest}, so that every caption has an engine.",
            )
        return lengths

    def to_json(self, model: ModelFacts) -> dict[str, Any]:
        """What an engine's bytes follow from, as plain JSON values."""
        return {
            "precision": self.precision,
            "batch": {branch: asdict(self.batch(branch)) for branch in BRANCHES},
            "text_lengths": list(self.lengths_for(model)),
            "settings": asdict(self.settings),
            "keep_fp32": list(self.mixed.keep_fp32),
            "auto_islands": self.mixed.auto_islands,
            "fp32_accumulation": list(self.mixed.fp32_accumulation),
        }


@dataclass(frozen=True)
class BuildContext:
    """What every step of one build is given.

    Attributes:
        bundle: Whose engines they are.
        options: How to build them.
        library: Builds and loads them.
        gpu: This machine's; None where there is none.
        on_step: Called with a sentence when something begins.
        on_progress: Called by the builder as it goes.
    """

    bundle: Bundle
    options: EngineOptions
    library: Library
    gpu: GpuFacts | None
    on_step: Callable[[str], None] = lambda _step: None
    on_progress: OnPlanProgress = lambda _plan, _phase, _done, _steps: None
