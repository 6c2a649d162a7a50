"""Writes INT8 into a graph as pairs of QuantizeLinear and DequantizeLinear (Q/DQ), in the form ONNX Runtime fuses.

Everything is symmetric, x ≈ s·q. A weight has int8 q from −127 to 127 and a scale per output channel. An activation
has one scale, and q + 128 is stored in uint8: ONNX Runtime's int8 kernels for x86 take nothing else on the left, and
from a graph with int8 activations it makes this one only where a value has a single reader. Biases stay FP32; ONNX
Runtime rounds a convolution's itself. `tbps_infer.export.int8.signed` writes the same numbers as TensorRT wants them.

A ReLU is written as a LeakyRelu of slope 0 between two pairs of one scale: ONNX Runtime fuses a convolution only when
its result is rounded at once, and it has a quantised LeakyRelu and no quantised Relu. The numbers are the same: what
is below 0 becomes 0 after the rounding instead of before.

`onnxruntime.quantization` writes neither: with its symmetric graphs ResNet-50 and BERT-base ran 1.2 to 1.4 and 1.0
times as fast as in FP32, and with these 2.3 to 3 times (docs/precision.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.export.graph_view import GraphView

__all__ = [
    "LAYERS",
    "ZERO",
    "embedding_tables",
    "layers_of",
    "quantise_graph",
    "quantised_inputs",
    "symmetric_weight",
]

LAYERS = ("Conv", "MatMul", "Gemm")
"""Operators with a stored weight, whose products are computed in int8."""

_INT8_RESULT = frozenset({"Conv", "Add", "Relu", "MaxPool"})
_LARGEST = 127

ZERO = 128
"""What stands for 0 in the uint8 of an activation."""


def layers_of(view: GraphView) -> tuple[int, ...]:
    """The numbers of the nodes that INT8 is for: products with a stored weight of one matrix or convolution."""
    return tuple(number for number in range(len(view.nodes)) if _channels(view, number) is not None)


def embedding_tables(view: GraphView) -> tuple[int, ...]:
    """The numbers of the nodes that look rows up in a stored FP32 table."""
    found = []
    for number, node in enumerate(view.nodes):
        if node.op_type != "Gather" or node.input[0] not in view.initializers or not view.is_float(node.input[0]):
            continue
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        if axis == 0 and len(view.initializers[node.input[0]].dims) == 2:
            found.append(number)
    return tuple(found)


def symmetric_weight(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a tensor to int8 with a scale per index of ``axis``.

    Returns:
        int8 of the same shape, from −127 to 127, and float32 scales ``[channels]``; a channel of zeros has scale 1.
    """
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / np.float32(_LARGEST), np.float32(1)).astype(np.float32)
    rounded = np.clip(np.rint(values / scales), -_LARGEST, _LARGEST).astype(np.int8)
    return rounded, scales.reshape(-1)


def quantised_inputs(view: GraphView, layers: Set[int]) -> dict[str, str]:
    """The values that are rounded when these nodes compute in int8, each with the value whose range it takes.

    Between two int8 layers the additions, ReLUs and poolings are int8 too. What only feeds a ReLU takes the ReLU's
    range: it is not worth a number what the ReLU sets to 0.
    """
    return _Plan(view, layers).ranges


def quantise_graph(view: GraphView, layers: Set[int], tables: Set[int], amax: Mapping[str, float]) -> Any:
    """Make the graph in which the numbered nodes compute in int8.

    Args:
        view: The FP32 graph.
        layers: Some of `layers_of`.
        tables: Some of `embedding_tables`; their tables are stored in int8, their rows dequantised.
        amax: The magnitude that 127 stands for, by the value's name; every one that `quantised_inputs` names.

    Returns:
        A new ``onnx.ModelProto`` with the FP32 graph's inputs and outputs.
    """
    return _Writer(view, _Plan(view, layers), tables, amax).model()


def _channels(view: GraphView, number: int) -> int | None:
    """The axis of a layer's weight that its output channels are; None for what is no layer."""
    node = view.nodes[number]
    if node.op_type not in LAYERS or node.input[0] in view.initializers:
        return None
    if node.input[1] not in view.initializers or not view.is_float(node.input[1]):
        return None
    if node.op_type == "Conv":
        return 0
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return (0 if transposed else 1) if len(view.initializers[node.input[1]].dims) == 2 else None


