"""What the search's kernel reads and writes beside the rows: one buffer each way, kept from search to search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.search.kernel_queries import KernelQueries
from tbps_infer.tensorrt.device_memory import DeviceMemory

__all__ = ["Workspace"]

_ALIGNED = 256
_TOLD_BYTES = 16


class Workspace:
    """Buffers that only grow; not for several threads at once.

    Attributes:
        room: How many of its rows each query can return.
        elapsed_ms: Between `begin` and `results` on the device.
    """

    def __init__(self, memory: DeviceMemory, stream: int) -> None:
        self._memory, self._stream = memory, stream
        self.room = 0
        self.elapsed_ms = float("nan")
        self._sizes: dict[str, int] = {}
        self._device: dict[str, int] = {}
        self._host: dict[str, NDArray[np.uint8]] = {}
        self._timers = memory.make_timer(), memory.make_timer()
        self._inside: dict[str, int] = {}
        self._count = 0

    def begin(self, queries: KernelQueries, count: int, capacity: int, room: int) -> None:
        """Send queries, of which there are `count`, and forget what was found.

        Args:
            queries: As the kernel takes them.
            count: How many there are.
            capacity: Rows for each of them to note.
            room: Rows for each of them to return.
        """
        width = 8 * queries.groups
        arrays: dict[str, NDArray[Any]] = {
            "queries": queries.fragments,
            "factors": queries.factors,
            "ceilings": queries.ceilings,
            "margins": queries.margins,
            # No row is of interest to a query that is not there.
            "limits": np.where(np.arange(width) < count, -np.inf, np.inf).astype(np.float32),
            "counts": np.zeros(width, np.uint32),
            "damaged": np.full(1, 0xFFFFFFFF, np.uint32),
        }
        places, size = {}, 0
        for name, array in arrays.items():
            places[name] = size
            size += -(-array.nbytes // _ALIGNED) * _ALIGNED
        self._reserve("given", size, host=True)
        self._reserve("entries", 8 * capacity * count)
        given = self._host["given"][:size]
        for name, array in arrays.items():
            given[places[name] : places[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
        self._inside = {name: self._device["given"] + place for name, place in places.items()}
        self._count = count
        self.make_room(room)
        self._memory.record(self._timers[0], self._stream)
        self._memory.copy_to_device(self._device["given"], given, self._stream)

    def make_room(self, room: int) -> None:
        """Let each query return so many rows."""
        self.room = room
        self._reserve("results", (_TOLD_BYTES + 8 * room) * self._count, host=True)

    def addresses(self, names: Iterable[str] | None) -> dict[str, int]:
        """The device's addresses of those of some names that are here."""
        results = self._device["results"]
        known = {
            **self._inside,
            "entries": self._device["entries"],
            "told": results,
            "found": results + _TOLD_BYTES * self._count,
        }
        return {name: known[name] for name in names or () if name in known}

    def results(self) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """What `select_best` told ``[q, 4]``, and the entries ``[q, room]``, as soon as they are there."""
        told = _TOLD_BYTES * self._count
        size = told + 8 * self.room * self._count
        host = self._host["results"][:size]
        self._memory.copy_to_host(host, self._device["results"], self._stream)
        self._memory.record(self._timers[1], self._stream)
        self._memory.synchronize(self._stream)
        self.elapsed_ms = self._memory.elapsed_ms(*self._timers)
        return host[:told].view(np.uint32).reshape(-1, 4), host[told:].view(np.uint64).reshape(self._count, -1)

    def close(self) -> None:
        """Give everything back."""
        for address in self._device.values():
            self._memory.free(address)
        for array in self._host.values():
            self._memory.free_pinned(array)
        for timer in self._timers:
            self._memory.free_event(timer)

    def _reserve(self, name: str, size: int, *, host: bool = False) -> None:
        """Have so many bytes on the device, and pinned ones if asked; called while nothing runs."""
        if self._sizes.get(name, 0) >= size:
            return
        if name in self._device:
            self._memory.free(self._device.pop(name))
        if name in self._host:
            self._memory.free_pinned(self._host.pop(name))
        self._sizes.pop(name, None)
        self._device[name] = self._memory.allocate(size)
        if host:
            self._host[name] = self._memory.pinned(size)
        self._sizes[name] = size
