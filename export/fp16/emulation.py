"""A mixed-precision graph rewritten so that a CPU computes what FP16 would give.

ONNX Runtime has hardly any FP16 kernel for the CPU: it computes in FP32 and drops the rounding in between, so that
300 × 10 × 300 stays 900000 and no overflow is ever seen (tried with 1.32). Here each FP16 value is an FP32 value that
is cast to FP16 and back, which ONNX Runtime keeps. Products are added up in FP32 and rounded once, as matrix
units can. TensorRT may choose kernels that add up in FP16, unless the graph asks for FP32 (``fp32_accumulation``);
what it fuses it rounds less often than this.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tbps_infer.export.fp16.operators import FOLLOWERS
from tbps_infer.export.graph_view import element_types

__all__ = ["emulated"]

_RAW = "_unrounded"
_HALF = "_half"


def emulated(model: Any) -> Any:
    """The FP32 ``onnx.ModelProto`` that rounds where the mixed-precision one computes in FP16."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    types = element_types(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = []
    for node in graph.node:
        rounded = [name for name in node.output if name and types[name] == TensorProto.FLOAT16]
        if node.op_type == "Cast" and rounded:
            node.attribute[0].i = TensorProto.FLOAT
        exact = node.op_type in FOLLOWERS  # what they move was rounded before
        if rounded and not exact:
            outputs = [f"{name}{_RAW}" if name in rounded else name for name in node.output]
            del node.output[:]
            node.output.extend(outputs)
        nodes.append(node)
        for name in () if exact else rounded:
            nodes.append(helper.make_node("Cast", [f"{name}{_RAW}"], [f"{name}{_HALF}"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}{_HALF}"], [name], to=TensorProto.FLOAT))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return copy
