"""The CUDA side as far as a machine without a GPU can try it: every name exists, every refusal says what to do."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from fake_memory import FakeMemory
from no_driver import without_driver
from numpy.typing import NDArray
from text_files import write_files

from tbps_infer.errors import BackendError, UsageError
from tbps_infer.tensorrt import cuda_memory, device_memory, pycuda_memory
from tbps_infer.tensorrt.cuda_memory import CudaMemory
from tbps_infer.tensorrt.device_memory import DeviceMemory, device_of, find_gpu, open_memory
from tbps_infer.tensorrt.gpus import DeviceAttributes, GpuFacts, version_text
from tbps_infer.tensorrt.pycuda_memory import PycudaMemory

MEMBERS = {name for name in vars(DeviceMemory) if not name.startswith("_")}


def test_every_cuda_function_that_is_called_exists_in_cuda_bindings() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    source = Path(cuda_memory.__file__).read_text(encoding="utf-8")
    called = {tuple(name.split(".")) for name in re.findall(r"self\._cuda\.([cC][uU]\w+(?:\.\w+)?)", source)}
    assert len(called) > 20
    for path in called:
        owner = driver
        for name in path:
            assert hasattr(owner, name), ".".join(path)
            owner = getattr(owner, name)


@pytest.mark.parametrize("memory", [CudaMemory, PycudaMemory, FakeMemory])
def test_every_memory_has_every_member_of_the_protocol(memory: type) -> None:
    annotated = set(DeviceMemory.__annotations__)
    assert {member for member in MEMBERS - annotated if not callable(getattr(memory, member, None))} == set()
    assert "close" in MEMBERS


def test_without_a_driver_cuda_bindings_says_what_is_missing() -> None:
    pytest.importorskip("cuda.bindings.driver")
    with without_driver(), pytest.raises(BackendError, match=r"CUDA could not count the devices: .*driver") as caught:
        open_memory(0)
    assert "nvidia-smi" in caught.value.hint
    with without_driver():
        assert find_gpu() is None


Result = TypeVar("Result")


class DriverError(Exception):
    """pycuda.driver.Error."""


class Pycuda:
    """pycuda.driver as documented: a stack of contexts for each thread, and nothing without one on it."""

    Error = DriverError
    event_flags = SimpleNamespace(DISABLE_TIMING=2)
    device_attribute = SimpleNamespace(MULTIPROCESSOR_COUNT="multiprocessors", INTEGRATED="integrated")

    def __init__(self) -> None:
        self.stacks: dict[int, list[object]] = {}
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.queue: list[Callable[[], None]] = []
        module = self

        class Context:
            def push(self) -> None:
                module.stack.append(self)

            @staticmethod
            def pop() -> None:
                module.stack.pop()

        class Device:
            def __init__(self, index: int) -> None:
                self.index = index

            @staticmethod
            def count() -> int:
                return 2

            def retain_primary_context(self) -> Context:
                return Context()

            def compute_capability(self) -> tuple[int, int]:
                return 8, 7

            def name(self) -> str:
                return f"Orin {self.index}"

            def get_attribute(self, attribute: str) -> int:
                return {"multiprocessors": 8, "integrated": 0}[attribute]

        class Stream:
            handle = 77

            def __init__(self, flags: int) -> None:
                module.need()
                assert flags == 1

            def synchronize(self) -> None:
                module.need()
                while module.queue:
                    module.queue.pop(0)()

        self.Context, self.Device, self.Stream = Context, Device, Stream

    @property
    def stack(self) -> list[object]:
        return self.stacks.setdefault(threading.get_ident(), [])

    def need(self) -> None:
        if not self.stack:
            raise DriverError("cuMem failed: invalid device context")

    def init(self) -> None: ...

    def mem_get_info(self) -> tuple[int, int]:
        self.need()
        return 1 << 30, 8 << 30

    def get_driver_version(self) -> int:
        return 12060

    def get_version(self) -> tuple[int, int, int]:
        return 12, 6, 0

    def mem_alloc(self, size: int) -> Any:
        self.need()
        if size > 1 << 20:
            raise DriverError("cuMemAlloc failed: out of memory")
        module, address = self, 1000 + len(self.blocks)
        self.blocks[address] = np.zeros(size, np.uint8)

        class Allocation:
            def __int__(self) -> int:
                return address

            def free(self) -> None:
                module.need()
                del module.blocks[address]

        return Allocation()

    def pagelocked_empty(self, size: int, dtype: type) -> NDArray[Any]:
        self.need()
        return np.empty(size, dtype)

    def memcpy_htod_async(self, to: int, array: NDArray[Any], stream: object) -> None:
        assert isinstance(stream, self.Stream)
        self.need()
        self.queue.append(lambda: self.blocks[to].__setitem__(slice(array.nbytes), array))

    def memcpy_dtoh_async(self, array: NDArray[Any], source: int, stream: object) -> None:
        assert isinstance(stream, self.Stream)
        self.need()
        self.queue.append(lambda: array.__setitem__(slice(None), self.blocks[source][: array.nbytes]))


def in_a_thread(work: Callable[[], Result]) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_pycuda_leaves_no_context_on_a_thread_that_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It aborts the process when a thread ends with one."""
    driver = Pycuda()
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(device_memory, "_installed", lambda _module: True)

    def leftovers() -> list[object]:
        return [context for stack in driver.stacks.values() for context in stack]

    memory = in_a_thread(lambda: open_memory(1, "pycuda"))
    assert leftovers() == []
    facts = GpuFacts("Orin 1", "sm87", 8 << 30, 1 << 30, "12.6", "12.6", 8)
    assert in_a_thread(memory.gpu) == memory.gpu() == facts
    content = np.arange(100, dtype=np.uint8)

    def there_and_back() -> NDArray[np.uint8]:
        with device_of(memory), device_of(memory):
            assert len(driver.stack) == 1
            address, stream = memory.allocate(100), memory.make_stream()
            pinned: NDArray[np.uint8] = memory.pinned(100)
            pinned[:] = content
            memory.copy_to_device(address, pinned, stream)
            memory.synchronize(stream)
            pinned[:] = 0
            memory.copy_to_host(pinned, address, stream)
            memory.synchronize(stream)
        return pinned

    np.testing.assert_array_equal(in_a_thread(there_and_back), content)
    assert leftovers() == []
    with pytest.raises(BackendError, match="could not allocate 2097152 bytes: cuMemAlloc failed: out of memory"):
        memory.allocate(2 << 20)
    assert len(driver.blocks) == 1
    memory.close()
    memory.close()
    assert (driver.blocks, leftovers()) == ({}, [])


