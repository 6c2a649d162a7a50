"""Device memory over `cuda-bindings`: NVIDIA's own, for x86 and aarch64, CUDA 12 and 13, with CUDA graphs.

It calls the driver, not the CUDA runtime: the runtime inside cuda-bindings 12.8 and later answers error 35 on a
driver for CUDA 12.6, which is JetPack 6.2's. The driver itself checks no version.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import installed_versions
from tbps_infer.errors import BackendError
from tbps_infer.tensorrt import cuda_kernels
from tbps_infer.tensorrt.gpus import DeviceAttributes, GpuFacts, version_text
from tbps_infer.tensorrt.thread_context import ThreadContext

__all__ = ["CudaMemory"]

_logger = logging.getLogger(__name__)

_RELEASES_GIL = (12, 9, 1)
_INSTALL_CUDA_12 = "pip install 'cuda-bindings>=12.9.1,<13'"
_NAME_BYTES = 256


class CudaMemory:
    """See `tbps_infer.tensorrt.device_memory.DeviceMemory`; on the device's primary context.

    The primary context is the one that the CUDA runtime inside TensorRT uses.

    Raises:
        BackendError: There is no driver, no device of this index, or the package does not suit the driver.
    """

    name = "cuda-bindings"
    has_graphs = True

    def __init__(self, index: int) -> None:
        try:
            self._cuda: Any = importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            raise BackendError(
                f"cuda-bindings cannot be imported: {error}.",
                f"Install the version that matches your driver: {_INSTALL_CUDA_12}, or 13 with a driver for CUDA 13.",
            ) from error
        self._checked("count the devices", self._cuda.cuInit, 0)
        self._driver = int(self._checked("read the driver's version", self._cuda.cuDriverGetVersion))
        _check_version(self._driver)
        count = self._checked("count the devices", self._cuda.cuDeviceGetCount)
        if not 0 <= index < count:
            raise BackendError(
                f"There is no device cuda:{index}; this machine has {count}.", "nvidia-smi lists the devices."
            )
        self._device = self._checked("choose the device", self._cuda.cuDeviceGet, index)
        context = self._checked("start the device", self._cuda.cuDevicePrimaryCtxRetain, self._device)
        self._context = ThreadContext(
            lambda: self._checked("choose the device", self._cuda.cuCtxPushCurrent, context),
            lambda: self._checked("leave the device", self._cuda.cuCtxPopCurrent),
        )
        self._open = True
        self._allocated: set[int] = set()
        self._pinned: dict[int, int] = {}

    def make_current(self) -> None:
        """Push the context on the calling thread's stack, unless it is there."""
        self._context.__enter__()

    def leave(self) -> None:
        """Take the context off the calling thread's stack when this is the last leave."""
        self._context.__exit__()

    def gpu(self) -> GpuFacts:
        """Name, capability and memory, and the versions of driver and bindings."""
        name = self._call("describe the device", self._cuda.cuDeviceGetName, _NAME_BYTES, self._device)
        found = DeviceAttributes(
            name=name.split(b"\0")[0].decode(),
            capability=(self._attribute("COMPUTE_CAPABILITY_MAJOR"), self._attribute("COMPUTE_CAPABILITY_MINOR")),
            multiprocessors=self._attribute("MULTIPROCESSOR_COUNT"),
            integrated=bool(self._attribute("INTEGRATED")),
            memory=self._call("read the free memory", self._cuda.cuMemGetInfo),
        )
        return found.interpreted(self._driver, version_text(self._cuda.CUDA_VERSION))

    def allocate(self, size: int) -> int:
        """Allocate on the device."""
        address = int(self._call(f"allocate {size} bytes", self._cuda.cuMemAlloc, max(size, 1)))
        self._allocated.add(address)
        return address

    def free(self, address: int) -> None:
        """Free on the device."""
        self._allocated.discard(address)
        self._call("free memory", self._cuda.cuMemFree, address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate pinned memory and look at it as an array."""
        address = int(self._call(f"pin {size} bytes", self._cuda.cuMemHostAlloc, max(size, 1), 0))
        array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._pinned[array.ctypes.data] = address
        return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        """Free pinned memory; the array must not be used again."""
        self._call("free pinned memory", self._cuda.cuMemFreeHost, self._pinned.pop(array.ctypes.data))

    def make_stream(self) -> int:
        """Make a non-blocking stream."""
        flags = int(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        return int(self._call("make a stream", self._cuda.cuStreamCreate, flags))

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("free a stream", self._cuda.cuStreamDestroy, stream)

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy asynchronously."""
        copy = self._cuda.cuMemcpyHtoDAsync
        self._call("copy to the device", copy, address, array.ctypes.data, array.nbytes, stream)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy asynchronously."""
        copy = self._cuda.cuMemcpyDtoHAsync
        self._call("copy from the device", copy, array.ctypes.data, address, array.nbytes, stream)

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        self._call("run", self._cuda.cuStreamSynchronize, stream)

    def make_event(self) -> Any:
        """Make an event without times."""
        flags = int(self._cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        return self._call("make an event", self._cuda.cuEventCreate, flags)

    def make_timer(self) -> Any:
        """Make an event with times."""
        return self._call("make an event", self._cuda.cuEventCreate, 0)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Ask CUDA, which resolves about half a microsecond."""
        return float(self._call("compare two events", self._cuda.cuEventElapsedTime, start, end))

    def free_event(self, event: Any) -> None:
        """Destroy an event."""
        self._call("free an event", self._cuda.cuEventDestroy, event)

    def record(self, event: Any, stream: int) -> None:
        """Record an event."""
        self._call("record an event", self._cuda.cuEventRecord, event, stream)

    def wait_event(self, event: Any, stream: int) -> None:
        """Let a stream wait."""
        self._call("wait for an event", self._cuda.cuStreamWaitEvent, stream, event, 0)

    def wait_host(self, event: Any) -> None:
        """Wait for an event."""
        self._call("run", self._cuda.cuEventSynchronize, event)

    def capture(self, stream: int, enqueue: Callable[[], bool]) -> Any | None:
        """Capture in this thread's mode, so that other threads may allocate meanwhile."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with self._context:
            self._checked("begin a capture", self._cuda.cuStreamBeginCapture, stream, mode)
            accepted = False
            try:
                accepted = enqueue()
            finally:
                error, graph = self._cuda.cuStreamEndCapture(stream)
            if int(error) != 0 or graph is None or int(graph) == 0:
                return None
            try:
                error, executable = self._cuda.cuGraphInstantiate(graph, 0) if accepted else (0, None)
                return executable if int(error) == 0 else None
            finally:
                self._cuda.cuGraphDestroy(graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Launch a graph."""
        self._call("launch a graph", self._cuda.cuGraphLaunch, graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Destroy a graph."""
        self._call("free a graph", self._cuda.cuGraphExecDestroy, graph)

    def close(self) -> None:
        """Free what is left of memory, and let the primary context go when no one else holds it."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(BackendError):  # after a failure on the device every call fails
            with self._context:
                for address in [*self._allocated]:
                    self._cuda.cuMemFree(address)
                for address in self._pinned.values():
                    self._cuda.cuMemFreeHost(address)
            self._checked("leave the device", self._cuda.cuDevicePrimaryCtxRelease, self._device)
        self._allocated.clear()
        self._pinned.clear()

    def _attribute(self, name: str) -> int:
        """A device attribute by the end of its name."""
        attribute = getattr(self._cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("describe the device", self._cuda.cuDeviceGetAttribute, attribute, self._device))

    def _call(self, what: str, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """`_checked`, with the context on the thread's stack."""
        with self._context:
            return self._checked(what, function, *arguments)

    def _checked(self, what: str, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """The value of a call, without its status; raises BackendError unless that is success."""
        try:
            error, *values = function(*arguments)
        except RuntimeError as missing:  # the driver's library, or a function that an older driver lacks
            raise _failed(what, str(missing)) from missing
        if int(error) != 0:
            _, text = self._cuda.cuGetErrorString(error)
            raise _failed(what, text.decode() if isinstance(text, bytes) else str(text))
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)

    def load_kernels(self, source: str, names: Sequence[str]) -> list[Any]:
        """Compile by NVRTC, load by the driver API."""
        image = cuda_kernels.compile_cuda(source, self.gpu().sm)
        with self._context:
            return cuda_kernels.load_kernels(image, names)

    def launch_kernel(self, kernel: Any, grid: int, block: int, argument: bytes, stream: int) -> None:
        """Launch by the driver API."""
        with self._context:
            cuda_kernels.launch_kernel(kernel, grid, block, argument, stream)


def _failed(what: str, reason: str) -> BackendError:
    return BackendError(
        f"CUDA could not {what}: {reason.rstrip('.')}.",
        "Choose a smaller batch size, or free the memory that others hold."
        if "memory" in reason
        else "Check with nvidia-smi that the driver runs and is recent enough for the installed CUDA.",
    )


def _check_version(driver: int) -> None:
    """Refuse bindings that the driver is too old for, and those that block every thread while one waits.

    Bindings before 12.9.1 hold Python's lock in every call. They are accepted, with a warning, where the driver is
    older than CUDA 12.9, since a board's maker may offer no others (cuda-python 12.6.2.post1 on JetPack 6.2).
    """
    versions = installed_versions(("cuda-bindings", "cuda-python"))
    if not versions:
        return
    package, text = next(iter(versions.items()))
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    found = f"{package} {text} with a driver for CUDA {version_text(driver)}"
    if version[0] > driver // 1000:
        raise BackendError(f"This is {found}, and that driver wants cuda-bindings 12.", f"{_INSTALL_CUDA_12}.")
    if version >= _RELEASES_GIL:
        return
    problem = f"This is {found}: before 12.9.1 every call, waits included, stops all threads of Python."
    if driver >= 12090:
        raise BackendError(problem, f"{_INSTALL_CUDA_12}.")
    _logger.warning("%s Better: %s.", problem, _INSTALL_CUDA_12)
