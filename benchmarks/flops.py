"""Floating-point operations of a graph, counted from its shapes: products of matrices, convolutions and attention.

A multiplication and an addition are two operations. What is left out (normalisations, activations, softmax) is a few
per cent of a ResNet or a BERT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_infer.errors import BenchmarkError

__all__ = ["GraphCost", "count_flops", "graph_cost"]

_COUNTED = ("MatMul", "Gemm", "Conv", "Attention")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class GraphCost:
    """What a run of a graph has to do at least.

    Attributes:
        flops: Operations of its products.
        weight_bytes: Its parameters, each read once; tables that a run takes a few rows of are left out.
    """

    flops: int
    weight_bytes: int


def graph_cost(graph: Path, sizes: Mapping[str, int]) -> GraphCost:
    """Count a graph's operations at given sizes of its dynamic axes.

    Args:
        graph: An ONNX file.
        sizes: By the name of the axis: ``batch``, ``length``.

    Raises:
        BenchmarkError: An axis has no size, or a product's shape cannot be inferred.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                if dim.dim_param not in sizes:
                    raise BenchmarkError(f"The axis {dim.dim_param} of {graph.name} has no size.")
                dim.dim_value = sizes[dim.dim_param]
    # What the exporter wrote of shapes in between is symbolic, and would win over what is inferred.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    weights = (tensor for tensor in model.graph.initializer if tensor.name not in tables)
    return GraphCost(count_flops(inferred), sum(map(_bytes, weights)))


def count_flops(model: Any) -> int:
    """The operations of a model whose shapes are inferred. Raises BenchmarkError when one is not."""
    shapes = _shapes(model.graph)
    total = 0
    for node in model.graph.node:
        if node.op_type in _COUNTED:
            try:
                total += _node_flops(node, shapes)
            except KeyError as error:
                raise BenchmarkError(
                    f"The operations of {node.op_type} {node.name} cannot be counted: {error} has no fixed shape."
                ) from error
    return total


def _node_flops(node: Any, shapes: Shapes) -> int:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    left, right = shapes[node.input[0]], shapes[node.input[1]]
    if node.op_type == "Attention":
        return _attention_flops(attributes, left, right, shapes[node.input[2]])
    out = math.prod(shapes[node.output[0]])
    if node.op_type == "MatMul":
        return 2 * out * left[-1]
    if node.op_type == "Gemm":
        transposed = "transA" in attributes and attributes["transA"].i
        return 2 * out * left[0 if transposed else 1]
    return 2 * out * math.prod(right[1:])  # Conv: right is [out channels, in channels of a group, *kernel]


def _attention_flops(
    attributes: Mapping[str, Any], q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]
) -> int:
    """Q Kᵀ and its product with V; tensors are [batch, heads, length, size] or [batch, length, heads x size]."""
    if len(q) == 4:
        batch, heads, queries, size = q
        keys, value_size = k[2], v[3]
    else:
        batch, queries, heads = q[0], q[1], attributes["q_num_heads"].i
        size, keys, value_size = q[2] // heads, k[1], v[2] // attributes["kv_num_heads"].i
    return 2 * batch * heads * queries * keys * (size + value_size)


def _shapes(graph: Any) -> Shapes:
    """Of every tensor whose sizes are all known."""
    shapes: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return shapes


def _bytes(tensor: Any) -> int:
    import onnx

    itemsize = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return itemsize * int(math.prod(tensor.dims))