class _Plan:
    """Which nodes compute in int8, and which values are rounded."""

    def __init__(self, view: GraphView, layers: Set[int]) -> None:
        self.view = view
        self.layers = frozenset(layers)
        self.nodes = self._int8_nodes()
        self.ranges: dict[str, str] = {}
        for number in sorted(self.nodes):
            for name in view.computed_inputs(number):
                self.ranges.setdefault(name, name)
        for number in self.nodes:
            node = view.nodes[number]
            if node.op_type == "Relu" and view.readers[node.input[0]] == [number]:
                self.ranges[node.input[0]] = node.output[0]
                self.ranges.setdefault(node.output[0], node.output[0])

    def _int8_nodes(self) -> frozenset[int]:
        """The layers, and what lies between them and can be int8 as well."""
        view = self.view
        found = set(self.layers)
        for number, node in enumerate(view.nodes):  # in the order of computing
            if node.op_type not in ("Add", "Relu", "MaxPool") or number in found:
                continue
            inputs = view.computed_inputs(number)
            if len(inputs) != len(node.input):
                continue  # a bias
            makers = [view.producers.get(name) for name in inputs]
            if all(maker is not None and maker in found and self._gives_int8(maker) for maker in makers):
                found.add(number)
        return frozenset(found)

    def _gives_int8(self, number: int) -> bool:
        return self.view.nodes[number].op_type in _INT8_RESULT


@dataclass
class _Writer:
    """Writes one graph, node by node."""

    view: GraphView
    plan: _Plan
    tables: Set[int]
    amax: Mapping[str, float]
    nodes: list[Any] = field(default_factory=list)
    stored: dict[str, Any] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)

    def model(self) -> Any:
        for value in self.view.model.graph.input:
            self._round(value.name)
        for number in range(len(self.view.nodes)):
            self._add(number)
        result = self.view.empty_copy()
        graph = result.graph
        graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        graph.initializer.extend(t for name, t in self.view.initializers.items() if name in read)
        graph.initializer.extend(self.stored.values())
        return result

    def _add(self, number: int) -> None:
        import onnx
        from onnx import helper

        if number in self.tables:
            self._quantise_table(number)
            return
        node = onnx.NodeProto()
        node.CopyFrom(self.view.nodes[number])
        inside = number in self.plan.nodes
        for place, name in enumerate(node.input):
            if name in self.rounded and (inside or self._only_int8(name)):
                node.input[place] = self.rounded[name]
        if number in self.plan.layers:
            self._quantise_weight(number, node)
        elif inside and node.op_type == "Relu":
            node = helper.make_node("LeakyRelu", node.input, node.output, name=node.name, alpha=0.0)
        self.nodes.append(node)
        for name in node.output:
            self._round(name)

    def _only_int8(self, name: str) -> bool:
        """Whether a value exists in int8 alone: reading it in FP32 would keep its maker from computing in int8."""
        maker = self.view.producers.get(name)
        return maker in self.plan.nodes and self.view.nodes[maker].op_type in _INT8_RESULT

    def _round(self, name: str) -> None:
        """Put a pair behind a value if one is wanted."""
        from onnx import helper

        if name not in self.plan.ranges:
            return
        largest = np.float32(self.amax[self.plan.ranges[name]])
        scale = largest / np.float32(_LARGEST) if largest > 0 else np.float32(1)
        inputs = [f"{name}_scale", f"{name}_zero"]
        self._store(inputs[0], np.asarray(scale, np.float32))
        self._store(inputs[1], np.full((), ZERO, np.uint8))
        whole, back = f"{name}_int8", f"{name}_rounded"
        self.nodes.append(helper.make_node("QuantizeLinear", [name, *inputs], [whole], name=f"{name}_q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [whole, *inputs], [back], name=f"{name}_dq"))
        self.rounded[name] = back

    def _quantise_weight(self, number: int, node: Any) -> None:
        """Let a layer read its weight from int8.

        Each reader of a shared weight has a copy: ONNX Runtime turns weights to uint8 on processors without VNNI,
        and fails on one that it meets twice.
        """
        from onnx import helper

        axis = _channels(self.view, number)
        assert axis is not None
        name = node.input[1]
        copy = name if f"{name}_int8" not in self.stored else f"{name}_{number}"
        back = f"{copy}_rounded"
        inputs = self._store_weight(name, copy, axis)
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [back], name=f"{copy}_dq", axis=axis))
        node.input[1] = back

    def _quantise_table(self, number: int) -> None:
        """Gather rows of int8, and dequantise those alone; a scale per column, as some columns are much larger."""
        from onnx import helper

        node = self.view.nodes[number]
        table, (result,) = node.input[0], node.output
        whole, scale, zero = self._store_weight(table, table, axis=1)
        rows = helper.make_node("Gather", [whole, node.input[1]], [f"{result}_int8"], name=node.name, axis=0)
        inputs = [f"{result}_int8", scale, zero]
        self.nodes += [rows, helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}_dq", axis=-1)]
        self._round(result)

    def _store_weight(self, name: str, copy: str, axis: int) -> list[str]:
        """Names of the int8 tensor, its scales and its zero points."""
        whole, scales = symmetric_weight(self.view.values(name), axis)
        self._store(f"{copy}_int8", whole)
        self._store(f"{copy}_scale", scales)
        self._store(f"{copy}_zero", np.zeros(len(scales), np.int8))
        return [f"{copy}_int8", f"{copy}_scale", f"{copy}_zero"]

    def _store(self, name: str, values: NDArray[Any]) -> None:
        from onnx import numpy_helper

        self.stored[name] = numpy_helper.from_array(values, name)
