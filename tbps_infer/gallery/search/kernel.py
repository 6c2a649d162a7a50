"""A GPU's first look at stored vectors by a kernel of ours, which reads them once for up to 64 queries.

As on the CPU, products only select: the kernel returns every row whose product comes within the proven error of the
k-th best product, and these are scored again in float64. For that it needs no sorting. A first scan of some of the
rows, spread over all, gives a score that k rows reach; the scan of all rows notes those that reach it too, a few
hundred; and `select_best` finds the k-th best among them and keeps what can still matter. More rows than there is
room for, such as thousands of equal ones, are counted, and looked for again with room for them.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError
from tbps_infer.gallery.search.candidates import Candidates
from tbps_infer.gallery.search.kernel_queries import KernelQueries, power_of, prepare_queries
from tbps_infer.gallery.search.kernel_rows import TILE, ChosenRows, DeviceRows, Piece
from tbps_infer.gallery.search.kernel_workspace import Workspace
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import ScanOptions
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors
from tbps_infer.tensorrt.device_memory import DeviceMemory, device_of, open_memory

__all__ = ["KernelScan"]

_QUERIES_AT_ONCE = 64
_LEAST_ENTRIES = 1 << 13
_ENTRY_BYTES = 256 << 20
"""Of all queries' entries: with more rows to find, fewer queries are searched at once."""

_FREE_SHARE = 0.7
"""Of the device's free memory, for rows that stay; the rest is for the model and for the search's own."""

_LEAST_SM = 75
_SCAN_THREADS, _SELECT_THREADS = 128, 512
_WARP_BYTES = 32 << 10
"""That a warp reads at least before it ends."""

_SCAN = np.dtype(
    [(name, "u8") for name in ("rows", "scales", "wanted", "queries", "factors", "ceilings", "limits")]
    + [(name, "u8") for name in ("counts", "entries", "damaged")]
    + [(name, "u4") for name in ("offset", "first", "stop", "chunks", "capacity", "stride", "tiles_per_warp")]
    + [("power", "f4")]
)
_SELECT = np.dtype(
    [(name, "u8") for name in ("entries", "counts", "limits", "margins", "found", "told", "damaged")]
    + [(name, "u4") for name in ("k", "capacity", "room", "reset")]
)


@dataclass(frozen=True)
class _Task:
    """What the scans of one group of queries have in common."""

    k: int
    chosen: ChosenRows
    queries: KernelQueries
    count: int
    capacity: int
    power: float
    options: ScanOptions


