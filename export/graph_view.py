"""An ONNX graph with the questions that a change of precision asks of it: types, producers, readers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import VerificationError

__all__ = ["GraphView", "element_types"]

_SUBGRAPH_KINDS = ("GRAPH", "GRAPHS")


@dataclass(frozen=True)
class GraphView:
    """A model opened for reading; `GraphView.open` makes one.

    Attributes:
        model: The ``onnx.ModelProto``, with every ``Constant`` node turned into an initializer.
        types: The ONNX element type of every value, by name.
        initializers: The graph's stored tensors, by name.
    """

    model: Any
    types: dict[str, int]
    initializers: dict[str, Any]

    @classmethod
    def open(cls, model: Any) -> GraphView:
        """Read a model; it is copied, not changed.

        Raises:
            VerificationError: It has control flow or functions, computes in other floating-point types than FP32
                already, or its types cannot be inferred.
        """
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _refuse_nesting(copy)
        _constants_to_initializers(copy.graph)
        view = cls(copy, element_types(copy), {tensor.name: tensor for tensor in copy.graph.initializer})
        narrow = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
        for name, kind in view.types.items():
            if kind in narrow:
                raise VerificationError(
                    f"The graph's {name} is {onnx.TensorProto.DataType.Name(kind)}; only FP32 graphs are converted.",
                    "Convert the FP32 graph that it was made from.",
                )
        return view

    @property
    def nodes(self) -> Any:
        """The nodes, each after those that it reads from."""
        return self.model.graph.node

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return frozenset(value.name for value in self.model.graph.output)

    @cached_property
    def producers(self) -> dict[str, int]:
        """The number of the node that gives a value, by the value's name."""
        return {name: number for number, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """The numbers of the nodes that read a value, by the value's name."""
        readers: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(number)
        return readers

    def empty_copy(self) -> Any:
        """A new model with the same inputs and outputs, and neither nodes nor stored tensors."""
        import onnx

        source = self.model
        copy = onnx.ModelProto(
            ir_version=source.ir_version,
            producer_name=source.producer_name,
            producer_version=source.producer_version,
            domain=source.domain,
        )
        copy.opset_import.extend(source.opset_import)
        copy.graph.name = source.graph.name
        copy.graph.input.extend(source.graph.input)
        copy.graph.output.extend(source.graph.output)
        return copy

    def is_float(self, name: str) -> bool:
        """Whether a value is FP32; an input left out is not."""
        import onnx

        return bool(name) and self.types[name] == onnx.TensorProto.FLOAT

    def computed_inputs(self, number: int) -> list[str]:
        """A node's FP32 inputs that are not stored tensors."""
        return [name for name in self.nodes[number].input if self.is_float(name) and name not in self.initializers]

    def float_outputs(self, number: int) -> list[str]:
        """A node's FP32 outputs."""
        return [name for name in self.nodes[number].output if self.is_float(name)]

    def consumers(self, number: int) -> list[int]:
        """The numbers of the nodes that read one of a node's FP32 outputs."""
        return [reader for name in self.float_outputs(number) for reader in self.readers.get(name, ())]

    def gives_output(self, number: int) -> bool:
        """Whether a node gives one of the graph's outputs."""
        return any(name in self.outputs for name in self.nodes[number].output)

    def values(self, name: str) -> NDArray[np.float32]:
        """The numbers of a stored FP32 tensor."""
        from onnx import numpy_helper

        array: NDArray[np.float32] = numpy_helper.to_array(self.initializers[name])
        return array

    def label(self, number: int) -> str:
        """What to call a node in a message: its operator and the value it gives."""
        node = self.nodes[number]
        return f"{node.op_type} {node.name or node.output[0]}"


def _refuse_nesting(model: Any) -> None:
    import onnx

    kinds = tuple(getattr(onnx.AttributeProto, kind) for kind in _SUBGRAPH_KINDS)
    nested = [node.op_type for node in model.graph.node if any(entry.type in kinds for entry in node.attribute)]
    if nested or model.functions:
        raise VerificationError(
            f"The graph has control flow or functions ({', '.join(nested) or model.functions[0].name}), which have "
            "no mixed-precision form here.",
            "Export the model with fixed control flow.",
        )


def _constants_to_initializers(graph: Any) -> None:
    from onnx import helper, numpy_helper

    kept = []
    for node in graph.node:
        if node.op_type != "Constant":
            kept.append(node)
            continue
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            tensor = value
            tensor.name = node.output[0]
        else:
            kinds = {
                "value_float": np.float32,
                "value_floats": np.float32,
                "value_int": np.int64,
                "value_ints": np.int64,
            }
            if attribute.name not in kinds:
                raise VerificationError(f"The graph's constant {node.output[0]} is a {attribute.name}.")
            tensor = numpy_helper.from_array(np.asarray(value, kinds[attribute.name]), node.output[0])
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def element_types(model: Any) -> dict[str, int]:
    """Every value's element type, inferred without the weights: a copy with them would not fit protobuf's 2 GB.

    Raises:
        VerificationError: One cannot be inferred.
    """
    import onnx
    from onnx import helper

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.input.extend(value for value in model.graph.input)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in given:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton).graph
    except onnx.shape_inference.InferenceError as error:
        raise VerificationError(f"The types of the graph's values cannot be inferred: {error}.") from error
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
    }
    for node in model.graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise VerificationError(f"The type of the graph's value {name} ({node.op_type}) cannot be inferred.")
    return types
