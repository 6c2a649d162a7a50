"""What the machine can do at most, measured: a large product of matrices, and a large copy of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tbps_infer.benchmarks.measure import Arm, Value, without_parts
from tbps_infer.devices import Device
from tbps_infer.errors import BackendError

__all__ = ["COPY_BYTES", "MATMUL_SIZE", "limit_arms"]

MATMUL_SIZE = 1536
"""Rows and columns of the square matrices: 7.2 GFLOP a product, and 28 MB of float32, beyond most caches."""

COPY_BYTES = 256 << 20
"""Copied at once; read and written, so twice as many bytes move."""

_CUDA_MATMUL_SIZE = 8192


def limit_arms(device: Device, threads: int) -> list[Arm]:
    """Arms that show a device's greatest rates, PyTorch's kernels where it is installed and numpy's elsewhere.

    Each arm's configuration says under ``work`` how many operations or bytes one run moves, and under ``unit`` which.

    Raises:
        BackendError: The device is a GPU, and PyTorch for CUDA is not installed to measure it with.
    """
    if device.kind == "cuda":
        return list(_cuda_arms(device))
    try:
        import torch
    except ImportError:
        return _numpy_arms(threads)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    left, right = (torch.from_numpy(rng.standard_normal((MATMUL_SIZE,) * 2, dtype=np.float32)) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8)
    target = torch.ones_like(source)
    return [
        _matmul_arm("torch", "fp32", device, threads, MATMUL_SIZE, lambda: torch.mm(left, right, out=product)),
        _copy_arm("torch", "copy", device, threads, 2 * COPY_BYTES, lambda: target.copy_(source)),
    ]


def _numpy_arms(threads: int) -> list[Arm]:
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((MATMUL_SIZE,) * 2, dtype=np.float32) for _ in range(2))
    product = np.empty_like(left)
    source = np.zeros(COPY_BYTES, np.uint8)
    target = np.ones_like(source)
    cpu = Device("cpu")
    return [
        _matmul_arm("numpy", "fp32", cpu, threads, MATMUL_SIZE, lambda: np.matmul(left, right, out=product)),
        _copy_arm("numpy", "copy", cpu, 1, 2 * COPY_BYTES, lambda: np.copyto(target, source)),
    ]


def _cuda_arms(device: Device) -> Iterator[Arm]:
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    if torch is None or not torch.cuda.is_available():
        raise BackendError(
            f"The limits of {device} are not measured: no PyTorch for CUDA is installed.", "Install one to have them."
        )
    there = torch.device(str(device))

    def waiting(run: Callable[[], object]) -> Callable[[], object]:
        def whole() -> None:
            run()
            torch.cuda.synchronize(there)

        return whole

    size = _CUDA_MATMUL_SIZE
    for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        left, right = (torch.randn(size, size, device=there, dtype=dtype) for _ in range(2))
        product = torch.empty_like(left)
        run = waiting(lambda a=left, b=right, c=product: torch.mm(a, b, out=c))  # type: ignore[misc]
        yield _matmul_arm("torch", precision, device, 0, size, run)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=there)
    target = torch.ones_like(source)
    host: Any = torch.zeros(COPY_BYTES, dtype=torch.uint8).pin_memory()
    yield _copy_arm("torch", "copy", device, 0, 2 * COPY_BYTES, waiting(lambda: target.copy_(source)))
    run = waiting(lambda: target.copy_(host, non_blocking=True))
    yield _copy_arm("torch", "copy to the device", device, 0, COPY_BYTES, run)


def _matmul_arm(
    library: str, precision: str, device: Device, threads: int, size: int, run: Callable[[], object]
) -> Arm:
    facts: dict[str, Value] = {"kind": "matmul", "precision": precision, "work": 2 * size**3, "unit": "flop"}
    return _arm(f"matmul {device} {precision}", facts, library, device, threads, run)


def _copy_arm(library: str, kind: str, device: Device, threads: int, work: int, run: Callable[[], object]) -> Arm:
    facts: dict[str, Value] = {"kind": kind, "precision": None, "work": work, "unit": "byte"}
    return _arm(f"{kind} {device}", facts, library, device, threads, run)


def _arm(
    name: str, facts: Mapping[str, Value], library: str, device: Device, threads: int, run: Callable[[], object]
) -> Arm:
    configuration = {"what": "limit", "device": str(device), "library": library, "threads": threads, **facts}
    return Arm(f"limit {name}", configuration, without_parts(run))
