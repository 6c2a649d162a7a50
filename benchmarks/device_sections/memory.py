"""Device memory, streams, events, timers and graphs, for every package that calls CUDA and is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, skipped
from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.device_memory import MEMORY_KINDS, DeviceMemory, device_of, open_memory

__all__ = ["facts", "memory_facts"]

_BYTES = 4 << 20
_ALLOCATIONS = 200
_ALLOCATED = 64 << 20


def facts(context: SectionContext) -> Iterator[Fact]:
    """`memory_facts` of every kind of memory that opens."""
    if context.on_cpu:
        yield skipped("needs a GPU")
        return
    opened = 0
    for kind in MEMORY_KINDS:
        try:
            memory = open_memory(context.device.index, kind)
        except BackendError as error:
            yield {"memory": kind, "skipped": error.message}
            continue
        opened += 1
        with contextlib.closing(memory), device_of(memory):
            yield {"memory": kind, "gpu": asdict(memory.gpu())}
            for fact in memory_facts(memory):
                yield {"memory": kind, **fact}
    yield checked("a package that calls CUDA opens", opened > 0)


def memory_facts(memory: DeviceMemory) -> Iterator[Fact]:
    """Every call of the protocol, on a device that is the calling thread's own."""
    address, pinned, stream = memory.allocate(_BYTES), memory.pinned(_BYTES), memory.make_stream()
    wanted = np.random.default_rng(0).integers(0, 256, _BYTES, np.uint8)

    def returns() -> bool:
        """Whether bytes come back from the device as they were sent."""
        pinned[:] = wanted
        memory.copy_to_device(address, pinned, stream)
        memory.synchronize(stream)
        pinned[:] = 0
        memory.copy_to_host(pinned, address, stream)
        memory.synchronize(stream)
        return bool((pinned == wanted).all())

    yield checked("bytes are copied there and back", returns())
    yield from _timers(memory, address, pinned, stream)
    yield from _order_of_streams(memory, address, pinned, wanted, stream)
    if memory.has_graphs:
        yield from _graphs(memory, address, pinned, stream)
        yield checked("the stream works after a capture that failed", returns())
    free = memory.gpu().free_bytes
    for _ in range(_ALLOCATIONS):
        memory.free(memory.allocate(_ALLOCATED))
    yield checked("memory that is freed is free", free - memory.gpu().free_bytes < _ALLOCATED)
    memory.free_stream(stream)
    memory.free_pinned(pinned)
    memory.free(address)


def _timers(memory: DeviceMemory, address: int, pinned: np.ndarray, stream: int) -> Iterator[Fact]:
    start, end = memory.make_timer(), memory.make_timer()
    memory.record(start, stream)
    memory.copy_to_device(address, pinned, stream)
    memory.record(end, stream)
    memory.wait_host(end)
    took = memory.elapsed_ms(start, end)
    yield checked("timers measure a copy", took > 0, ms=took, gbytes_per_s=_BYTES / took / 1e6 if took > 0 else None)
    memory.free_event(start)
    memory.free_event(end)


def _order_of_streams(
    memory: DeviceMemory, address: int, pinned: np.ndarray, wanted: np.ndarray, stream: int
) -> Iterator[Fact]:
    """A second stream that waits for the first one's event reads what the first one wrote."""
    other, event = memory.make_stream(), memory.make_event()
    result = memory.pinned(_BYTES)
    result[:] = 0
    pinned[:] = wanted[::-1]
    memory.copy_to_device(address, pinned, stream)
    memory.record(event, stream)
    memory.wait_event(event, other)
    memory.copy_to_host(result, address, other)
    memory.synchronize(other)
    yield checked("a stream waits for another one's event", bool((result == wanted[::-1]).all()))
    memory.free_pinned(result)
    memory.free_event(event)
    memory.free_stream(other)


def _graphs(memory: DeviceMemory, address: int, pinned: np.ndarray, stream: int) -> Iterator[Fact]:
    def copy() -> bool:
        memory.copy_to_device(address, pinned, stream)
        return True

    graph = memory.capture(stream, copy)
    if graph is not None:
        memory.launch(graph, stream)
        memory.synchronize(stream)
        memory.free_graph(graph)
    yield checked("a copy is captured and launched", graph is not None)

    def refused() -> bool:
        with contextlib.suppress(BackendError):  # CUDA forbids waiting in a capture, and ends it
            memory.synchronize(stream)
        return True

    broken = memory.capture(stream, refused)
    yield checked("a capture that CUDA breaks off answers None", broken is None)
    if broken is not None:
        memory.free_graph(broken)
