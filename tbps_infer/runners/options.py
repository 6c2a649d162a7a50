"""What a user chooses about how a model runs: backend, device, precision, threads."""

from __future__ import annotations

from dataclasses import dataclass

from tbps_infer.devices import BACKENDS, BackendName, Device, MemoryKind
from tbps_infer.errors import UsageError
from tbps_infer.model_facts import PRECISIONS, Precision
from tbps_infer.tensorrt.flavours import FLAVOURS

__all__ = ["RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """How to run a model; each choice is kept or refused, never replaced by another.

    Attributes:
        backend: ``onnxruntime`` runs a bundle's graphs, ``tensorrt`` and ``tensorrt-rtx`` the engines built from
            them, ``torch`` a checkpoint.
        device: ``cpu``, ``cuda`` or ``cuda:N``; engines run on ``cuda`` alone.
        precision: What the weights and most of the arithmetic are.
        threads: Of one operator on the CPU; when not given, `tbps_infer.cores.usable_cores` for
            ONNX Runtime, and PyTorch's own choice for torch.
        memory: The package that calls CUDA for engines; when not given, as `tbps_infer.tensorrt.device_memory`
            chooses.

    Raises:
        UsageError: A value is not one of these, engines are to run on the CPU, or a memory is chosen for another
            backend.
    """

    backend: BackendName = "onnxruntime"
    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int | None = None
    memory: MemoryKind | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(f"The backend {self.backend!r} is not known.", f"Give one of {', '.join(BACKENDS)}.")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"The precision {self.precision!r} is not known.", f"Give one of {', '.join(PRECISIONS)}."
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"The number of threads is {self.threads}, want 1 or more.")
        if self.backend in FLAVOURS and Device.parse(self.device).kind == "cpu":
            raise UsageError(
                f"The backend {self.backend} does not run on the CPU.",
                "Give the GPU: --device cuda, or cuda:1 for the second.",
            )
        if self.memory is not None and self.backend not in FLAVOURS:
            raise UsageError(
                f"The memory {self.memory} was chosen, and the backend {self.backend} has memory of its own.",
                f"Leave --memory out, or choose the backend {' or '.join(FLAVOURS)}.",
            )
        Device.parse(self.device)

    @property
    def label(self) -> str:
        """Backend, device and precision in one name: ``onnxruntime cpu fp32``."""
        return f"{self.backend} {self.device} {self.precision}"
