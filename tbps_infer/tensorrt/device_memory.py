"""Device memory behind a small protocol, so that the runner neither knows nor cares which package calls CUDA.

`cuda-bindings` is tried first; `pycuda` is supported beside it, without CUDA graphs; a fake serves tests on the CPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import MEMORY_KINDS, MemoryKind
from tbps_infer.errors import BackendError, UsageError
from tbps_infer.tensorrt.gpus import GpuFacts

__all__ = ["DeviceMemory", "device_of", "find_gpu", "open_memory", "why_no_gpu"]

_logger = logging.getLogger(__name__)
_MODULES: dict[MemoryKind, str] = {"cuda-bindings": "cuda.bindings", "pycuda": "pycuda"}


class DeviceMemory(Protocol):
    """Memory, streams, events and graphs of one device.

    Addresses and streams are the integers that TensorRT takes. Work on a stream is done in order and later than the
    call; `synchronize` waits for it. What is allocated is freed by its own call, and `close` frees what is left.

    Attributes:
        name: The package that calls CUDA, and in whose place where another failed.
        has_graphs: Whether `capture` can be called.
    """

    name: str
    has_graphs: bool

    def make_current(self) -> None:
        """Make the device the calling thread's, before TensorRT is called in it."""

    def leave(self) -> None:
        """Undo one `make_current` of the calling thread, which may end afterwards."""

    def gpu(self) -> GpuFacts:
        """What the device is."""

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes on the device. Raises BackendError when there are not so many."""

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes of the host's memory that are copied without a detour."""

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        """Give back what `pinned` gave."""

    def make_stream(self) -> int:
        """A stream that waits for no other."""

    def free_stream(self, stream: int) -> None:
        """Give back what `make_stream` gave."""

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Begin to copy a contiguous pinned array; it must keep its numbers until the copy is done."""

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Begin to fill a contiguous pinned array."""

    def synchronize(self, stream: int) -> None:
        """Wait until all work on a stream is done. Raises BackendError when some of it failed."""

    def make_event(self) -> Any:
        """Something that can be recorded on a stream and waited for."""

    def make_timer(self) -> Any:
        """An event that knows when its place was reached."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds on the device between the places of two timers that were both waited for."""

    def free_event(self, event: Any) -> None:
        """Give back what `make_event` or `make_timer` gave."""

    def record(self, event: Any, stream: int) -> None:
        """Mark this place in a stream's work."""

    def wait_event(self, event: Any, stream: int) -> None:
        """Let a stream's further work wait for the place last marked."""

    def wait_host(self, event: Any) -> None:
        """Wait for the place last marked. Raises BackendError when work before it failed."""

    def capture(self, stream: int, enqueue: Callable[[], bool]) -> Any | None:
        """What ``enqueue`` puts on the stream, as one graph, without doing it.

        Returns:
            The graph, or None when ``enqueue`` answers False or CUDA cannot capture it; the stream is usable again.
        """

    def launch(self, graph: Any, stream: int) -> None:
        """Put a graph's work on a stream."""

    def free_graph(self, graph: Any) -> None:
        """Give back what `capture` gave."""

    def close(self) -> None:
        """Free everything; closing twice is harmless."""

    def load_kernels(self, source: str, names: Sequence[str]) -> list[Any]:
        """Kernels of a CUDA source that includes nothing, compiled for this device.

        Raises:
            BackendError: NVRTC or cuda-bindings is missing, or the source is refused.
        """

    def launch_kernel(self, kernel: Any, grid: int, block: int, argument: bytes, stream: int) -> None:
        """Put ``grid`` blocks of ``block`` threads on a stream; the kernel takes one struct, of these bytes."""


def open_memory(index: int, kind: MemoryKind | None = None) -> DeviceMemory:
    """The memory of a device.

    Args:
        index: Of the device: 1 for ``cuda:1``.
        kind: The package that calls CUDA; when not given, the first of `MEMORY_KINDS` that is installed and works.
            One that does not work is named in a warning, and in the memory's name.

    Raises:
        UsageError: The kind is not known.
        BackendError: No package is installed, none of them works here, or there is no such device.
    """
    if kind is not None and kind not in MEMORY_KINDS:
        raise UsageError(f"The memory {kind!r} is not known.", f"Give one of {', '.join(MEMORY_KINDS)}.")
    wanted = MEMORY_KINDS if kind is None else (kind,)
    failures: dict[str, BackendError] = {}
    for name in wanted:
        if not _installed(_MODULES[name]):
            continue
        try:
            memory = _open(name, index)
        except BackendError as error:
            failures[name] = error
            continue
        for failed, reason in failures.items():
            _logger.warning("%s is used, since %s failed: %s %s", name, failed, reason.message, reason.hint)
            memory.name = f"{name} (since {failed} failed)"
        return memory
    if failures:
        raise BackendError(
            " ".join(dict.fromkeys(error.message for error in failures.values())), next(iter(failures.values())).hint
        )
    raise BackendError(
        f"Running engines needs the package {' or '.join(wanted)}, which is not installed.",
        'Install pycuda where CUDA\'s headers are: pip install "tbps-infer[pycuda]".'
        if kind == "pycuda"
        else "Install cuda-bindings: pip install 'cuda-bindings>=12.9.1,<13', or 13 with a driver for CUDA 13.",
    )


def _open(kind: MemoryKind, index: int) -> DeviceMemory:
    if kind == "cuda-bindings":
        from tbps_infer.tensorrt.cuda_memory import CudaMemory

        return CudaMemory(index)
    from tbps_infer.tensorrt.pycuda_memory import PycudaMemory

    return PycudaMemory(index)


@contextlib.contextmanager
def device_of(memory: DeviceMemory) -> Iterator[None]:
    """Have the memory's device as the calling thread's own meanwhile."""
    memory.make_current()
    try:
        yield
    finally:
        memory.leave()


def find_gpu(index: int = 0, kind: MemoryKind | None = None) -> GpuFacts | None:
    """What the device is, or None where there is no GPU that answers, no driver, or no package to ask it with."""
    try:
        with contextlib.closing(open_memory(index, kind)) as memory:
            return memory.gpu()
    except BackendError:
        return None


def why_no_gpu(index: int, kind: MemoryKind | None = None) -> BackendError:
    """Why `find_gpu` finds no device of this index."""
    try:
        with contextlib.closing(open_memory(index, kind)) as memory:
            memory.gpu()
    except BackendError as error:
        return error
    return BackendError(f"The device cuda:{index} did not answer.", "Check with nvidia-smi that it is free.")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is not there
        return False
