"""What a graph asks of its engine: which products are FP16, and how many attentions there are to fuse."""

from __future__ import annotations

from pathlib import Path

from tbps_infer.export.fp16_graph import element_types
from tbps_infer.export.fp16_operators import PRODUCTS
from tbps_infer.runners.protocol import Precision
from tbps_infer.tensorrt.precision_proof import GraphPrecision

__all__ = ["graph_precision"]


def graph_precision(path: Path, precision: Precision) -> GraphPrecision:
    """Read an ONNX file, FP32 or mixed; its weights may lie beside it and are not read."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    types = element_types(model)
    half = onnx.TensorProto.FLOAT16
    nodes = model.graph.node
    readers: dict[str, set[str]] = {}
    for node in reversed(nodes):
        # A cast stands for what reads its result.
        kinds = readers.get(node.output[0], set()) if node.op_type == "Cast" else {node.op_type}
        for name in node.input:
            readers.setdefault(name, set()).update(kinds)
    return GraphPrecision(
        precision=precision,
        fp16_products=frozenset(
            node.name for node in nodes if node.op_type in PRODUCTS and types[node.output[0]] == half
        ),
        attentions=sum(node.op_type == "Softmax" and "MatMul" in readers.get(node.output[0], ()) for node in nodes),
    )
