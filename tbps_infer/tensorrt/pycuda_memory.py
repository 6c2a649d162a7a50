"""Device memory over `pycuda`, which has no CUDA graphs: every run is enqueued call by call.

pycuda keeps a stack of contexts for each thread and aborts the process when a thread ends with one on it
(``context_stack::~context_stack`` in its cuda.hpp). So it is on a thread's stack only while it is used there.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt import cuda_kernels
from tbps_infer.tensorrt.gpus import DeviceAttributes, GpuFacts
from tbps_infer.tensorrt.thread_context import ThreadContext

__all__ = ["PycudaMemory"]


class PycudaMemory:
    """See `tbps_infer.tensorrt.device_memory.DeviceMemory`; on the device's primary context.

    Raises:
        BackendError: There is no driver, or no device of this index.
    """

    name = "pycuda"
    has_graphs = False

    def __init__(self, index: int) -> None:
        try:
            cuda = importlib.import_module("pycuda.driver")
        except ImportError as error:
            raise BackendError(
                f"pycuda cannot be imported: {error}.",
                'Install it where CUDA\'s headers are (pip install "tbps-infer[pycuda]"), or use cuda-bindings.',
            ) from error
        self._cuda: Any = cuda
        try:
            cuda.init()
            count = cuda.Device.count()
            if not 0 <= index < count:
                raise BackendError(
                    f"There is no device cuda:{index}; this machine has {count}.", "nvidia-smi lists the devices."
                )
            self._device = cuda.Device(index)
            # The primary context is the one that the CUDA runtime inside TensorRT uses.
            context = self._device.retain_primary_context()
        except cuda.Error as error:
            raise self._failed("start", error) from error
        self._context = ThreadContext(context.push, context.pop)
        self._allocations: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def make_current(self) -> None:
        """Push the context on the calling thread's stack, unless it is there."""
        self._context.__enter__()

    def leave(self) -> None:
        """Take the context off the calling thread's stack when this is the last leave."""
        self._context.__exit__()

    def gpu(self) -> GpuFacts:
        """Name, capability and memory, and the versions of driver and runtime."""
        with self._calling("describe the device"):
            attribute, read = self._cuda.device_attribute, self._device.get_attribute
            found = DeviceAttributes(
                name=self._device.name(),
                capability=self._device.compute_capability(),
                multiprocessors=read(attribute.MULTIPROCESSOR_COUNT),
                integrated=bool(read(attribute.INTEGRATED)),
                memory=self._cuda.mem_get_info(),
            )
            driver, made_for = self._cuda.get_driver_version(), self._cuda.get_version()
        return found.interpreted(driver, ".".join(map(str, made_for[:2])))

    def allocate(self, size: int) -> int:
        """Allocate on the device."""
        with self._calling(f"allocate {size} bytes"):
            allocation = self._cuda.mem_alloc(max(size, 1))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Free on the device."""
        with self._calling("free memory"):
            self._allocations.pop(address).free()

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate page-locked memory."""
        with self._calling(f"pin {size} bytes"):
            array: NDArray[np.uint8] = self._cuda.pagelocked_empty(max(size, 1), np.uint8)[:size]
        self._pinned[array.ctypes.data] = array.base if array.base is not None else array
        return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        """Let page-locked memory go with the last array that looks at it."""
        with self._calling("free pinned memory"):
            self._pinned.pop(array.ctypes.data)

    def make_stream(self) -> int:
        """Make a non-blocking stream."""
        with self._calling("make a stream"):
            stream = self._cuda.Stream(1)  # CU_STREAM_NON_BLOCKING
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def free_stream(self, stream: int) -> None:
        """Let a stream go."""
        with self._calling("free a stream"):
            self._streams.pop(stream)

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy asynchronously."""
        with self._calling("copy to the device"):
            self._cuda.memcpy_htod_async(address, array, self._streams[stream])

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy asynchronously."""
        with self._calling("copy from the device"):
            self._cuda.memcpy_dtoh_async(array, address, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        with self._calling("run"):
            self._streams[stream].synchronize()

    def make_event(self) -> Any:
        """Make an event without times."""
        with self._calling("make an event"):
            return self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)

    def make_timer(self) -> Any:
        """Make an event with times."""
        with self._calling("make an event"):
            return self._cuda.Event()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Ask CUDA, which resolves about half a microsecond."""
        with self._calling("compare two events"):
            return float(start.time_till(end))

    def free_event(self, event: Any) -> None:
        """Let an event go with its last name."""

    def record(self, event: Any, stream: int) -> None:
        """Record an event."""
        with self._calling("record an event"):
            event.record(self._streams[stream])

    def wait_event(self, event: Any, stream: int) -> None:
        """Let a stream wait."""
        with self._calling("wait for an event"):
            self._streams[stream].wait_for_event(event)

    def wait_host(self, event: Any) -> None:
        """Wait for an event."""
        with self._calling("run"):
            event.synchronize()

    def capture(self, stream: int, enqueue: Callable[[], bool]) -> Any | None:
        """Never captures; `has_graphs` says so."""
        del stream, enqueue
        return None

    def launch(self, graph: Any, stream: int) -> None:
        """Never called, since nothing is captured."""
        del graph, stream
        raise BackendError("pycuda has no CUDA graphs.", "Use cuda-bindings.")

    def free_graph(self, graph: Any) -> None:
        """Never called, since nothing is captured."""

    def close(self) -> None:
        """Free what is left."""
        with contextlib.suppress(BackendError):  # after a failure on the device every call fails
            for address in list(self._allocations):
                self.free(address)
        with contextlib.suppress(BackendError), self._calling("free what is left"):
            self._pinned.clear()
            self._streams.clear()

    @contextlib.contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        """Have the context on the thread's stack; what pycuda raises becomes a BackendError."""
        try:
            with self._context:
                yield
        except self._cuda.Error as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: Exception) -> BackendError:
        return BackendError(
            f"CUDA could not {what}: {error}.", "Check with nvidia-smi that the device is there and has free memory."
        )

    def load_kernels(self, source: str, names: Sequence[str]) -> list[Any]:
        """Compile by NVRTC, which cuda-bindings calls: pycuda's own compiler is nvcc, which a device may lack."""
        image = cuda_kernels.compile_cuda(source, self.gpu().sm)
        with self._calling("load a kernel"):
            module = self._cuda.module_from_buffer(image)
            return [module.get_function(name) for name in names]

    def launch_kernel(self, kernel: Any, grid: int, block: int, argument: bytes, stream: int) -> None:
        """Launch; pycuda takes a struct as a numpy scalar."""
        with self._calling("launch a kernel"):
            kernel(np.void(argument), grid=(grid, 1), block=(block, 1, 1), stream=self._streams[stream])
