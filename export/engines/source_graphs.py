"""The graphs that engines are built from: a bundle's own, with the precision of every number written into them."""

from __future__ import annotations

from pathlib import Path

from tbps_infer.bundle import Bundle
from tbps_infer.export.fp16.convert import MixedPrecisionOptions, MixedPrecisionReport, convert_file
from tbps_infer.export.int8.signed import signed_graph
from tbps_infer.model_facts import Branch, Precision
from tbps_infer.verification.samples import real_batches

__all__ = ["engine_graph", "source_precision"]


def source_precision(precision: Precision) -> Precision:
    """The precision of the bundle's graphs that engines of a precision are made from: FP16 derives from FP32."""
    return "int8" if precision == "int8" else "fp32"


def engine_graph(
    bundle: Bundle, branch: Branch, precision: Precision, options: MixedPrecisionOptions, scratch: Path
) -> tuple[Path, MixedPrecisionReport | None]:
    """Write one branch's graph as engines of a precision want it.

    FP32 is the bundle's own graph. What is not INT8 in an INT8 graph becomes FP16 by the rules for FP32 graphs:
    attention's products are then fused into one kernel, which takes and gives INT8 (seen in plans of TensorRT for
    RTX 1.7).

    Args:
        bundle: Whose graphs, checked by the caller.
        branch: Which.
        precision: Of the engines.
        options: What stays in FP32.
        scratch: A folder for new files.

    Returns:
        The graph's path, and what became of its nodes; None for FP32.

    Raises:
        BackendError: The bundle has no graph to make it from, or the package onnx is not installed.
        UsageError: A pattern matches nothing.
        VerificationError: A stored tensor does not fit FP16, or the result is not valid.
    """
    source = bundle.graph_path(branch, source_precision(precision))
    if precision == "fp32":
        return source, None
    if precision == "int8":
        source = _signed(source, scratch)
    target = scratch / f"{branch}.onnx"
    batches = real_batches(bundle, branch) if options.auto_islands else ()
    return target, convert_file(source, target, options, batches)


def _signed(source: Path, scratch: Path) -> Path:
    import onnx

    target = scratch / f"signed-{source.name}"
    onnx.save(signed_graph(onnx.load(source)), target)
    return target
