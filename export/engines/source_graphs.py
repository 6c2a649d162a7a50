"""The graphs that engines are built from: a bundle's own, with the precision of every number written into them.

And what such a graph asks of its engine: which products are FP16 or INT8, and how many attentions there are to fuse.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbps_infer.bundle import Bundle
from tbps_infer.export.engines.options import source_precision
from tbps_infer.export.fp16.convert import MixedPrecisionOptions, MixedPrecisionReport, convert_file
from tbps_infer.export.fp16.operators import PRODUCTS
from tbps_infer.export.graph_view import element_types
from tbps_infer.export.int8.signed import signed_graph
from tbps_infer.formats.onnx_files import read_onnx
from tbps_infer.model_facts import Branch, Precision
from tbps_infer.tensorrt.precision_proof import GraphPrecision
from tbps_infer.verification.samples import real_batches

__all__ = ["engine_graph", "graph_precision"]

# What hands on its first input's numbers, in another type or order.
_PASSING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


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
        import onnx

        signed = scratch / f"signed-{source.name}"
        onnx.save(signed_graph(read_onnx(source)), signed)
        source = signed
    target = scratch / f"{branch}.onnx"
    batches = real_batches(bundle, branch) if options.auto_islands else ()
    return target, convert_file(source, target, options, batches)


def graph_precision(path: Path, precision: Precision) -> GraphPrecision:
    """Read an ONNX file, FP32 or mixed; its weights may lie beside it and are not read."""
    import onnx

    model = read_onnx(path, external_data=False)
    # An FP32 graph asks for no FP16, so it is not refused because its types cannot be inferred.
    types = {} if precision == "fp32" else element_types(model)
    nodes = model.graph.node
    products = [node for node in nodes if node.op_type in PRODUCTS]
    producers = {name: node for node in nodes for name in node.output}
    int8 = frozenset(node.name for node in products if _multiplies_int8(node, producers))
    half = {node.name for node in products if types.get(node.output[0]) == onnx.TensorProto.FLOAT16}
    widened = {node.name for node in products if _adds_up_in_fp32(node, producers, types)}
    readers: dict[str, set[str]] = {}
    for node in reversed(nodes):
        # A cast stands for what reads its result.
        kinds = readers.get(node.output[0], set()) if node.op_type == "Cast" else {node.op_type}
        for name in node.input:
            readers.setdefault(name, set()).update(kinds)
    return GraphPrecision(
        precision=precision,
        fp16_products=frozenset(half - int8),
        attentions=sum(node.op_type == "Softmax" and "MatMul" in readers.get(node.output[0], ()) for node in nodes),
        int8_products=int8,
        fp32_sums=frozenset(widened - int8),
    )


def _adds_up_in_fp32(product: Any, producers: dict[str, Any], types: dict[str, int]) -> bool:
    """Whether both factors are casts from FP16, which an FP32 product alone would not be given."""
    import onnx

    casts = [producers.get(name) for name in product.input[:2]]
    return all(
        cast is not None and cast.op_type == "Cast" and types.get(cast.input[0]) == onnx.TensorProto.FLOAT16
        for cast in casts
    )


def _multiplies_int8(product: Any, producers: dict[str, Any]) -> bool:
    """Whether both factors come from a DequantizeLinear."""
    for name in product.input[:2]:
        node = producers.get(name)
        while node is not None and node.op_type in _PASSING:
            node = producers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return False
    return True
