"""What a user chooses about how a model runs: backend, device, precision, threads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from tbps_infer.errors import UsageError
from tbps_infer.runners.protocol import BACKENDS, BackendName, Precision

__all__ = ["PRECISIONS", "Device", "RunOptions"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Device:
    """A processor: the CPU, or one CUDA device by its index."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Device:
        """Read ``cpu``, ``cuda`` or ``cuda:N``; raises UsageError on anything else."""
        if name == "cpu":
            return cls("cpu")
        match = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
        if match is None:
            raise UsageError(f"The device {name!r} is not known.", "Give cpu, cuda, or cuda:1 for the second one.")
        return cls("cuda", int(match[1] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


@dataclass(frozen=True)
class RunOptions:
    """How to run a model; each choice is kept or refused, never replaced by another.

    Attributes:
        backend: ``onnxruntime`` runs a bundle's graphs, ``tensorrt`` and ``tensorrt-rtx`` the engines built from
            them, ``torch`` a checkpoint.
        device: ``cpu``, ``cuda`` or ``cuda:N``; engines run on ``cuda`` alone.
        precision: What the weights and most of the arithmetic are.
        threads: Of one operator on the CPU; when not given, `tbps_infer.runners.cores.usable_cores` for
            ONNX Runtime, and PyTorch's own choice for torch.

    Raises:
        UsageError: A value is not one of these, or engines are to run on the CPU.
    """

    backend: BackendName = "onnxruntime"
    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(f"The backend {self.backend!r} is not known.", f"Give one of {', '.join(BACKENDS)}.")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"The precision {self.precision!r} is not known.", f"Give one of {', '.join(PRECISIONS)}."
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"The number of threads is {self.threads}, want 1 or more.")
        if self.backend in ("tensorrt", "tensorrt-rtx") and Device.parse(self.device).kind == "cpu":
            raise UsageError(
                f"The backend {self.backend} does not run on the CPU.",
                "Give the GPU: --device cuda, or cuda:1 for the second.",
            )
        Device.parse(self.device)
