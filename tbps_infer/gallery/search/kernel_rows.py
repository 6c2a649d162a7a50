"""Stored vectors on a GPU, as far as its memory goes; the others copied piece by piece.

A warp reads 64 bytes of 32 rows at a time, and these lie together there: it reads one tile from end to end, as memory
is read fastest.

And which of them a search goes through: a range of rows, and a bit per row where that is not all of the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.search.kernel_queries import CHUNK_BYTES
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.vectors import StoredVectors
from tbps_infer.tensorrt.device_memory import DeviceMemory

__all__ = ["TILE", "ChosenRows", "DeviceRows", "Piece"]

TILE = 32
"""Rows that a warp looks at together; what is on the device begins and ends with one."""

_PIECE_BYTES = 32 << 20


@dataclass(frozen=True)
class Piece:
    """Rows on the device.

    Attributes:
        rows: The address of their tiles, which begin with row `offset` of the file.
        scales: The address of their scales; 0 where there are none.
        offset: The first row, a multiple of `TILE`.
        first: Of the rows to look at.
        stop: Behind the last of these.
    """

    rows: int
    scales: int
    offset: int
    first: int
    stop: int


@dataclass(frozen=True)
class ChosenRows:
    """The rows that a search goes through.

    Attributes:
        rows: Where they stand among all.
        first: The first in the file.
        stop: Behind the last in the file.
        wanted: The address of a bit per row of the file; 0 where all of the range are wanted.
        order: int64 ``[n]``: sorts the rows' numbers; None where they are sorted.
    """

    rows: Rows
    first: int
    stop: int
    wanted: int = 0
    order: NDArray[np.int64] | None = None

    def positions(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions int64 ``[m]`` of some of them by their numbers ``[m]``."""
        if self.rows.consecutive:
            return self.rows.positions_of(numbers - self.first)
        places = np.searchsorted(self.rows.numbers, numbers, sorter=self.order)
        return self.rows.positions_of(places if self.order is None else self.order[places])