class KernelScan:
    """The stored vectors of a gallery on one GPU; a `tbps_infer.gallery.search.scan.FirstStage` over all of them.

    Args:
        vectors: What is searched; read as long as this object lives.
        device: A CUDA device.
        memory: Of the device; opened when not given, and closed by `close` in any case.
        resident_bytes: Bytes of rows to keep on the device; a share of what is free when not given.
        piece_rows: Rows that are copied at once; as many as fit some memory when not given.

    Attributes:
        count: All rows that are stored.
        row_bytes: Bytes of one stored vector.
        description: What searches, and how much of the vectors stays on the device.
        device_ms: How long the device took for the last group of queries, its copies included.

    Raises:
        BackendError: The device, cuda-bindings or NVRTC is missing, or the device is too old.
    """

    def __init__(
        self,
        vectors: StoredVectors,
        device: Device,
        *,
        memory: DeviceMemory | None = None,
        resident_bytes: int | None = None,
        piece_rows: int | None = None,
    ) -> None:
        self.count, self.row_bytes = len(vectors), vectors.row_bytes
        self._dtype = vectors.values.dtype
        self._memory = memory or open_memory(device.index)
        self._lock = threading.Lock()
        self._kernels: dict[int, list[Any]] = {}
        self._closed = False
        self.device_ms = math.nan
        try:
            with device_of(self._memory):
                gpu = self._memory.gpu()
                if int(gpu.sm.removeprefix("sm")) < _LEAST_SM:
                    raise BackendError(
                        f"The search's kernel needs compute capability 7.5; {gpu.name} has {gpu.sm}.",
                        "Search with --search-backend onnxruntime, or on the CPU.",
                    )
                self._kernel(1)
                budget = int(gpu.free_bytes * _FREE_SHARE) if resident_bytes is None else resident_bytes
                self._stream = self._memory.make_stream()
                self._rows = DeviceRows(self._memory, self._stream, vectors, budget, piece_rows)
                self._work = Workspace(self._memory, self._stream)
        except BaseException:
            self._memory.close()
            raise
        resident = f"{self._rows.resident} of {self.count} rows resident"
        self.description = f"kernel on {device} ({gpu.name}, {self._memory.name}), {resident}"

    def close(self) -> None:
        """Give everything on the device back; closing twice is harmless."""
        with self._lock:
            if not self._closed:
                self._closed = True
                with contextlib.suppress(BackendError), device_of(self._memory):  # after a failure every call fails
                    self._work.close()
                    self._rows.close()
                    self._memory.free_stream(self._stream)
                self._memory.close()

    def scan(
        self,
        pool: Candidates,
        rows: Rows,
        queries: NDArray[np.float32],
        max_norm: float,
        options: ScanOptions,
    ) -> None:
        """Add the rows that can be among the k best to the pool, where they are known by their positions.

        Raises:
            BackendError: The device failed.
            DamagedVectorsError: A product exceeds ``max_norm`` times the query's norm, or is NaN.
        """
        if not len(rows):
            return
        # One search at a time: the device is busy with it anyway.
        with self._lock, self._in_use():
            chosen = self._rows.choose(rows)
            # With N rows, a sample of C gives a score that k N / C rows reach: for this C a quarter of the room.
            least = _power_of_two(2 * math.isqrt(pool.k * (chosen.stop - chosen.first)), _LEAST_ENTRIES)
            waiting = [(np.arange(len(queries)), least)]
            while waiting:
                owners, capacity = waiting.pop()
                most = min(_QUERIES_AT_ONCE, max(1, _ENTRY_BYTES // (8 * capacity)))
                for start in range(0, len(owners), most):
                    some = owners[start : start + most]
                    prepared = prepare_queries(queries[some], self._dtype, max_norm)
                    power = 2.0 ** power_of(self._dtype, max_norm)
                    task = _Task(pool.k, chosen, prepared, len(some), capacity, power, options)
                    counted = self._search(pool, task, some, len(queries))
                    full = np.flatnonzero(counted > capacity)
                    waiting += [(some[i : i + 1], _power_of_two(int(counted[i]), 2 * capacity)) for i in full]

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """The device the calling thread's own. Raises BackendError when this is closed."""
        if self._closed:
            raise BackendError("The search on the device is closed.", "Open the gallery again.")
        with device_of(self._memory), self._idle_afterwards():
            yield

    @contextlib.contextmanager
    def _idle_afterwards(self) -> Iterator[None]:
        """Where a search ends early, wait for what it began: the next one writes to the same buffers."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(BackendError):
                self._memory.synchronize(self._stream)
            raise

    def _search(self, pool: Candidates, task: _Task, owners: NDArray[np.int64], queries: int) -> NDArray[np.int64]:
        """Add what was found, but for the queries that found too much; how many rows each found, int64 ``[q]``."""
        self._work.begin(task.queries, task.count, task.capacity, 2 * task.k + 64)
        self._scan_all(task)
        while True:
            self._select(task, room=self._work.room)
            told, found = self._work.results()
            self.device_ms = self._work.elapsed_ms
            if (damaged := int(told[:, 2].min())) != 0xFFFFFFFF:
                raise DamagedVectorsError(f"Row {damaged} holds damaged numbers.")
            inside = told[:, 0] <= task.capacity
            most = int(told[inside, 1].max(initial=0))
            if most <= self._work.room:
                break
            self._work.make_room(most)
        slack = np.zeros(queries)
        slack[owners] = task.queries.slack
        # All at once: the pool merges whatever comes while a query has no floor.
        returned = (np.arange(found.shape[1]) < told[:, 1:2]) & inside[:, None]
        entries, owner = found[returned], owners[np.nonzero(returned)[0]]
        numbers = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64)
        pool.add_pairs(owner, task.chosen.positions(numbers), _scores(entries), slack)
        return told[:, 0].astype(np.int64)

    def _scan_all(self, task: _Task) -> None:
        """Note the rows that can be among the k best, piece by piece, with limits that rise with every piece."""
        sampled = len(task.chosen.rows) <= task.capacity  # then there is room for all
        for piece in self._rows.pieces(task.chosen, task.options.release):
            if not sampled:
                tiles = -(-piece.stop // TILE) - piece.first // TILE
                self._scan(task, piece, max(1, -(-tiles * TILE // task.capacity)))
                self._select(task, reset=True)
                sampled = True
            self._scan(task, piece)
            if piece.stop < task.chosen.stop:
                self._select(task)

    def _scan(self, task: _Task, piece: Piece, stride: int = 1) -> None:
        tiles = -(-(-(-piece.stop // TILE) - piece.first // TILE) // stride)
        each = 1 if stride > 1 else max(1, _WARP_BYTES // (64 * self._rows.chunks * TILE))
        warps = _SCAN_THREADS // 32
        given = np.zeros((), _SCAN)
        for name, value in self._work.addresses(_SCAN.names).items():
            given[name] = value
        for name in ("rows", "scales", "offset", "first", "stop"):
            given[name] = getattr(piece, name)
        given["wanted"], given["chunks"] = task.chosen.wanted, self._rows.chunks
        given["capacity"], given["stride"], given["tiles_per_warp"] = task.capacity, stride, each
        given["power"] = task.power
        kernel = self._kernel(task.queries.groups)[0]
        grid = -(-tiles // (each * warps))
        self._memory.launch_kernel(kernel, grid, _SCAN_THREADS, given.tobytes(), self._stream)

    def _select(self, task: _Task, *, room: int = 0, reset: bool = False) -> None:
        given = np.zeros((), _SELECT)
        for name, value in self._work.addresses(_SELECT.names).items():
            given[name] = value
        given["k"], given["capacity"], given["room"], given["reset"] = task.k, task.capacity, room, reset
        kernel = self._kernel(task.queries.groups)[1]
        self._memory.launch_kernel(kernel, task.count, _SELECT_THREADS, given.tobytes(), self._stream)

    def _kernel(self, groups: int) -> list[Any]:
        """The two kernels for so many queries, compiled when they are first asked for: half a second at most."""
        if groups not in self._kernels:
            source = (resources.files("tbps_infer") / "assets" / "scan" / "scan.cu").read_text(encoding="utf-8")
            head = f"#define STORED_{self._dtype}\n#define GROUPS {groups}\n"
            self._kernels[groups] = self._memory.load_kernels(head + source, ("scan", "select_best"))
        return self._kernels[groups]


def _power_of_two(least: int, other: int) -> int:
    return max(other, 1 << max(0, least - 1).bit_length())


def _scores(entries: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The scores of entries, whose upper halves have the order of the scores."""
    keys = (entries >> np.uint64(32)).astype(np.uint32)
    bits = np.where(keys >> np.uint32(31), keys ^ np.uint32(1 << 31), ~keys).astype(np.uint32)
    scores: NDArray[np.float32] = bits.view(np.float32)
    return scores
