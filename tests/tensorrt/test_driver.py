"""cuda-bindings over a driver in Python: the installed package checks the arguments of every call."""

from __future__ import annotations

import ctypes
import itertools
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt import cuda_memory
from tbps_infer.tensorrt.cuda_memory import CudaMemory
from tbps_infer.tensorrt.device_memory import device_of, open_memory
from tbps_infer.tensorrt.thread_context import ThreadContext

real = pytest.importorskip("cuda.bindings.driver")

NO_CONTEXT = {"cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDevicePrimaryCtxRetain"}
NO_CONTEXT |= {"cuDevicePrimaryCtxRelease", "cuCtxPushCurrent", "cuCtxPopCurrent", "cuGetErrorString"}


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class Driver:
    """The module `cuda.bindings.driver` of a machine with one Orin NX and CUDA 12.6.

    Attributes:
        held: How many of each kind were made and not given back.
        broken: Calls that fail, by name, with the result.
    """

    CUDA_VERSION = 12090

    def __init__(self, version: int = 12060) -> None:
        self.version = version
        self.held: Counter[str] = Counter()
        self.broken: dict[str, int] = {}
        self.contexts: Counter[int] = Counter()
        self._buffers: dict[int, Any] = {}
        self._numbers = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu") or name == "cuGetErrorString":
            return getattr(real, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            if not has_driver():  # with one, it would work on addresses that are none
                with pytest.raises(RuntimeError):  # any other error says that an argument does not fit
                    getattr(real, name)(*arguments)
            if name not in NO_CONTEXT:
                assert self.contexts[threading.get_ident()] == 1, f"{name} without a context"
            if name in self.broken:
                return (real.CUresult(self.broken[name]), *[None] * (self._returned(name) - 1))
            value = getattr(self, f"_{name}", lambda *_: ())(*arguments)
            values = value if isinstance(value, tuple) else (value,)
            assert len(values) + 1 == self._returned(name), name
            return (real.CUresult.CUDA_SUCCESS, *values)

        return call

    @staticmethod
    def _returned(name: str) -> int:
        """How many values a function gives, by its documentation."""
        documented = getattr(real, name).__doc__.partition("Returns\n")[2].partition("See Also")[0]
        return len(re.findall(r"^ *(?:CUresult$|\w+ : )", documented, re.MULTILINE))

    def cuGetErrorString(self, error: Any) -> tuple[Any, bytes]:  # noqa: N802
        return real.CUresult.CUDA_SUCCESS, f"{error.name} in words".encode()

    def _cuDriverGetVersion(self) -> int:  # noqa: N802
        return self.version

    def _cuDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def _cuDeviceGet(self, index: int) -> Any:  # noqa: N802
        return real.CUdevice(index)

    def _cuDeviceGetName(self, length: int, _device: Any) -> bytes:  # noqa: N802
        return b"Orin".ljust(length, b"\0")

    def _cuDeviceGetAttribute(self, attribute: Any, _device: Any) -> int:  # noqa: N802
        kinds = real.CUdevice_attribute
        return {
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: 8,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: 7,
            kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: 8,
            kinds.CU_DEVICE_ATTRIBUTE_INTEGRATED: 1,
        }[attribute]

    def _cuDevicePrimaryCtxRetain(self, _device: Any) -> Any:  # noqa: N802
        return self._made("context", real.CUcontext)

    def _cuDevicePrimaryCtxRelease(self, _device: Any) -> tuple[()]:  # noqa: N802
        return self._gone("context")

    def _cuCtxPushCurrent(self, _context: Any) -> tuple[()]:  # noqa: N802
        self.contexts[threading.get_ident()] += 1
        return ()

    def _cuCtxPopCurrent(self) -> Any:  # noqa: N802
        self.contexts[threading.get_ident()] -= 1
        return real.CUcontext(1)

    def _cuMemGetInfo(self) -> tuple[int, int]:  # noqa: N802
        return 1 << 30, 15 << 30

    def _cuMemAlloc(self, size: int) -> Any:  # noqa: N802
        return real.CUdeviceptr(self._buffer("device", size))

    def _cuMemFree(self, _address: int) -> tuple[()]:  # noqa: N802
        return self._gone("device")

    def _cuMemHostAlloc(self, size: int, _flags: int) -> int:  # noqa: N802
        return self._buffer("host", size)

    def _cuMemFreeHost(self, _address: int) -> tuple[()]:  # noqa: N802
        return self._gone("host")

    def _cuStreamCreate(self, flags: int) -> Any:  # noqa: N802
        assert flags == 1
        return self._made("stream", real.CUstream)

    def _cuStreamDestroy(self, _stream: int) -> tuple[()]:  # noqa: N802
        return self._gone("stream")

    def _cuMemcpyHtoDAsync(self, to: int, source: int, size: int, _stream: int) -> tuple[()]:  # noqa: N802
        ctypes.memmove(to, source, size)
        return ()

    def _cuMemcpyDtoHAsync(self, to: int, source: int, size: int, _stream: int) -> tuple[()]:  # noqa: N802
        ctypes.memmove(to, source, size)
        return ()

    def _cuEventCreate(self, flags: int) -> Any:  # noqa: N802
        assert flags in (0, 2)
        return self._made("event", real.CUevent)

    def _cuEventDestroy(self, _event: Any) -> tuple[()]:  # noqa: N802
        return self._gone("event")

    def _cuEventElapsedTime(self, _start: Any, _end: Any) -> float:  # noqa: N802
        return 1.5

    def _cuStreamEndCapture(self, _stream: int) -> Any:  # noqa: N802
        return self._made("graph", real.CUgraph)

    def _cuGraphDestroy(self, _graph: Any) -> tuple[()]:  # noqa: N802
        return self._gone("graph")

    def _cuGraphInstantiate(self, _graph: Any, flags: int) -> Any:  # noqa: N802
        assert flags == 0
        return self._made("executable", real.CUgraphExec)

    def _cuGraphExecDestroy(self, _graph: Any) -> tuple[()]:  # noqa: N802
        return self._gone("executable")

    def _buffer(self, kind: str, size: int) -> int:
        self.held[kind] += 1
        buffer = ctypes.create_string_buffer(size)
        self._buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def _made(self, kind: str, handle: Any) -> Any:
        self.held[kind] += 1
        return handle(next(self._numbers))

    def _gone(self, kind: str) -> tuple[()]:
        self.held[kind] -= 1
        assert self.held[kind] >= 0
        return ()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    use_version(monkeypatch, "12.9.10")
    yield driver
    assert +driver.contexts == Counter(), "a thread's stack was left with a context"


def use_version(monkeypatch: pytest.MonkeyPatch, version: str, package: str = "cuda-bindings") -> None:
    monkeypatch.setattr(cuda_memory, "installed_versions", lambda _names: {package: version})


def test_every_call_fits_the_bindings_and_all_is_given_back_in_any_thread(driver: Driver) -> None:
    memory = CudaMemory(0)
    assert driver.held["context"] == 1

    def there_and_back() -> None:
        address, stream = memory.allocate(100), memory.make_stream()
        pinned = memory.pinned(100)
        pinned[:] = content = np.arange(100, dtype=np.uint8)
        memory.copy_to_device(address, pinned, stream)
        pinned[:] = 0
        memory.copy_to_host(pinned, address, stream)
        memory.synchronize(stream)
        np.testing.assert_array_equal(pinned, content)
        start, end, event = memory.make_timer(), memory.make_timer(), memory.make_event()
        memory.record(event, stream)
        memory.wait_event(event, stream)
        memory.wait_host(event)
        assert memory.elapsed_ms(start, end) == 1.5
        graph = memory.capture(stream, lambda: True)
        memory.launch(graph, stream)
        memory.free_graph(graph)
        for each in (start, end, event):
            memory.free_event(each)
        memory.free_stream(stream)
        memory.free_pinned(pinned)
        memory.free(address)

    there_and_back()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(there_and_back).result()
    with device_of(memory), device_of(memory):
        there_and_back()
    assert +driver.held == Counter(context=1)
    memory.allocate(10)
    memory.pinned(10)
    memory.close()
    memory.close()
    assert +driver.held == Counter()


def test_a_capture_that_fails_gives_none_and_keeps_nothing(driver: Driver) -> None:
    memory = CudaMemory(0)
    stream = memory.make_stream()
    assert memory.capture(stream, lambda: False) is None
    driver.broken = {"cuGraphInstantiate": 1}
    assert memory.capture(stream, lambda: True) is None
    driver.broken = {"cuStreamEndCapture": 901}
    assert memory.capture(stream, lambda: True) is None
    assert +driver.held == Counter(context=1, stream=1)
    memory.close()


def test_what_cuda_refuses_is_told_in_its_words(driver: Driver) -> None:
    memory = CudaMemory(0)
    driver.broken = {"cuMemAlloc": 2}
    with pytest.raises(BackendError, match=r"CUDA could not allocate 7 bytes: CUDA_ERROR_OUT_OF_MEMORY in words\."):
        memory.allocate(7)
    memory.close()
    with pytest.raises(BackendError, match="There is no device cuda:1; this machine has 1"):
        CudaMemory(1)
    assert +driver.held == Counter()


@pytest.mark.usefixtures("driver")
def test_an_orin_is_named_by_its_size_and_its_free_memory_is_the_kernels() -> None:
    memory = CudaMemory(0)
    gpu = memory.gpu()
    assert (gpu.name, gpu.sm, gpu.multiprocessors) == ("Jetson Orin NX 16GB", "sm87", 8)
    assert (gpu.driver, gpu.runtime) == ("12.6", "12.9")
    assert gpu.free_bytes != 1 << 30
    memory.close()


@pytest.mark.parametrize(
    ("version", "driver_version", "refused"),
    [
        ("12.9.1", 12060, None),
        ("12.9.10", 13000, None),
        ("13.5.0", 13000, None),
        ("13.5.0", 12060, "cuda-bindings 13.5.0 with a driver for CUDA 12.6, and that driver wants cuda-bindings 12"),
        ("12.9.0", 12090, "cuda-bindings 12.9.0 with a driver for CUDA 12.9: before 12.9.1 every call"),
    ],
)
def test_bindings_that_do_not_suit_the_driver_are_refused(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, version: str, driver_version: int, refused: str | None
) -> None:
    use_version(monkeypatch, version)
    driver.version = driver_version
    if refused is None:
        CudaMemory(0).close()
        return
    with pytest.raises(BackendError, match=refused) as caught:
        open_memory(0, "cuda-bindings")
    assert caught.value.hint == "pip install 'cuda-bindings>=12.9.1,<13'."


def test_old_bindings_are_told_of_where_an_old_driver_has_no_others(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_version(monkeypatch, "12.6.2.post1", "cuda-python")
    CudaMemory(0).close()
    assert "cuda-python 12.6.2.post1 with a driver for CUDA 12.6: before 12.9.1" in caplog.text
    assert driver.version == 12060


def test_a_context_is_pushed_by_the_outermost_block_of_a_thread_only() -> None:
    calls: list[str] = []
    context = ThreadContext(lambda: calls.append("push"), lambda: calls.append("pop"))
    with context, context:
        assert calls == ["push"]
    assert calls == ["push", "pop"]
