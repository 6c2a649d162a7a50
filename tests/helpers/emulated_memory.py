"""A fake GPU that runs CUDA kernels: their source, compiled as C++ (emulated_gpu.h), late and in a stream's order."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_memory import FakeMemory
from numpy.typing import NDArray

__all__ = ["EmulatedMemory"]

_RUN = """
extern "C" void run(const char* name, unsigned grid, unsigned block, const void* argument)
{
    if (!std::strcmp(name, "scan"))
        run_grid([](const void* of) { scan(*static_cast<const Scan*>(of)); }, grid, block, argument);
    else
        run_grid([](const void* of) { select_best(*static_cast<const Select*>(of)); }, grid, block, argument);
}
extern "C" unsigned size(const char* name) { return std::strcmp(name, "scan") ? sizeof(Select) : sizeof(Scan); }
"""


class EmulatedMemory(FakeMemory):
    """Addresses are the host's own, so that copies may begin inside of what was allocated.

    Attributes:
        kernels: Names of the kernels launched so far, in order.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kernels: list[str] = []

    def allocate(self, size: int) -> int:
        """New bytes, full of 0xA5, which a kernel can reach; on a boundary as CUDA's are."""
        super().free(super().allocate(size))  # refuses what is too much
        whole = np.full(size + 256, 0xA5, np.uint8)
        start = -whole.ctypes.data % 256
        block = whole[start : start + max(size, 1)]
        self._blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy when the time comes, what the array holds then."""
        there = self._part(address, array.nbytes)

        def work() -> None:
            self.copied_to_device += array.nbytes
            there[:] = array.view(np.uint8).reshape(-1)

        self.put(stream, work)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy when the time comes."""
        there, here = self._part(address, array.nbytes), array.view(np.uint8).reshape(-1)
        self.put(stream, lambda: here.__setitem__(slice(None), there))

    def load_kernels(self, source: str, names: Sequence[str]) -> list[Any]:
        """Compile as C++, once per test session."""
        return [(name, _compiled(source)) for name in names]

    def launch_kernel(self, kernel: Any, grid: int, block: int, argument: bytes, stream: int) -> None:
        """Run when the time comes, with the argument as it is now."""
        name, library = kernel
        assert len(argument) == library.size(name.encode())
        self.kernels.append(name)
        self.put(stream, lambda: library.run(name.encode(), grid, block, argument))

    def _part(self, address: int, size: int) -> NDArray[np.uint8]:
        for start, block in self._blocks.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address} were not allocated")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tbps-emulated-")


@functools.cache
def _compiled(source: str) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        told = "NO C++ COMPILER (g++ or clang++): THE SEARCH'S KERNEL IS NOT TESTED."
        print(told, file=sys.__stderr__)
        pytest.skip(told)
    file = Path(_folder().name) / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.cpp"
    file.write_text(f'#include "emulated_gpu.h"\n{source}\n{_RUN}', encoding="utf-8")
    made = file.with_suffix(".so")
    command = [
        compiler,
        "-std=c++17",
        "-O2",
        "-shared",
        "-fPIC",
        "-w",
        "-U_FORTIFY_SOURCE",
        "-I",
        str(Path(__file__).parent),
    ]
    subprocess.run([*command, "-o", str(made), str(file)], check=True)
    library = ctypes.CDLL(str(made))
    library.run.argtypes = [ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_char_p]
    library.size.argtypes = [ctypes.c_char_p]
    return library
