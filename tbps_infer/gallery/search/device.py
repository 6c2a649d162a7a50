"""A GPU's first look at stored vectors, by ONNX Runtime: the best rows of each block, in FP32.

As on the CPU, products only select: what the device returns becomes candidates with a proven error, which are scored
again in float64, so that where a search runs changes its time and nothing else. A block gives each query its m best
rows; if the last of these could still be among the k best of all, the block is asked for more.

Blocks stay on the device as far as its free memory goes; the others are copied for every search.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError
from tbps_infer.gallery.search.candidates import Candidates
from tbps_infer.gallery.search.multiply import ROUNDOFF, sum_error
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import ScanOptions
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors

__all__ = ["DeviceScan"]

_BLOCK_BYTES = 128 << 20
"""Of a block's FP32 form, and of its products with the queries: what the device needs beside the stored vectors."""

_FREE_SHARE = 0.7
"""Of the device's free memory, for blocks that stay; the rest is for the model and for the work on a block."""

_BEYOND_K = 16


@dataclass(frozen=True)
class _Best:
    """The best rows of one block for some queries: float32 and int64 ``[q, m]``, rows counted in the block."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class DeviceScan:
    """The stored vectors of a gallery on one device; a `tbps_infer.gallery.search.scan.FirstStage` over all of them.

    Args:
        vectors: What is searched; read as long as this object lives.
        device: A CUDA device. The CPU does the same work, slower than `top_k` alone: it is there for tests.
        resident_bytes: Stored bytes to keep on the device; a share of what is free when not given.
        block_rows: Rows of a block; as many as fit some memory when not given.

    Attributes:
        count: All rows that are stored.
        row_bytes: Bytes of one stored vector.
        description: What searches.

    Raises:
        BackendError: ONNX Runtime or the device is missing.
    """

    def __init__(
        self,
        vectors: StoredVectors,
        device: Device,
        *,
        resident_bytes: int | None = None,
        block_rows: int | None = None,
    ) -> None:
        from tbps_infer.runners.onnxruntime_runner import open_session

        self.count, self.row_bytes = len(vectors), vectors.row_bytes
        self._vectors = vectors
        self._device = device
        self._rows_per_block = block_rows or max(16, _BLOCK_BYTES // (4 * vectors.dim))
        file = Path(str(resources.files("tbps_infer") / "assets" / "scan" / f"{vectors.values.dtype}.onnx"))
        self._ort, self._session = open_session(file, device)
        self._budget = _free_bytes(device) if resident_bytes is None else resident_bytes
        self._resident: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self.description = f"ONNX Runtime {self._ort.__version__} on {device}"

    def close(self) -> None:
        """Give the device's memory back."""
        self._resident.clear()

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
        place = rows.places(self.count)
        most = max(1, _BLOCK_BYTES // (4 * self._rows_per_block))
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        slack = max_norm * (sum_error(queries.shape[1], norms) + 4 * ROUNDOFF * norms)
        ceiling = (max_norm * norms * 1.001 + slack).astype(np.float32)
        with self._lock:  # one search at a time: the device is busy with it anyway
            for first in range(0, len(queries), most):
                some = slice(first, first + most)
                found = self._best(pool.k, place, queries[some], ceiling[some], slack[some], options)
                for owner, row, scores in found:
                    pool.add_pairs(owner + first, place[row], scores, slack)

    def _best(
        self,
        k: int,
        place: NDArray[np.int64],
        queries: NDArray[np.float32],
        ceiling: NDArray[np.float32],
        slack: NDArray[np.float64],
        options: ScanOptions,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Queries, rows and products of the pairs that can be among the k best, block by block."""
        starts = [
            start
            for start in range(0, self.count, self._rows_per_block)
            if (place[start : start + self._rows_per_block] >= 0).any()
        ]
        found = {start: self._run(start, k + _BEYOND_K, place, queries, ceiling, options) for start in starts}
        everything = np.concatenate([best.scores for best in found.values()], axis=1).astype(np.float64)
        floors = np.full(len(queries), -np.inf)
        if everything.shape[1] >= k:
            floors = np.partition(everything, -k, axis=1)[:, -k] - slack
        for start in starts:
            best = found.pop(start)
            while self._may_hold_more(start, best, floors - slack):
                best = self._run(start, 4 * best.scores.shape[1], place, queries, ceiling, options)
            owner, column = np.nonzero(np.isfinite(best.scores) & (best.scores >= (floors - slack)[:, None]))
            yield owner, start + best.rows[owner, column], best.scores[owner, column]

    def _may_hold_more(self, start: int, best: _Best, limits: NDArray[np.float64]) -> bool:
        last = best.scores[:, -1]
        whole = best.scores.shape[1] == min(self._rows_per_block, self.count - start)
        return not whole and bool((np.isfinite(last) & (last >= limits)).any())

    def _run(
        self,
        start: int,
        most: int,
        place: NDArray[np.int64],
        queries: NDArray[np.float32],
        ceiling: NDArray[np.float32],
        options: ScanOptions,
    ) -> _Best:
        stop = min(start + self._rows_per_block, self.count)
        binding = self._session.io_binding()
        for name, block in self._block(start, stop, options).items():
            binding.bind_ortvalue_input(name, block)
        binding.bind_cpu_input("queries", queries)
        binding.bind_cpu_input("wanted", place[start:stop] >= 0)
        binding.bind_cpu_input("ceiling", np.ascontiguousarray(ceiling[:, None]))
        binding.bind_cpu_input("k", np.array([min(most, stop - start)], dtype=np.int64))
        for name in ("scores", "rows", "sound"):
            binding.bind_output(name, self._device.kind, self._device.index)
        try:
            self._session.run_with_iobinding(binding)
            scores, rows, sound = binding.copy_outputs_to_cpu()
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BackendError(
                f"The search on {self._device} failed: {reason}.",
                "Search on the CPU, which needs no copy of the vectors.",
            ) from error
        if sound != 1:
            raise DamagedVectorsError(f"Rows {start} to {stop - 1} hold damaged numbers.")
        return _Best(scores, rows)

    def _block(self, start: int, stop: int, options: ScanOptions) -> dict[str, Any]:
        """The inputs that are stored: on the device already, or copied there."""
        there = self._resident.get(start)
        if there is not None:
            return there
        arrays = {"block": np.ascontiguousarray(self._vectors.values[start:stop])}
        if self._vectors.scales is not None:
            arrays["scales"] = np.ascontiguousarray(self._vectors.scales[start:stop])
        made = {
            name: self._ort.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.index)
            for name, array in arrays.items()
        }
        if options.release is not None:
            options.release(start, stop)
        size = sum(array.nbytes for array in arrays.values())
        if size <= self._budget:
            self._budget -= size
            self._resident[start] = made
        return made


def _free_bytes(device: Device) -> int:
    """What may stay on the device; nothing on the CPU, where the vectors are already."""
    if device.kind == "cpu":
        return 0
    from tbps_infer.tensorrt.device_memory import open_memory

    memory = open_memory(device.index)
    try:
        return int(memory.gpu().free_bytes * _FREE_SHARE)
    finally:
        memory.close()
