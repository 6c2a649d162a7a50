"""How much device memory an engine's intermediate results will take, predicted before it is built.

The figure is the most that is alive at once when the graph runs node by node at its greatest shapes. An engine fuses
nodes and needs less, or keeps scratch memory beside and needs more; `engine.json` has what was built.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tbps_infer.formats.onnx_files import read_onnx

__all__ = ["predicted_activation_bytes"]

_logger = logging.getLogger(__name__)

_SHAPE_ARITHMETIC = frozenset(
    {
        *("Add", "Cast", "Concat", "Div", "Gather", "Max", "Min", "Mul"),
        *("Range", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze"),
    }
)
_MOST_FOLDED = 1000
_IN_PLACE = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def predicted_activation_bytes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Bytes alive at the fullest moment.

    Args:
        path: An ONNX file.
        shapes: The shape of each input.

    Returns:
        None where a shape of the graph cannot be inferred from these; the log says which.
    """
    import onnx

    try:
        model = read_onnx(path, external_data=False)
        for value in model.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                dim.dim_value = size
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        _fold_shapes(model.graph, shapes)
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        return _most_alive(graph, _sizes(graph))
    except Exception as error:  # whatever onnx raises: a figure that only informs must not stop a build
        _logger.info("The activation memory of %s cannot be predicted: %r", path.name, error)
        return None


def _sizes(graph: Any) -> dict[str, int]:
    """Bytes of each computed value; raises ValueError where one has no inferred shape."""
    from onnx import helper

    stored = _stored(graph)
    tensors = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    sizes: dict[str, int] = {}
    for name in (name for node in graph.node for name in node.output if name and name not in stored):
        tensor = tensors.get(name)
        if tensor is None or not tensor.HasField("shape"):
            raise ValueError(f"the shape of {name} cannot be inferred")
        if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise ValueError(f"the shape of {name} depends on its input's numbers")
        count = math.prod(dim.dim_value for dim in tensor.shape.dim)
        sizes[name] = count * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return sizes


def _fold_shapes(graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compute what follows from the inputs' shapes alone, such as a range, which shape inference leaves open."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != tensor.EXTERNAL and math.prod(tensor.dims) <= _MOST_FOLDED
    }
    kept = []
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            values = [np.array(shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")], np.int64)]
        elif node.op_type in _SHAPE_ARITHMETIC and all(name in known for name in node.input):
            values = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input})
        else:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=True):
            known[name] = value
            graph.initializer.append(numpy_helper.from_array(value, name))
    del graph.node[:]
    graph.node.extend(kept)


def _stored(graph: Any) -> set[str]:
    """Values that follow from stored tensors alone, as dequantised weights do: part of an engine, not of a run."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.input and all(name in found for name in node.input if name):
            found.update(node.output)
    return found


def _most_alive(graph: Any, sizes: Mapping[str, int]) -> int:
    nodes = list(graph.node)
    owner = {name: name for name in sizes}  # a reshaped value is its source's memory
    last: dict[str, int] = {}
    for number, node in enumerate(nodes):
        if node.op_type in _IN_PLACE and node.input[0] in owner:
            owner[node.output[0]] = owner[node.input[0]]
        for name in (*node.input, *node.output):
            if name in owner:
                last[owner[name]] = number
    alive: dict[str, int] = {}
    most = 0
    for number, node in enumerate(nodes):
        for name in node.output:
            if name in owner:
                alive[owner[name]] = sizes[owner[name]]
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last[name] <= number]:
            del alive[name]
    return most
