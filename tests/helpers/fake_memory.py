"""Device memory in numpy, for tests on the CPU: late as a GPU is, so that a missing wait shows as a wrong number.

Work put on a stream is only noted down. `synchronize` and `wait_host` do it, in the stream's order, and before an
event's waiters what the event waits for; a graph is a list of such work. Whoever reads a result too early reads what
was there before, and whoever changes an array too early has the change copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.gpus import GpuFacts

__all__ = ["FakeMemory"]

_Work = Callable[[], None]

_GPU = GpuFacts("Fake GPU", "sm86", 8 << 30, 6 << 30, "12.6", "12.6")


class FakeMemory:
    """See `tbps_infer.tensorrt.device_memory.DeviceMemory`.

    Args:
        capacity: Bytes on the device; more than that is not allocated.
        gpu: What it says that it is.
        has_graphs: Whether it captures.

    Attributes:
        copied_to_device: Bytes copied so far.
        launches: Graphs launched so far.
        captures: Captures begun so far.
        most_busy: The greatest number of streams that had work at the same time.
        closed: Whether `close` was called.
        current: How many `make_current` were not undone.
        device_ms: The device's clock: each piece of work done moves it on by what it was put there with.
    """

    name = "numpy"

    def __init__(self, *, capacity: int = 1 << 32, gpu: GpuFacts = _GPU, has_graphs: bool = True) -> None:
        self.has_graphs = has_graphs
        self.copied_to_device = 0
        self.launches = 0
        self.captures = 0
        self.most_busy = 0
        self.closed = False
        self.current = 0
        self.device_ms = 0.0
        self._facts = gpu
        self._capacity = capacity
        self._next = 4096
        self._blocks: dict[int, NDArray[np.uint8]] = {}
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._queues: dict[int, list[tuple[_Work, float]]] = {}
        self._events: dict[int, tuple[int, int] | None] = {}
        self._done: dict[int, int] = {}
        self._recording: dict[int, list[tuple[_Work, float]]] = {}
        self._timers: dict[int, float] = {}

    @property
    def held(self) -> int:
        """Bytes on the device, pinned arrays, streams and events that were not given back; 0 when all was."""
        blocks = sum(block.nbytes for block in self._blocks.values())
        return blocks + len(self._pinned) + len(self._queues) + len(self._events)

    @property
    def pinned_bytes(self) -> int:
        """Pinned bytes on the host that were not given back."""
        return sum(array.nbytes for array in self._pinned.values())

    def make_current(self) -> None:
        """Count."""
        self.current += 1

    def leave(self) -> None:
        """Count back."""
        self.current -= 1

    def gpu(self) -> GpuFacts:
        """What it was told to be."""
        return self._facts

    def allocate(self, size: int) -> int:
        """New bytes, full of 0xA5."""
        if self.held + size > self._capacity:
            raise BackendError(
                f"CUDA could not allocate {size} bytes: out of memory.", "Choose a smaller batch size."
            )
        address, self._next = self._next, self._next + size + 4096
        self._blocks[address] = np.full(max(size, 1), 0xA5, np.uint8)
        return address

    def free(self, address: int) -> None:
        """Give bytes back; KeyError when they are not held."""
        del self._blocks[address]

    def bytes_at(self, address: int, size: int) -> NDArray[np.uint8]:
        """The device's own bytes, for a fake engine to read and write."""
        return self._blocks[address][:size]

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """An ordinary array."""
        array = np.zeros(size, np.uint8)
        self._pinned[array.ctypes.data] = array
        return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        """Give an array back; KeyError when it is not held."""
        del self._pinned[array.ctypes.data]

    def make_stream(self) -> int:
        """An empty stream."""
        self._next += 1
        self._queues[self._next] = []
        self._done[self._next] = 0
        return self._next

    def free_stream(self, stream: int) -> None:
        """Give a stream back; KeyError when it is not held."""
        del self._queues[stream]

    def put(self, stream: int, work: _Work, ms: float = 1.0) -> None:
        """Note work down that takes so long, for a fake engine too."""
        self._recording.get(stream, self._queues[stream]).append((work, ms))
        self.most_busy = max(self.most_busy, sum(map(bool, self._queues.values())))

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy when the time comes, what the array holds then."""

        def work() -> None:
            raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            self.copied_to_device += raw.nbytes
            self._blocks[address][: raw.nbytes] = raw

        self.put(stream, work)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy when the time comes."""
        view = array.view(np.uint8).reshape(-1)

        def work() -> None:
            view[:] = self._blocks[address][: view.nbytes]

        self.put(stream, work)

    def synchronize(self, stream: int) -> None:
        """Do a stream's work."""
        self._run(stream, self._done[stream] + len(self._queues[stream]))

    def make_event(self) -> Any:
        """An event that was not recorded."""
        self._next += 1
        self._events[self._next] = None
        return self._next

    def make_timer(self) -> Any:
        """An event that looks at the device's clock when its place is reached."""
        timer = self.make_event()
        self._timers[timer] = float("nan")
        return timer

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """The difference of two looks at the clock; NaN when a place was not reached."""
        return self._timers[end] - self._timers[start]

    def free_event(self, event: Any) -> None:
        """Give an event back; KeyError when it is not held."""
        del self._events[event]
        self._timers.pop(event, None)

    def record(self, event: Any, stream: int) -> None:
        """Mark the end of the stream as it is."""
        if event in self._timers:
            self.put(stream, lambda: self._timers.update({event: self.device_ms}), 0.0)
        self._events[event] = (stream, self._done[stream] + len(self._queues[stream]))

    def wait_event(self, event: Any, stream: int) -> None:
        """Do what the event waits for before what comes after this."""
        place = self._events[event]
        if place is not None:
            self.put(stream, lambda: self._run(*place), 0.0)

    def wait_host(self, event: Any) -> None:
        """Do what the event waits for."""
        place = self._events[event]
        if place is not None:
            self._run(*place)

    def capture(self, stream: int, enqueue: Callable[[], bool]) -> Any | None:
        """Note work down in a list of its own."""
        self.captures += 1
        self._recording[stream] = []
        try:
            accepted = enqueue()
        finally:
            work = self._recording.pop(stream)
        return work if accepted else None

    def launch(self, graph: Any, stream: int) -> None:
        """Put a list's work on a stream."""
        self.launches += 1
        for work, ms in graph:
            self.put(stream, work, ms)

    def free_graph(self, graph: Any) -> None:
        """Empty the list, so that a later launch does nothing."""
        graph.clear()

    def close(self) -> None:
        """Note that it was asked for; what is held stays visible in `held`."""
        self.closed = True

    def _run(self, stream: int, until: int) -> None:
        while self._done[stream] < until:
            self._done[stream] += 1
            work, ms = self._queues[stream].pop(0)
            work()
            self.device_ms += ms
