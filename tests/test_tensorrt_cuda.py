"""The CUDA side as far as a machine without a GPU can try it: every name exists, every refusal says what to do."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tbps_infer.errors import BackendError, UsageError
from tbps_infer.tensorrt import cuda_memory, device_memory
from tbps_infer.tensorrt.device_memory import DeviceMemory, find_gpu, open_memory
from tbps_infer.tensorrt.fake_memory import FakeMemory
from tbps_infer.tensorrt.gpus import GpuFacts, version_text

MEMBERS = {name for name in vars(DeviceMemory) if not name.startswith("_")}


def test_every_cuda_function_that_is_called_exists_in_cuda_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    source = Path(cuda_memory.__file__).read_text(encoding="utf-8")
    called = {tuple(name.split(".")) for name in re.findall(r"self\._cuda\.(cuda\w+(?:\.\w+)?)", source)}
    assert len(called) > 20
    for path in called:
        owner = runtime
        for name in path:
            assert hasattr(owner, name), ".".join(path)
            owner = getattr(owner, name)


@pytest.mark.parametrize("module", ["cuda_memory.CudaMemory", "pycuda_memory.PycudaMemory", "fake_memory.FakeMemory"])
def test_every_memory_has_every_member_of_the_protocol(module: str) -> None:
    name, kind = module.split(".")
    cls = getattr(importlib.import_module(f"tbps_infer.tensorrt.{name}"), kind)
    annotated = set(DeviceMemory.__annotations__)
    assert {member for member in MEMBERS - annotated if not callable(getattr(cls, member, None))} == set()
    assert "close" in MEMBERS


def test_without_a_driver_cuda_bindings_says_what_is_missing() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match=r"CUDA could not count the devices: .*driver") as caught:
        open_memory(0)
    assert "nvidia-smi" in caught.value.hint
    assert find_gpu() is None


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


def test_gpus_have_names_for_folders_and_versions_are_read() -> None:
    orin = GpuFacts("Orin (nvgpu)", "sm87", 8 << 30, 1 << 30, "12.6", "12.6")
    assert orin.label == "orin-nvgpu-sm87"
    assert GpuFacts.from_json(orin.to_json()) == orin
    assert orin.same_kind(GpuFacts("Orin (nvgpu)", "sm87", 0, 0, "13.0", "13.0"))
    assert not orin.same_kind(GpuFacts("Orin (nvgpu)", "sm89", 8 << 30, 1 << 30, "12.6", "12.6"))
    assert [version_text(number) for number in (12060, 13000, 11080)] == ["12.6", "13.0", "11.8"]
    assert FakeMemory(gpu=orin).gpu() == orin
