"""What an engine is built for: the shapes of its inputs, and the builder's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tbps_infer.errors import UsageError
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.runners.protocol import TensorSpec, branch_specs

__all__ = ["BatchRange", "BuildSettings", "PlanSpec", "ShapeRange", "plan_spec"]


@dataclass(frozen=True)
class BatchRange:
    """Items per run: the least, what kernels are chosen for, and the most.

    Activation memory follows the most (tried on ResNet-50 in FP16: 12, 134 and 1057 MB for 1, 32 and 256).

    Raises:
        UsageError: They are not in order, or below 1.
    """

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                f"The batch sizes are {self.minimum}, {self.optimum} and {self.maximum}; "
                "want minimum ≤ optimum ≤ maximum, all at least 1."
            )


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input: least, usual and greatest."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


@dataclass(frozen=True)
class BuildSettings:
    """How to build.

    Attributes:
        workspace_bytes: Scratch memory that kernels may take; the builder's own limit when not given.
        optimization_level: 0 to 5, TensorRT only; 3 when not given.
        target: ``sm86`` and the like, TensorRT for RTX only; when not given the engine runs on Ampere and later.

    Raises:
        UsageError: A number is out of range.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1 << 20:
            raise UsageError(f"The workspace is {self.workspace_bytes} bytes, want 1 MiB at least.")
        if self.target is not None:
            object.__setattr__(self, "target", self.target.lower())  # as GPUs and plans call themselves
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"The optimization level is {self.optimization_level}, want 0 to 5.")


@dataclass(frozen=True)
class PlanSpec:
    """One engine of one branch.

    Attributes:
        inputs: What the graph takes.
        outputs: What it gives.
        profiles: The shapes of each optimization profile, by input.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, ShapeRange], ...]


def plan_spec(model: ModelFacts, branch: Branch, batch: BatchRange, lengths: tuple[int, ...]) -> PlanSpec:
    """The engine of a branch, for a range of batches and, for text, one profile for each fixed length.

    Args:
        model: Whose branch.
        branch: Which.
        batch: Items per run.
        lengths: Tokens per caption; empty for images.

    Raises:
        UsageError: A length is missing for text, given for images, or below 3.
    """
    if (branch == "text") != bool(lengths) or min(lengths, default=3) < 3:
        raise UsageError(
            f"Lengths of {list(lengths)} do not fit the {branch} branch.", "Give text lengths of 3 or more."
        )
    inputs, outputs = branch_specs(model, branch)

    def shape(spec: TensorSpec, size: int, length: int) -> tuple[int, ...]:
        return tuple(
            {"batch": size, "length": length}[axis] if isinstance(axis, str) else axis for axis in spec.shape
        )

    sizes = (batch.minimum, batch.optimum, batch.maximum)
    profiles = tuple(
        {spec.name: ShapeRange(*(shape(spec, size, length) for size in sizes)) for spec in inputs}
        for length in lengths or (0,)
    )
    return PlanSpec(inputs, outputs, profiles)
