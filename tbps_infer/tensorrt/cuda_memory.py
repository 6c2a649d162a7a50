"""Device memory over `cuda-bindings`: NVIDIA's own, for x86 and aarch64, CUDA 12 and 13, with CUDA graphs."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt import cuda_kernels
from tbps_infer.tensorrt.gpus import GpuFacts, version_text

__all__ = ["CudaMemory"]


class CudaMemory:
    """See `tbps_infer.tensorrt.device_memory.DeviceMemory`; on the device's primary context.

    Raises:
        BackendError: There is no driver, or no device of this index.
    """

    name = "cuda-bindings"
    has_graphs = True

    def __init__(self, index: int) -> None:
        try:
            self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise BackendError(
                f"cuda-bindings cannot be imported: {error}.",
                "Install the version that matches your CUDA: pip install 'cuda-bindings==12.*'.",
            ) from error
        self._index = index
        count = self._call("count the devices", self._cuda.cudaGetDeviceCount())
        if not 0 <= index < count:
            raise BackendError(
                f"There is no device cuda:{index}; this machine has {count}.", "nvidia-smi lists the devices."
            )
        self.make_current()
        self._allocated: set[int] = set()
        self._pinned: dict[int, int] = {}

    def make_current(self) -> None:
        """Set the calling thread's device."""
        self._call("choose the device", self._cuda.cudaSetDevice(self._index))

    def leave(self) -> None:
        """Nothing to do: a thread may keep its device."""

    def gpu(self) -> GpuFacts:
        """Name, capability and memory, and the versions of driver and runtime."""
        facts = self._call("describe the device", self._cuda.cudaGetDeviceProperties(self._index))
        free, total = self._call("read the free memory", self._cuda.cudaMemGetInfo())
        name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
        return GpuFacts(
            name=name.rstrip("\0"),
            sm=f"sm{facts.major}{facts.minor}",
            memory_bytes=int(total),
            free_bytes=int(free),
            driver=version_text(self._call("read the driver's version", self._cuda.cudaDriverGetVersion())),
            runtime=version_text(self._call("read CUDA's version", self._cuda.cudaRuntimeGetVersion())),
        )

    def allocate(self, size: int) -> int:
        """Allocate on the device."""
        address = int(self._call(f"allocate {size} bytes", self._cuda.cudaMalloc(max(size, 1))))
        self._allocated.add(address)
        return address

    def free(self, address: int) -> None:
        """Free on the device."""
        self._allocated.discard(address)
        self._call("free memory", self._cuda.cudaFree(address))

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate pinned memory and look at it as an array."""
        flags = self._cuda.cudaHostAllocDefault
        address = int(self._call(f"pin {size} bytes", self._cuda.cudaHostAlloc(max(size, 1), flags)))
        array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._pinned[array.ctypes.data] = address
        return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        """Free pinned memory; the array must not be used again."""
        self._call("free pinned memory", self._cuda.cudaFreeHost(self._pinned.pop(array.ctypes.data)))

    def make_stream(self) -> int:
        """Make a non-blocking stream."""
        flags = self._cuda.cudaStreamNonBlocking
        return int(self._call("make a stream", self._cuda.cudaStreamCreateWithFlags(flags)))

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("free a stream", self._cuda.cudaStreamDestroy(stream))

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy asynchronously."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        copied = self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream)
        self._call("copy to the device", copied)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy asynchronously."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, stream)
        self._call("copy from the device", copied)

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        self._call("run", self._cuda.cudaStreamSynchronize(stream))

    def make_event(self) -> Any:
        """Make an event without times."""
        return self._call("make an event", self._cuda.cudaEventCreateWithFlags(self._cuda.cudaEventDisableTiming))

    def make_timer(self) -> Any:
        """Make an event with times."""
        return self._call("make an event", self._cuda.cudaEventCreate())

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Ask CUDA, which resolves about half a microsecond."""
        return float(self._call("compare two events", self._cuda.cudaEventElapsedTime(start, end)))

    def free_event(self, event: Any) -> None:
        """Destroy an event."""
        self._call("free an event", self._cuda.cudaEventDestroy(event))

    def record(self, event: Any, stream: int) -> None:
        """Record an event."""
        self._call("record an event", self._cuda.cudaEventRecord(event, stream))

    def wait_event(self, event: Any, stream: int) -> None:
        """Let a stream wait."""
        self._call("wait for an event", self._cuda.cudaStreamWaitEvent(stream, event, 0))

    def wait_host(self, event: Any) -> None:
        """Wait for an event."""
        self._call("run", self._cuda.cudaEventSynchronize(event))

    def capture(self, stream: int, enqueue: Callable[[], bool]) -> Any | None:
        """Capture in this thread's mode, so that other threads may allocate meanwhile."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("begin a capture", self._cuda.cudaStreamBeginCapture(stream, mode))
        accepted = False
        try:
            accepted = enqueue()
        finally:
            error, graph = self._cuda.cudaStreamEndCapture(stream)
            ended = int(error) == 0 and graph is not None
        if not ended:
            self._cuda.cudaGetLastError()  # a broken capture leaves an error that the next call would report
            return None
        try:
            if not accepted:
                return None
            error, executable = self._cuda.cudaGraphInstantiate(graph, 0)
            if int(error) != 0:
                self._cuda.cudaGetLastError()
                return None
            return executable
        finally:
            self._cuda.cudaGraphDestroy(graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Launch a graph."""
        self._call("launch a graph", self._cuda.cudaGraphLaunch(graph, stream))

    def free_graph(self, graph: Any) -> None:
        """Destroy a graph."""
        self._call("free a graph", self._cuda.cudaGraphExecDestroy(graph))

    def close(self) -> None:
        """Free what is left of memory."""
        for address in list(self._allocated):
            with contextlib.suppress(BackendError):  # after a failure on the device every call fails
                self.free(address)
        for address in list(self._pinned.values()):
            self._cuda.cudaFreeHost(address)
        self._pinned.clear()

    def _call(self, what: str, result: tuple[Any, ...]) -> Any:
        """The value of a call, without its status; raises BackendError unless that is success."""
        error, *values = result
        if int(error) != 0:
            _, text = self._cuda.cudaGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            raise BackendError(
                f"CUDA could not {what}: {reason}.",
                "Choose a smaller batch size, or free the memory that others hold."
                if "memory" in reason
                else "Check with nvidia-smi that the driver runs and is recent enough for the installed CUDA.",
            )
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)

    def load_kernels(self, source: str, names: Sequence[str]) -> list[Any]:
        """Compile by NVRTC, load by the driver API."""
        image = cuda_kernels.compile_cuda(source, self.gpu().sm)
        self.make_current()
        return cuda_kernels.load_kernels(image, names)

    def launch_kernel(self, kernel: Any, grid: int, block: int, argument: bytes, stream: int) -> None:
        """Launch by the driver API."""
        cuda_kernels.launch_kernel(kernel, grid, block, argument, stream)
