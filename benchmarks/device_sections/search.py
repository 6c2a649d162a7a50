"""The search on the device: its results against the CPU's, its times beside PyTorch's matmul and topk."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, clocked, skipped, timed
from tbps_infer.errors import BackendError
from tbps_infer.gallery.search.device import DeviceScan
from tbps_infer.gallery.search.kernel import KernelScan
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import Scanned, top_k
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors, quantise

__all__ = ["facts", "stage_facts"]

_K = 10
_QUERIES = (1, 64)
_SAMPLES = 30


def facts(context: SectionContext) -> Iterator[Fact]:
    """Both ways to search on the device, for every type of stored number; on the CPU the graphs alone."""
    rows, dim = (4_000, 64) if context.on_cpu else (1_000_000, 512)
    rng = np.random.default_rng(0)
    vectors, queries = (_unit(rng.standard_normal((count, dim), dtype=np.float32)) for count in (rows, _QUERIES[-1]))
    for dtype in ("float16", "int8", "float32"):
        stored = StoredVectors(*quantise(vectors)) if dtype == "int8" else StoredVectors(vectors.astype(dtype))
        for way in (DeviceScan,) if context.on_cpu else (KernelScan, DeviceScan):
            try:
                stage = way(stored, context.device)
            except BackendError as error:
                yield checked(f"{way.__name__} opens for {dtype}", False, error=str(error))
                continue
            with contextlib.closing(stage):
                yield from stage_facts(stage, stored, queries, samples=3 if context.on_cpu else _SAMPLES)
    if not context.on_cpu:
        yield from _torch_facts(context, vectors, queries)


def stage_facts(
    stage: KernelScan | DeviceScan, stored: StoredVectors, queries: NDArray[np.float32], *, samples: int
) -> Iterator[Fact]:
    """Whether the result is the CPU's, bit for bit, with and without a filter; times, and the kernel's rate."""
    name = f"{'kernel' if isinstance(stage, KernelScan) else 'ONNX Runtime'}, {stored.values.dtype}"
    every = Rows.of(np.arange(len(stored)))
    some = Rows.of(np.flatnonzero(np.random.default_rng(1).random(len(stored)) < 0.3))

    def search(rows: Rows, count: int) -> Scanned:
        return top_k(stored, rows, queries[:count], _K, max_norm=1.02, first_stage=stage)

    for what, rows in (("all rows", every), ("a filter", some)):
        want = top_k(stored, rows, queries, _K, max_norm=1.02)
        try:
            found = search(rows, len(queries))
        except DamagedVectorsError as error:  # nothing is damaged here: a product left its bounds
            yield checked(f"{name}, {what}: the CPU's result", False, by=stage.description, error=str(error))
            return
        same = np.array_equal(want.indices, found.indices) and np.array_equal(want.scores, found.scores)
        yield checked(f"{name}, {what}: the CPU's result", same, by=stage.description)
    for count in (count for count in _QUERIES if count <= len(queries)):
        on_device: list[float] = []

        def run(count: int = count, on_device: list[float] = on_device) -> None:
            search(every, count)
            if isinstance(stage, KernelScan):
                on_device.append(stage.device_ms)

        times = clocked(run, samples)
        rate: dict[str, Any] = {}
        if on_device:
            device_ms = statistics.median(on_device[2:])
            rate = {"device_ms": device_ms, "read_gb_per_s": len(stored) * stored.row_bytes / device_ms / 1e6}
        yield timed(f"search: {name}", times, queries=count, rows=len(stored), dim=stored.dim, **rate)


def _torch_facts(
    context: SectionContext, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> Iterator[Fact]:
    try:
        import torch
    except ImportError:
        yield skipped("PyTorch is not installed to compare with")
        return
    for dtype in (torch.float16, torch.float32):
        left, right = (torch.from_numpy(array).to(str(context.device), dtype) for array in (queries, vectors))
        for count in _QUERIES:

            def run(count: int = count, left: torch.Tensor = left, right: torch.Tensor = right) -> None:
                torch.topk(left[:count] @ right.T, _K)[0].cpu()

            times = clocked(run, _SAMPLES)
            yield timed(f"torch matmul + topk, {dtype}", times, queries=count, rows=len(vectors), dim=right.shape[1])


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values
