"""An INT8 graph as TensorRT takes it: the same numbers, with int8 activations and no zero point but 0.

TensorRT refuses uint8 activations, int32 biases and zero points, and an int8 tensor that something else than a
DequantizeLinear reads, so a table is dequantised before its rows are looked up, which is folded in a build. It takes
a layer, its ReLU and the rounding after it for one kernel, so the rounding between layer and ReLU goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from tbps_infer.errors import VerificationError
from tbps_infer.export.int8.quantise import ZERO

__all__ = ["signed_graph"]


def signed_graph(model: Any) -> Any:
    """Rewrite a graph of `tbps_infer.export.int8.quantise.quantise_graph`; its embeddings stay what they were.

    Args:
        model: An ``onnx.ModelProto``; it is not changed.

    Raises:
        VerificationError: It holds a zero point that is not the middle of uint8.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    zeros = {node.input[2] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in result.graph.initializer:
        if tensor.name in zeros and tensor.data_type == TensorProto.UINT8:
            if (numpy_helper.to_array(tensor) != ZERO).any():
                raise VerificationError(f"The zero point {tensor.name} is not {ZERO}.", "Export the bundle again.")
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.int8), tensor.name))
    nodes = _dequantised_tables(list(result.graph.node))
    for node in nodes:
        if node.op_type == "LeakyRelu" and all(entry.f == 0 for entry in node.attribute if entry.name == "alpha"):
            node.op_type = "Relu"
            del node.attribute[:]
    nodes = _rounded_once(nodes, {tensor.name: tensor for tensor in result.graph.initializer})
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _rounded_once(nodes: list[Any], tensors: Mapping[str, Any]) -> list[Any]:
    """Without ``QuantizeLinear → DequantizeLinear`` before a ReLU that is rounded again with the same scale.

    Exact: a ReLU of multiples of the scale, rounded, is the rounded ReLU.
    """
    from onnx import numpy_helper

    makers = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    dropped: set[str] = set()

    def scale(node: Any) -> Any:
        return numpy_helper.to_array(tensors[node.input[1]]).tobytes()

    for relu in (node for node in nodes if node.op_type == "Relu"):
        back = makers.get(relu.input[0])
        whole = None if back is None else makers.get(back.input[0])
        after = readers[relu.output[0]]
        if (
            back is not None
            and whole is not None
            and (back.op_type, whole.op_type) == ("DequantizeLinear", "QuantizeLinear")
            and len(readers[back.output[0]]) == len(readers[whole.output[0]]) == 1
            and after
            and all(node.op_type == "QuantizeLinear" and scale(node) == scale(whole) for node in after)
        ):
            relu.input[0] = whole.input[0]
            dropped |= {back.output[0], whole.output[0]}
    return [node for node in nodes if node.output[0] not in dropped]


def _dequantised_tables(nodes: list[Any]) -> list[Any]:
    """``Gather → DequantizeLinear`` of a stored int8 table as ``DequantizeLinear → Gather``."""
    from onnx import helper

    rows = {node.output[0]: node for node in nodes if node.op_type == "Gather" and node.input[0].endswith("_int8")}
    kept = []
    for node in nodes:
        if node.op_type == "Gather" and node.output[0] in rows:
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in rows:
            gather = rows[node.input[0]]
            table, whole = gather.input[0], f"{node.output[0]}_table"
            kept.append(
                helper.make_node("DequantizeLinear", [table, *node.input[1:]], [whole], name=node.name, axis=1)
            )
            node = helper.make_node("Gather", [whole, gather.input[1]], node.output, name=gather.name, axis=0)
        kept.append(node)
    return kept
