"""Kernels of our own as far as a machine without a GPU can try them: compiled, never launched."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from importlib import import_module, resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tbps_infer.errors import BackendError
from tbps_infer.gallery.search.kernel_queries import GROUP_SIZES
from tbps_infer.tensorrt import cuda_kernels
from tbps_infer.tensorrt.cuda_kernels import compile_cuda, launch_kernel, load_kernels

SOURCE = (resources.files("tbps_infer") / "assets" / "scan" / "scan.cu").read_text(encoding="utf-8")
ARCHITECTURES = (75, 80, 87, 90, 120)


def source_for(dtype: str, groups: int) -> str:
    return f"#define STORED_{dtype}\n#define GROUPS {groups}\n{SOURCE}"


def has_nvrtc() -> bool:
    try:
        import_module("cuda.bindings.nvrtc").nvrtcGetSupportedArchs()
    except (ImportError, RuntimeError):
        return False
    return True


def compiled_by_nvcc(dtype: str, groups: int, architecture: int, folder: Path) -> str:
    """What nvcc says of the registers."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    file = folder / f"{dtype}{groups}.cu"
    file.write_text(source_for(dtype, groups), encoding="utf-8")
    command = [nvcc, "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-o", str(folder / "x.cubin"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def check_registers(told: str, least_blocks: int) -> None:
    """Nothing is spilled, and as many blocks fit as hide the memory's latency."""
    assert set(re.findall(r"(\d+) bytes spill", told)) == {"0"}, told
    scan = told.split("'scan'")[1]
    found = re.search(r"Used (\d+) registers", scan)
    assert found is not None and int(found[1]) * 128 * least_blocks <= 65536


def test_the_source_compiles_without_spilling(tmp_path: Path) -> None:
    check_registers(compiled_by_nvcc("float16", 1, 87, tmp_path), 6)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_no_variant_spills(architecture: int, dtype: str, tmp_path: Path) -> None:
    for groups in GROUP_SIZES:
        least = {1: 6, 4: 4, 8: 3}[groups]
        check_registers(compiled_by_nvcc(dtype, groups, architecture, tmp_path), least)


def test_nvrtc_compiles_it_for_every_device() -> None:
    if not has_nvrtc():
        pytest.skip("NVRTC is not installed")
    assert compile_cuda(source_for("int8", 8), "sm87").startswith(b"\x7fELF")
    assert b".target sm_" in compile_cuda(source_for("float32", 1), "sm999")  # a device of years to come
    with pytest.raises(BackendError, match="NVRTC refused the search's kernel: "):
        compile_cuda("no such language", "sm87")
    with pytest.raises(BackendError, match="compiles nothing for sm30"):
        compile_cuda(SOURCE, "sm30")


def test_a_missing_compiler_or_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError('Failure finding "libnvrtc.so"')

    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", SimpleNamespace(nvrtcGetSupportedArchs=missing))
    with pytest.raises(BackendError, match="The library NVRTC, which compiles the search's kernel, was not found"):
        compile_cuda(SOURCE, "sm87")
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(BackendError, match="needs cuda-bindings"):
        compile_cuda(SOURCE, "sm87")


def test_every_function_that_is_called_exists_in_cuda_bindings() -> None:
    source = Path(cuda_kernels.__file__).read_text(encoding="utf-8")
    called = set(re.findall(r"\b(nvrtc|driver)\.((?:nvrtc|cu)\w+)", source))
    called |= {("nvrtc", f"nvrtcGet{name}{size}") for name in ("ProgramLog", "CUBIN", "PTX") for size in ("", "Size")}
    assert len(called) >= 13
    for module, name in called:
        library = pytest.importorskip(f"cuda.bindings.{module}")
        assert hasattr(library, name), name


def test_a_kernel_gets_the_bytes_of_its_struct(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Any] = []

    def launch(kernel: str, *rest: int) -> tuple[int]:
        *dimensions, shared, stream, parameters, extra = rest
        struct = ctypes.c_void_p.from_address(parameters).value
        launched.append((kernel, dimensions, shared, stream, ctypes.string_at(struct or 0, 12), extra))
        return (0,)

    def find(module: str, name: bytes) -> tuple[int, str | None]:
        return (500, None) if name == b"no" else (0, f"{name.decode()} in {module}")

    driver = SimpleNamespace(
        cuModuleLoadData=lambda image: (0, f"module of {image!r}"),
        cuModuleGetFunction=find,
        cuLaunchKernel=launch,
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    assert load_kernels(b"i", ("scan", "best")) == ["scan in module of b'i'", "best in module of b'i'"]
    launch_kernel("scan", 7, 128, np.arange(3, dtype=np.int32).tobytes(), 77)
    argument = np.arange(3, dtype=np.int32).tobytes()
    assert launched == [("scan", [7, 1, 1, 128, 1, 1], 0, 77, argument, 0)]
    with pytest.raises(BackendError, match="CUDA could not find no: 500"):
        load_kernels(b"i", ("no",))
