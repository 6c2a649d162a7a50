"""The runner of engines over a kernel of ours in an engine's place, on GPUs that TensorRT cannot be had for.

The kernel keeps TensorRT's rules: work goes on the stream it is given, addresses and shapes belong to a context, and
all contexts share scratch memory. It signs that memory, works for a while, and looks whether its signature is still
there. Two runs at once, or one that begins before its inputs have arrived, give wrong numbers.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, clocked, skipped, timed
from tbps_infer.runners.protocol import TensorSpec
from tbps_infer.tensorrt.device_memory import DeviceMemory, device_of, open_memory
from tbps_infer.tensorrt.flavours import FLAVOURS
from tbps_infer.tensorrt.library import REQUIRED_API, Library
from tbps_infer.tensorrt.runner import TensorRTRunner
from tbps_infer.tensorrt.session import EngineSession

__all__ = ["ARGUMENT", "SOURCE", "facts", "reference", "runner_facts"]

SOURCE = r"""
struct Run {
    const unsigned char* pixels;
    float* out;
    unsigned* scratch;
    int numbers, dim;
    unsigned signature, spin;
};

extern "C" __global__ void embed(Run run)
{
    const int item = blockIdx.x;
    if (threadIdx.x == 0) {
        run.scratch[item] = run.signature + item;
        __threadfence();
    }
    __syncthreads();
    const long long until = clock64() + run.spin;
    while (clock64() < until) { }
    __shared__ unsigned seen;
    if (threadIdx.x == 0) seen = atomicAdd(&run.scratch[item], 0u);
    __syncthreads();
    for (int d = threadIdx.x; d < run.dim; d += blockDim.x) {
        unsigned sum = 0;  // below 2**24 in the end: exact in float, in whatever order it is added up
        for (int n = 0; n < run.numbers; ++n)
            sum += run.pixels[(long long)item * run.numbers + n] * ((n + d) % 7 + 1);
        run.out[item * run.dim + d] = seen == run.signature + item ? (float)(sum & 0xFFFFFF) : -1.0f;
    }
}
"""
"""The kernel: a block for each item, which sums its pixels with weights that depend on the output's place."""

ARGUMENT = struct.Struct("<QQQiiII")
"""``Run`` as bytes: three addresses, pixels per item, outputs per item, signature, clock cycles to wait."""

_DIM = 64
_MAXIMUM = 32
_SHAPE = (48, 16, 3)
_SPECS = (
    (TensorSpec("pixels", np.dtype(np.uint8), ("batch", *_SHAPE)),),
    (TensorSpec("image_embedding", np.dtype(np.float32), ("batch", _DIM)),),
)
_THREADS = 128
_SPIN = 2_000_000
"""Cycles: about a millisecond, in which a run that begins too early is seen."""


def reference(pixels: NDArray[np.uint8], dim: int = _DIM) -> NDArray[np.float32]:
    """What the kernel gives for pixels uint8 ``[n, …]``: float32 ``[n, dim]``."""
    flat = pixels.reshape(len(pixels), -1).astype(np.int64)
    weights = (np.arange(flat.shape[1])[None, :] + np.arange(dim)[:, None]) % 7 + 1
    sums: NDArray[np.int64] = (flat @ weights.T) & 0xFFFFFF
    return sums.astype(np.float32)


def facts(context: SectionContext) -> Iterator[Fact]:
    """With and without CUDA graphs, at once and slowly: streams of batches, threads, and the host's overhead."""
    if context.on_cpu:
        yield skipped("needs a GPU")
        return
    for graphs in (True, False):
        for spin in (0, _SPIN):
            memory = open_memory(context.device.index)
            memory.has_graphs = memory.has_graphs and graphs
            yield from runner_facts(memory, spin=spin, samples=200 if spin == 0 else 0)


def runner_facts(memory: DeviceMemory, *, spin: int, samples: int) -> Iterator[Fact]:
    """What a runner over the memory does; the runner closes the memory."""
    with device_of(memory):
        (kernel,) = memory.load_kernels(SOURCE, ("embed",))
        engine = _Engine(memory, kernel, spin)
    how: dict[str, Any] = {"graphs": memory.has_graphs, "spin": spin}

    def load() -> EngineSession:
        return EngineSession(_library(), engine, memory, _SPECS)

    with contextlib.closing(TensorRTRunner(_SPECS, {None: load}, memory, description="stand-in")) as runner:
        rng = np.random.default_rng(0)
        batches = [_pixels(rng, int(count)) for count in rng.integers(1, 81, 40)]
        outputs = list(runner.run_stream({"pixels": pixels} for pixels in batches))
        wrong = sum(
            not np.array_equal(output["image_embedding"], reference(pixels))
            for output, pixels in zip(outputs, batches, strict=True)
        )
        yield checked(
            f"{len(batches)} batches in a stream", wrong == 0, wrong=wrong, runner=runner.description, **how
        )
        yield checked("four threads share the runner", _wrong_in_threads(runner) == 0, **how)
        for count in (1, 8, 32) if samples else ():
            feeds = {"pixels": _pixels(rng, count)}
            times = clocked(lambda feeds=feeds: runner.run(feeds), samples, 20)  # type: ignore[misc]
            yield timed(f"one run of {count} items, nothing to compute", times, warm_up=20, **how)


def _wrong_in_threads(runner: TensorRTRunner) -> int:
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            pixels = _pixels(rng, int(rng.integers(1, 33)))
            if not np.array_equal(runner.run({"pixels": pixels})["image_embedding"], reference(pixels)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(wrong)


def _pixels(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (count, *_SHAPE), np.uint8)


def _library() -> Library:
    """A library whose module has the names of TensorRT's and nothing behind them."""
    module = ModuleType("tensorrt")
    vars(module)["__version__"] = "10.3.0"
    for owner, members in REQUIRED_API.items():
        vars(module)[owner] = type(owner, (), {member: member for member in members})
    return Library(module, FLAVOURS["tensorrt"])


class _Engine:
    """What `EngineSession` asks of a deserialised engine."""

    num_io_tensors = 2
    num_optimization_profiles = 1
    device_memory_size_v2 = 4 * _MAXIMUM

    def __init__(self, memory: DeviceMemory, kernel: Any, spin: int) -> None:
        self.memory, self.kernel, self.spin, self.runs = memory, kernel, spin, 0

    def get_tensor_name(self, number: int) -> str:
        return ("pixels", "image_embedding")[number]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name == "pixels" else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="UINT8" if name == "pixels" else "FLOAT")

    def get_tensor_profile_shape(self, _name: str, _profile: int) -> list[tuple[int, ...]]:
        return [(1, *_SHAPE), (_MAXIMUM, *_SHAPE), (_MAXIMUM, *_SHAPE)]

    def create_execution_context(self, _strategy: object) -> _Context:
        return _Context(self)


class _Context:
    """An execution context: a shape, addresses, and the engine's kernel."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._scratch = 0
        self._items = 0
        self._addresses: dict[str, int] = {}

    def set_device_memory(self, address: int, _size: int) -> None:
        self._scratch = address

    def set_input_shape(self, _name: str, shape: Sequence[int]) -> bool:
        self._items = shape[0]
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, _name: str) -> tuple[int, int]:
        return self._items, _DIM

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine = self._engine
        engine.runs += 1
        places = self._addresses["pixels"], self._addresses["image_embedding"], self._scratch
        sizes = int(np.prod(_SHAPE)), _DIM, engine.runs * 100003 % (1 << 31), engine.spin
        engine.memory.launch_kernel(engine.kernel, self._items, _THREADS, ARGUMENT.pack(*places, *sizes), stream)
        return True