class DeviceRows:
    """The stored vectors; not for several threads at once.

    Args:
        memory: Of the device.
        stream: Where copies go.
        vectors: What is stored.
        resident_bytes: What may stay on the device.
        piece_rows: Rows that are copied at once; as many as fit some memory when not given.

    Attributes:
        resident: How many rows, from the first on, stay.
        chunks: Of `CHUNK_BYTES` in a row on the device.
    """

    def __init__(
        self,
        memory: DeviceMemory,
        stream: int,
        vectors: StoredVectors,
        resident_bytes: int,
        piece_rows: int | None = None,
    ) -> None:
        self._memory, self._stream, self._vectors = memory, stream, vectors
        self._stored = vectors.values.dtype.itemsize * vectors.dim
        self.chunks = -(-self._stored // CHUNK_BYTES)
        self._pitch = CHUNK_BYTES * self.chunks
        row_bytes = self._pitch + (0 if vectors.scales is None else 4)
        whole = _tiles(len(vectors))
        self._piece = min(whole, _tiles(piece_rows or max(1, _PIECE_BYTES // row_bytes)))
        room = whole if row_bytes * whole <= resident_bytes else resident_bytes // row_bytes // TILE * TILE
        self.resident = min(room, len(vectors))
        self._allocated: list[int] = []
        self._loaded: tuple[int, int] | None = None
        self._streamed = (0, 0) if self.resident == len(vectors) else self._allocate(self._piece)
        self._staging = [memory.pinned(self._piece * row_bytes) for _ in range(2)]
        self._copied = [memory.make_event() for _ in range(2)]
        self._turn = 0
        self._chosen: ChosenRows | None = None
        self._bits = 0

    def pieces(self, chosen: ChosenRows, release: Callable[[int, int], None] | None) -> Iterator[Piece]:
        """The rows that a search goes through, from the first on, each piece only until the next is asked for."""
        if self._loaded is None:
            place = self._allocate(_tiles(self.resident))
            self._copy(place, 0, self.resident, release)
            self._loaded = place
        if chosen.first < self.resident:
            yield Piece(*self._loaded, 0, chosen.first, min(chosen.stop, self.resident))
        for start in range(self.resident, chosen.stop, self._piece):
            stop = min(start + self._piece, len(self._vectors))
            if chosen.first < stop:
                self._copy(self._streamed, start, stop, release)
                yield Piece(*self._streamed, start, max(start, chosen.first), min(stop, chosen.stop))

    def choose(self, rows: Rows) -> ChosenRows:
        """What the kernel needs to know of some rows; remembered, since most searches go through the same."""
        numbers = rows.numbers
        if rows.consecutive:
            return ChosenRows(rows, int(numbers[0]), int(numbers[-1]) + 1)
        if self._chosen is None or self._chosen.rows is not rows:
            wanted = np.zeros(_tiles(len(self._vectors)), dtype=bool)
            wanted[numbers] = True
            if not self._bits:
                self._bits = self._memory.allocate(wanted.size // 8)
                self._allocated.append(self._bits)
            self._send(self._bits, np.packbits(wanted, bitorder="little"))
            order = None if (numbers[1:] > numbers[:-1]).all() else np.argsort(numbers)
            self._chosen = ChosenRows(rows, int(numbers.min()), int(numbers.max()) + 1, self._bits, order)
        return self._chosen

    def close(self) -> None:
        """Give everything back."""
        for address in self._allocated:
            self._memory.free(address)
        for staging, event in zip(self._staging, self._copied, strict=True):
            self._memory.free_pinned(staging)
            self._memory.free_event(event)

    def _allocate(self, rows: int) -> tuple[int, int]:
        """Addresses of new rows and of their scales."""
        there = self._memory.allocate(self._pitch * rows)
        scales = 0 if self._vectors.scales is None else self._memory.allocate(4 * rows)
        self._allocated += [there, scales] if scales else [there]
        return there, scales

    def _copy(self, to: tuple[int, int], first: int, last: int, release: Callable[[int, int], None] | None) -> None:
        """Copy rows by way of pinned memory, one half of which is filled while the other is copied."""
        rows, scales = to
        for start in range(first, last, self._piece):
            stop = min(start + self._piece, last)
            staging = self._free_staging()
            there = staging[: _tiles(stop - start) * self._pitch]
            self._lay_tiles(there, np.ascontiguousarray(self._vectors.values[start:stop]))
            self._memory.copy_to_device(rows + (start - first) * self._pitch, there, self._stream)
            if self._vectors.scales is not None:
                behind = staging[there.size : there.size + 4 * (stop - start)]
                behind.view(np.float32)[:] = self._vectors.scales[start:stop]
                self._memory.copy_to_device(scales + 4 * (start - first), behind, self._stream)
            self._memory.record(self._copied[self._turn], self._stream)
            if release is not None:
                release(start, stop)

    def _lay_tiles(self, there: NDArray[np.uint8], some: NDArray[np.generic]) -> None:
        """Lay rows into uint8 ``[bytes]`` as the kernel reads them: tile, chunk, row; what is missing is 0."""
        stored = some.view(np.uint8).reshape(len(some), self._stored)
        if stored.size < there.size:
            whole = np.zeros((_tiles(len(some)), self._pitch), np.uint8)
            whole[: len(some), : self._stored] = stored
            stored = whole
        chunk = np.dtype((np.void, CHUNK_BYTES))  # copied as one: several times as fast as by bytes
        tiles = stored.reshape(-1, self._pitch).view(chunk).reshape(-1, TILE, self.chunks)
        there.view(chunk).reshape(-1, self.chunks, TILE)[:] = tiles.transpose(0, 2, 1)

    def _send(self, address: int, values: NDArray[np.uint8]) -> None:
        """Copy what need not be as large as the staging memory."""
        size = len(self._staging[0])
        for start in range(0, len(values), size):
            staging = self._free_staging()[: len(values) - start]
            staging[:] = values[start : start + size]
            self._memory.copy_to_device(address + start, staging, self._stream)
            self._memory.record(self._copied[self._turn], self._stream)

    def _free_staging(self) -> NDArray[np.uint8]:
        self._turn ^= 1
        self._memory.wait_host(self._copied[self._turn])
        return self._staging[self._turn]


def _tiles(rows: int) -> int:
    return -(-rows // TILE) * TILE
