"""What a graph asks of its engine: which products are FP16 or INT8, and how many attentions there are to fuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbps_infer.export.fp16.operators import PRODUCTS
from tbps_infer.export.graph_view import element_types
from tbps_infer.model_facts import Precision
from tbps_infer.tensorrt.precision_proof import GraphPrecision

__all__ = ["graph_precision"]

# What hands on its first input's numbers, in another type or order.
_PASSING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def graph_precision(path: Path, precision: Precision) -> GraphPrecision:
    """Read an ONNX file, FP32 or mixed; its weights may lie beside it and are not read."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    types = element_types(model)
    nodes = model.graph.node
    products = [node for node in nodes if node.op_type in PRODUCTS]
    producers = {name: node for node in nodes for name in node.output}
    int8 = frozenset(node.name for node in products if _multiplies_int8(node, producers))
    half = {node.name for node in products if types[node.output[0]] == onnx.TensorProto.FLOAT16}
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
