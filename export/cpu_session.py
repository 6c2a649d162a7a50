"""Opens ONNX graphs on the CPU while exporting: to measure what they compute, and to see that they load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbps_infer.errors import BackendError, VerificationError

__all__ = ["open_session"]


def open_session(graph: Path | bytes, threads: int = 0) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        graph: An ONNX file, or its bytes.
        threads: Of one operator; 0 for ONNX Runtime's own choice.

    Raises:
        BackendError: ONNX Runtime is not installed.
        VerificationError: The graph does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "Measuring activations needs the package onnxruntime, which is not installed.",
            'Install it (pip install "tbps-infer[cpu]"), or name the FP32 nodes with --keep-fp32.',
        ) from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3  # a refusal is raised, and not printed as well
    try:
        return onnxruntime.InferenceSession(
            str(graph) if isinstance(graph, Path) else graph, settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise VerificationError(f"The graph does not load: {error}.", "Export the model again.") from error