def test_packages_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "_installed", lambda _module: False)
    with pytest.raises(BackendError, match="cuda-bindings or pycuda, which is not installed"):
        open_memory(0)
    with pytest.raises(BackendError, match="needs the package pycuda, which is not installed"):
        open_memory(0, "pycuda")
    with pytest.raises(UsageError, match="'cupy' is not known"):
        open_memory(0, "cupy")  # type: ignore[arg-type]
    monkeypatch.setattr(device_memory, "_installed", lambda _module: True)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendError, match="pycuda cannot be imported"):
        open_memory(0, "pycuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(BackendError, match="cuda-bindings cannot be imported"):
        open_memory(0)


class Opened:
    """A memory that opens where it was not told to fail."""

    name = "pycuda"

    def __init__(self, index: int) -> None:
        self.index = index


@pytest.fixture
def broken_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages are installed, and cuda-bindings does not open."""

    def fail(_index: int) -> None:
        raise BackendError("CUDA could not start: error 35.", "Install another.")

    monkeypatch.setattr(device_memory, "_installed", lambda _module: True)
    monkeypatch.setattr(cuda_memory, "CudaMemory", fail)
    monkeypatch.setattr(pycuda_memory, "PycudaMemory", Opened)


@pytest.mark.usefixtures("broken_bindings")
def test_the_second_memory_is_tried_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert open_memory(0).name == "pycuda (since cuda-bindings failed)"
    assert (
        "pycuda is used, since cuda-bindings failed: CUDA could not start: error 35. Install another." in caplog.text
    )
    assert open_memory(0, "pycuda").name == "pycuda"
    with pytest.raises(BackendError, match="error 35"):  # what was asked for is not replaced
        open_memory(0, "cuda-bindings")


@pytest.mark.usefixtures("broken_bindings")
def test_when_no_memory_opens_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_index: int) -> None:
        raise BackendError("pycuda cannot be imported: no headers.")

    monkeypatch.setattr(pycuda_memory, "PycudaMemory", fail)
    with pytest.raises(BackendError, match=r"error 35\. pycuda cannot be imported: no headers\.") as caught:
        open_memory(0)
    assert caught.value.hint == "Install another."
    assert find_gpu() is None


@pytest.mark.parametrize(
    ("multiprocessors", "gib", "name"),
    [
        (4, 3.4, "Jetson Orin Nano 4GB"),
        (8, 7.4, "Jetson Orin Nano or NX 8GB"),
        (8, 15.3, "Jetson Orin NX 16GB"),
        (14, 29.9, "Jetson AGX Orin 32GB"),
        (16, 61.4, "Jetson AGX Orin 64GB"),
        (16, 29.9, "Orin"),  # none that is known
    ],
)
def test_boards_of_one_name_are_told_apart(tmp_path: Path, multiprocessors: int, gib: float, name: str) -> None:
    write_files(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\nMemFree:  1000 kB\nMemAvailable:  5000 kB\n"})
    memory = (1 << 20, int(gib * (1 << 30)))
    found = DeviceAttributes("Orin", (8, 7), multiprocessors, True, memory).interpreted(12060, "12.9", tmp_path)
    assert (found.name, found.free_bytes, found.memory_bytes) == (name, 5000 * 1024, memory[1])
    assert found.multiprocessors == multiprocessors


def test_a_card_with_memory_of_its_own_keeps_its_name_and_cudas_figures(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/meminfo": "MemAvailable:  5000 kB\n"})
    attributes = DeviceAttributes("NVIDIA L4", (8, 9), 58, False, (20 << 30, 22 << 30))
    assert attributes.interpreted(13000, "13.5", tmp_path) == GpuFacts(
        "NVIDIA L4", "sm89", 22 << 30, 20 << 30, "13.0", "13.5", 58
    )


def test_engines_of_a_larger_board_are_another_kind() -> None:
    small = GpuFacts("Orin", "sm87", 8 << 30, 1 << 30, "12.6", "12.6", 8)
    assert not small.same_kind(replace(small, multiprocessors=16))


def test_gpus_have_names_for_folders_and_versions_are_read() -> None:
    orin = GpuFacts("Orin (nvgpu)", "sm87", 8 << 30, 1 << 30, "12.6", "12.6")
    assert orin.label == "orin-nvgpu-sm87"
    assert GpuFacts.from_json(asdict(orin)) == orin
    assert orin.same_kind(GpuFacts("Orin (nvgpu)", "sm87", 0, 0, "13.0", "13.0"))
    assert not orin.same_kind(GpuFacts("Orin (nvgpu)", "sm89", 8 << 30, 1 << 30, "12.6", "12.6"))
    assert [version_text(number) for number in (12060, 13000, 11080)] == ["12.6", "13.0", "11.8"]
    assert FakeMemory(gpu=orin).gpu() == orin
