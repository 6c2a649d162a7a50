"""Runs ONNX graphs on one thread of the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tbps_infer.runners.onnxruntime_runner import products_saturate

__all__ = ["run_graph"]


def run_graph(
    graph: Any, feeds: Mapping[str, NDArray[Any]], *, plain: bool = False, exact: bool = products_saturate()
) -> NDArray[np.float32]:
    """The first output of a graph: fused, its INT8 products exact or as fast as can be, or plain, node by node."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, dict(feeds))[0]
    return result
