"""What a user chooses about a Triton repository."""

from __future__ import annotations

from dataclasses import dataclass

from tbps_infer.errors import UsageError
from tbps_infer.runners.options import RunOptions

__all__ = ["TritonOptions"]


@dataclass(frozen=True)
class TritonOptions:
    """How Triton is to run a bundle.

    Attributes:
        run: Backend (``onnxruntime`` or ``tensorrt``), device and precision.
        engines: The folder of engines to take, by its name in the bundle; the only one that fits when not given.
        name: What the models' names begin with.
        most: Items per run at most; an engine's own limit where that is smaller.
        delay_us: How long a request waits for others to run with, in microseconds.
        instances: Copies of each model.
        python_env: The virtual environment that has tbps-infer where the server runs; the Python of its own backend
            when not given.

    Raises:
        UsageError: Triton has no such backend, or nothing runs the precision on the device.
    """

    run: RunOptions
    engines: str | None = None
    name: str = "tbps"
    most: int = 32
    delay_us: int = 2000
    instances: int = 1
    python_env: str | None = None

    def __post_init__(self) -> None:
        if self.run.backend not in ("onnxruntime", "tensorrt"):
            raise UsageError(
                f"Triton does not load {self.run.backend}.", "Choose the backend onnxruntime or tensorrt."
            )
        if self.run.backend == "onnxruntime":
            if self.run.precision == "fp16" and self.run.device == "cpu":
                raise UsageError("ONNX Runtime has no FP16 kernels for the CPU.", "Give --device cuda, or fp32.")
            if self.run.precision == "int8" and self.run.device != "cpu":
                raise UsageError("ONNX Runtime has no INT8 kernels for a GPU.", "Give --device cpu, or fp16.")
        if self.engines is not None and self.run.backend != "tensorrt":
            raise UsageError(f"Engines were chosen, and {self.run.backend} runs graphs.", "Leave --engines out.")
        if not self.name.replace("_", "").isalnum() or not self.name.isascii():
            raise UsageError(f"{self.name!r} cannot begin a model's name.", "Give letters, digits and underscores.")
