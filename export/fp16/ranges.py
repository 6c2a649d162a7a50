"""Measures how large a graph's activations become on real inputs, and which nodes FP16 would put at risk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tbps_infer.errors import VerificationError
from tbps_infer.export.cpu_session import open_session
from tbps_infer.export.fp16.operators import FP16_MAX
from tbps_infer.export.fp16.rewrite import overflowing
from tbps_infer.export.graph_view import GraphView
from tbps_infer.runners.protocol import Feeds

__all__ = ["HEADROOM", "measure_ranges", "risky_nodes"]

HEADROOM = 2.0
"""How much larger than measured an activation may become before it overflows.

2 leaves room for pictures and sentences that were not measured, and a mask's floor of -3e4 outside the risk.
"""


def measure_ranges(view: GraphView, batches: Iterable[Feeds], *, threads: int = 0) -> dict[str, float]:
    """The greatest magnitude of each value that the FP32 graph computes, over all batches.

    The maxima are taken inside the graph, so memory does not grow with the number of values.

    Args:
        view: The FP32 graph.
        batches: Inputs by name.
        threads: Of ONNX Runtime; 0 for its own choice.

    Returns:
        By value; infinity where a value was not finite.

    Raises:
        BackendError: ONNX Runtime is not installed.
        VerificationError: The graph does not run, or there was no batch.
    """
    session, names = _open(view, threads)
    ranges = dict.fromkeys(names, 0.0)
    count = 0
    for feeds in batches:
        count += 1
        try:
            extremes = session.run([f"{name}{_LARGEST}" for name in names], dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise VerificationError(f"The FP32 graph does not run: {error}.", "Export the model again.") from error
        for name, largest in zip(names, extremes, strict=True):
            value = float(largest)
            ranges[name] = max(ranges[name], value if np.isfinite(value) else np.inf)
    if count == 0:
        raise VerificationError("There is nothing to measure activations on.", "Give at least one crop and caption.")
    return ranges


def risky_nodes(view: GraphView, ranges: Mapping[str, float], headroom: float = HEADROOM) -> dict[int, str]:
    """The nodes that write or read something near FP16's largest number, each with the reason in words.

    A node that only reads such a value is one of them: it would be given infinity.
    """
    limit = FP16_MAX / headroom
    reasons: dict[int, str] = {}
    for number, node in enumerate(view.nodes):
        for name in (*node.output, *node.input):
            if ranges.get(name, 0.0) > limit:
                reasons.setdefault(number, f"{name} reaches {ranges[name]:.4g}")
        for name in node.input:
            if name in view.initializers and view.is_float(name):
                largest = overflowing(view, name)
                if largest is not None:
                    reasons.setdefault(number, f"the stored {name} reaches {largest:.4g}")
    return reasons


_LARGEST = "_largest_magnitude"


def _open(view: GraphView, threads: int) -> tuple[Any, list[str]]:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    graph = model.graph
    names = list(dict.fromkeys(name for number in range(len(view.nodes)) for name in view.float_outputs(number)))
    del graph.output[:]
    for name in names:
        graph.node.append(helper.make_node("Abs", [name], [f"{name}_magnitude"]))
        graph.node.append(helper.make_node("ReduceMax", [f"{name}_magnitude"], [f"{name}{_LARGEST}"], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(f"{name}{_LARGEST}", TensorProto.FLOAT, []))
    return open_session(model.SerializeToString(), threads), names
