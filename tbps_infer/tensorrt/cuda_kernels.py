"""Kernels of our own: compiled by NVRTC for the device at hand, loaded and launched by CUDA's driver API.

Both packages that call CUDA work on the device's primary context, and so does what is here.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from typing import Any

from tbps_infer.errors import BackendError

__all__ = ["compile_cuda", "launch_kernel", "load_kernels"]

_HINT = (
    "Install NVIDIA's compiler library beside cuda-bindings: pip install 'cuda-bindings[all]', or the CUDA toolkit."
)


def compile_cuda(source: str, sm: str) -> bytes:
    """CUDA source, which includes nothing, as what the driver loads on a device of the capability ``sm87``.

    A device that is newer than NVRTC gets PTX of the newest that NVRTC knows, for the driver to translate.

    Raises:
        BackendError: NVRTC is missing, or the source is refused.
    """
    nvrtc = _import("nvrtc")
    try:
        known = _checked("list the architectures", nvrtc.nvrtcGetSupportedArchs())
    except RuntimeError as error:  # cuda-bindings looks for the library at the first call
        raise BackendError("The library NVRTC, which compiles the search's kernel, was not found.", _HINT) from error
    wanted = int(sm.removeprefix("sm"))
    usable = [number for number in known if number <= wanted]
    if not usable:
        raise BackendError(f"NVRTC compiles nothing for {sm}.", "Install the NVRTC of another CUDA version.")
    kind, what = ("sm", "CUBIN") if wanted in usable else ("compute", "PTX")
    program = _checked("begin", nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []))
    try:
        options = [f"--gpu-architecture={kind}_{max(usable)}".encode()]
        if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
            log = _text(nvrtc, program, "ProgramLog").decode(errors="replace").strip("\0\n ")
            raise BackendError(f"NVRTC refused the search's kernel: {log}", _HINT)
        return _text(nvrtc, program, what)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def load_kernels(image: bytes, names: Sequence[str]) -> list[Any]:
    """Kernels of what `compile_cuda` gave, on the calling thread's device; they stay until the process ends."""
    driver = _import("driver")
    module = _checked("load a kernel", driver.cuModuleLoadData(image))
    return [_checked(f"find {name}", driver.cuModuleGetFunction(module, name.encode())) for name in names]


def launch_kernel(kernel: Any, grid: int, block: int, argument: bytes, stream: int) -> None:
    """Put a kernel that takes one struct on a stream."""
    driver = _import("driver")
    held = ctypes.create_string_buffer(argument, len(argument))
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(held))  # read by the call, not later
    result = driver.cuLaunchKernel(kernel, grid, 1, 1, block, 1, 1, 0, stream, ctypes.addressof(pointers), 0)
    _checked("launch a kernel", result)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(f"cuda.bindings.{name}")
    except ImportError as error:
        raise BackendError(f"The search's kernel needs cuda-bindings: {error}.", _HINT) from error


def _text(nvrtc: Any, program: Any, name: str) -> bytes:
    size: int = _checked("tell a size", getattr(nvrtc, f"nvrtcGet{name}Size")(program))
    text = b" " * size
    _checked("tell its result", getattr(nvrtc, f"nvrtcGet{name}")(program, text))
    return text


def _checked(what: str, result: tuple[Any, ...]) -> Any:
    error, *values = result
    if int(error) != 0:
        raise BackendError(
            f"CUDA could not {what}: {getattr(error, 'name', error)}.",
            "Check with nvidia-smi that the driver is recent enough for the installed CUDA.",
        )
    return values[0] if len(values) == 1 else values
