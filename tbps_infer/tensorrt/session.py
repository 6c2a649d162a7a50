"""One engine on a device: buffers, contexts and streams made once, batches put in and taken out.

Two slots hold two batches on their way: while one computes, the other's numbers travel. Both compute in the same
scratch memory, so the second waits for the first to have computed, and not for its results to have arrived.

The device reads pinned memory alone. Batches written into what `stage` gave are there already; others are copied into
a slot's own, which is made when the first of them comes.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError, FeedError
from tbps_infer.runners.buckets import batch_buckets, bucket_for, rows_of
from tbps_infer.runners.protocol import Feeds, TensorSpec
from tbps_infer.tensorrt.device_memory import DeviceMemory
from tbps_infer.tensorrt.library import Library
from tbps_infer.tensorrt.runtime_cache import RuntimeCache

__all__ = ["EngineSession", "Slot"]

_logger = logging.getLogger(__name__)


@dataclass
class _Buffer:
    """One tensor's memory on both sides, for the greatest batch; the host's is made when it is first needed."""

    address: int
    host: NDArray[np.uint8] | None = None


@dataclass
class _Bound:
    """A context whose shapes and addresses are set for good, and the graph of its run."""

    context: Any
    runs: int = 0
    graph: Any | None = None
    capturable: bool = True


@dataclass
class Slot:
    """One batch on its way."""

    stream: int
    computed: Any
    done: Any
    buffers: dict[str, _Buffer]
    bound: dict[int, _Bound] = field(default_factory=dict)
    rows: int = 0


class EngineSession:
    """See the module. Used under a lock by its owner, `tbps_infer.tensorrt.runner.TensorRTRunner`.

    Args:
        library: What loaded the engine.
        engine: A deserialized engine.
        memory: Of the device that it was loaded on.
        specs: Inputs and outputs that it must have.
        profile: Which of its optimization profiles is run.
        runtime_cache: What makes execution contexts of TensorRT for RTX, which captures their runs itself.

    Raises:
        BackendError: Its tensors are others, it has no such profile, or the device has too little memory.

    Attributes:
        maximum: Items per run at most.
        length: The fixed size of the second axis of its inputs' profile.
        buckets: The batch sizes that it is run at.
    """

    def __init__(
        self,
        library: Library,
        engine: Any,
        memory: DeviceMemory,
        specs: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
        profile: int = 0,
        runtime_cache: RuntimeCache | None = None,
    ) -> None:
        self._library = library
        self._profile_number = profile
        self._runtime_cache = runtime_cache
        self._engine = engine
        self._memory = memory
        self._inputs, self._outputs = tuple(specs[0]), tuple(specs[1])
        self._check_tensors()
        minimum, self.maximum, self._sizes = self._profile()
        self.length = self._sizes[self._inputs[0].name][0]
        self.buckets = batch_buckets(minimum, self.maximum)
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._last: Slot | None = None
        self._staged: dict[int, NDArray[np.uint8]] = {}
        self._scratch_bytes = int(engine.device_memory_size_v2)
        self._scratch = memory.allocate(self._scratch_bytes) if self._scratch_bytes else 0

    def stage(self, rows: int) -> dict[str, NDArray[Any]]:
        """Pinned arrays for so many items, kept until `close`; see `tbps_infer.runners.protocol.Runner.stage`.

        Raises:
            BackendError: There is no memory for them.
        """
        held = max(rows, bucket_for(min(rows, self.maximum), self.buckets))  # a batch is filled up in its place
        staged = {}
        for spec in self._inputs:
            block = self._memory.pinned(held * self._row_bytes(spec))
            self._staged[block.ctypes.data] = block
            staged[spec.name] = self._rows(block, spec, rows)
        return staged

    def submit(self, feeds: Feeds, timers: Sequence[Any] = ()) -> Slot:
        """Put a batch on its way; at most two may be.

        Args:
            feeds: Arrays by input name, checked, at most `maximum` items, of this engine's length.
            timers: None, or four that are recorded before the inputs travel, before and after the engine runs, and
                when the outputs have travelled.

        Raises:
            FeedError: Too many items.
            BackendError: The engine does not run.
        """
        slot = self._free.pop() if self._free else self._make_slot()
        try:
            slot.rows = rows_of(feeds)
            bucket = bucket_for(slot.rows, self.buckets)
            self._mark(timers, 0, slot)
            for spec in self._inputs:
                self._send(slot, spec, feeds[spec.name], bucket)
            if self._last is not None and self._last is not slot:
                self._memory.wait_event(self._last.computed, slot.stream)
            self._mark(timers, 1, slot)
            self._run(slot, bucket)
            self._mark(timers, 2, slot)
            self._memory.record(slot.computed, slot.stream)
            for spec in self._outputs:
                view = self._rows(self._host(slot, spec), spec, slot.rows)
                self._memory.copy_to_host(view, slot.buffers[spec.name].address, slot.stream)
            self._mark(timers, 3, slot)
            self._memory.record(slot.done, slot.stream)
        except BaseException:
            self._free.append(slot)
            with contextlib.suppress(BackendError):  # what failed first is what is told
                self._memory.synchronize(slot.stream)
            raise
        self._last = slot
        return slot

    def collect(self, slot: Slot) -> dict[str, NDArray[Any]]:
        """Wait for a batch and return its outputs, copied. Raises BackendError when it failed on the device."""
        try:
            self._memory.wait_host(slot.done)
            return {spec.name: self._rows(self._host(slot, spec), spec, slot.rows).copy() for spec in self._outputs}
        finally:
            self._free.append(slot)

    @property
    def captured(self) -> int:
        """How many graphs were captured so far."""
        return sum(bound.graph is not None for slot in self._slots for bound in slot.bound.values())

    def close(self) -> None:
        """Free everything, in an order that leaves nothing in use."""
        for slot in self._slots:
            self._memory.synchronize(slot.stream)
        for slot in self._slots:
            for bound in slot.bound.values():
                if bound.graph is not None:
                    self._memory.free_graph(bound.graph)
            slot.bound.clear()
            for buffer in slot.buffers.values():
                self._memory.free(buffer.address)
                if buffer.host is not None:
                    self._memory.free_pinned(buffer.host)
            self._memory.free_event(slot.computed)
            self._memory.free_event(slot.done)
            self._memory.free_stream(slot.stream)
        for block in self._staged.values():
            self._memory.free_pinned(block)
        self._staged.clear()
        self._slots.clear()
        self._free.clear()
        self._last = None
        self._engine = None
        if self._scratch:
            self._memory.free(self._scratch)
            self._scratch = 0

    def _check_tensors(self) -> None:
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        trt = self._library.module
        found = set()
        for name in names:
            direction = "in" if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "out"
            found.add((direction, name, self._library.dtype(self._engine.get_tensor_dtype(name), name)))
        wanted = {("in", spec.name, spec.dtype) for spec in self._inputs}
        wanted |= {("out", spec.name, spec.dtype) for spec in self._outputs}
        if found != wanted or self._profile_number >= self._engine.num_optimization_profiles:
            raise BackendError(
                f"The engine has the tensors {sorted(found, key=str)} and {self._engine.num_optimization_profiles} "
                f"profiles; this model's has {sorted(wanted, key=str)} and a profile {self._profile_number}.",
                "Build the engines again: tbps build BUNDLE --rebuild.",
            )

    def _profile(self) -> tuple[int, int, dict[str, tuple[int, ...]]]:
        """The least and greatest batch, and each input's and output's other sizes."""
        sizes = {}
        least, most = 1, 1
        for spec in self._inputs:
            shapes = self._engine.get_tensor_profile_shape(spec.name, self._profile_number)
            low, _, high = (tuple(shape) for shape in shapes)
            fixed = [size for size in spec.shape[1:] if isinstance(size, int)]
            if low[1:] != high[1:] or (fixed and fixed != list(high[1:])):
                raise BackendError(
                    f"The engine takes {spec.name} of shapes {list(low)} to {list(high)}, and this model has {spec}.",
                    "Build the engines again: tbps build BUNDLE --rebuild.",
                )
            least, most, sizes[spec.name] = low[0], high[0], high[1:]
        for spec in self._outputs:
            sizes[spec.name] = tuple(int(size) for size in spec.shape[1:])
        return least, most, sizes

    def _mark(self, timers: Sequence[Any], place: int, slot: Slot) -> None:
        if timers:
            self._memory.record(timers[place], slot.stream)

    def _make_slot(self) -> Slot:
        memory = self._memory
        buffers = {}
        for spec in (*self._inputs, *self._outputs):
            buffers[spec.name] = _Buffer(memory.allocate(self.maximum * self._row_bytes(spec)))
        slot = Slot(memory.make_stream(), memory.make_event(), memory.make_event(), buffers)
        self._slots.append(slot)
        return slot

    def _row_bytes(self, spec: TensorSpec) -> int:
        return math.prod(self._sizes[spec.name]) * spec.dtype.itemsize

    def _host(self, slot: Slot, spec: TensorSpec) -> NDArray[np.uint8]:
        """A slot's own pinned memory for a tensor."""
        buffer = slot.buffers[spec.name]
        if buffer.host is None:
            buffer.host = self._memory.pinned(self.maximum * self._row_bytes(spec))
        return buffer.host

    def _rows(self, block: NDArray[np.uint8], spec: TensorSpec, rows: int) -> NDArray[Any]:
        """The first rows of a tensor in pinned memory."""
        raw = block[: rows * self._row_bytes(spec)]
        return raw.view(spec.dtype).reshape(rows, *self._sizes[spec.name])

    def _send(self, slot: Slot, spec: TensorSpec, array: NDArray[Any], bucket: int) -> None:
        if array.shape[1:] != self._sizes[spec.name]:
            raise FeedError(f"want {spec.name} of {list(self._sizes[spec.name])} each, got {list(array.shape[1:])}")
        staged = self._staged.get(array.ctypes.data) if array.flags.c_contiguous else None
        view = self._rows(self._host(slot, spec) if staged is None else staged, spec, bucket)
        if staged is None:
            view[: slot.rows] = array
        # Filled up with a real item: an all-zero one would be a caption of padding alone.
        view[slot.rows :] = view[:1]
        self._memory.copy_to_device(slot.buffers[spec.name].address, view, slot.stream)

    def _run(self, slot: Slot, bucket: int) -> None:
        bound = slot.bound.get(bucket)
        if bound is None:
            bound = slot.bound[bucket] = self._bind(slot, bucket)
        # TensorRT finishes its preparations in a first plain run; only what follows can be captured.
        if bound.graph is None and bound.capturable and bound.runs > 0:
            self._capture(slot, bound)
        if bound.graph is not None:
            self._memory.launch(bound.graph, slot.stream)
        elif not self._enqueue(slot, bound):
            raise self._library.failed("run the engine")
        bound.runs += 1

    def _enqueue(self, slot: Slot, bound: _Bound) -> bool:
        self._library.begin()
        return bool(bound.context.execute_async_v3(slot.stream))

    def _capture(self, slot: Slot, bound: _Bound) -> None:
        bound.capturable = self._memory.has_graphs
        if not bound.capturable:
            return
        bound.capturable = False  # one try: what fails once is run plainly
        bound.graph = self._memory.capture(slot.stream, lambda: self._enqueue(slot, bound))
        if bound.graph is None:
            _logger.info("the engine's run cannot be captured as a CUDA graph: %s", self._library.journal.text())

    def _bind(self, slot: Slot, bucket: int) -> _Bound:
        """A context of its own for a slot and a batch size: a captured graph must not see shapes change."""
        library = self._library
        library.begin()
        if self._runtime_cache is None:
            strategy = library.module.ExecutionContextAllocationStrategy.USER_MANAGED
            context = library.made(self._engine.create_execution_context(strategy), "make an execution context")
        else:
            context = self._runtime_cache.context(self._engine)
        if self._engine.num_optimization_profiles > 1:
            chosen = context.set_optimization_profile_async(self._profile_number, slot.stream)
            library.made(chosen, f"choose the profile {self._profile_number}")
        if self._scratch:
            context.set_device_memory(self._scratch, self._scratch_bytes)
        for spec in self._inputs:
            shape = (bucket, *self._sizes[spec.name])
            library.made(context.set_input_shape(spec.name, shape), f"set {spec.name} to {list(shape)}")
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:  # the one call that does not answer None or False
            raise library.failed("infer shapes") from error
        if missing:
            raise library.failed(f"infer shapes without {', '.join(missing)}")
        for spec in self._outputs:
            shape, wanted = tuple(context.get_tensor_shape(spec.name)), (bucket, *self._sizes[spec.name])
            if shape != wanted:
                raise BackendError(f"The engine gives {spec.name} of shape {list(shape)}; want {list(wanted)}.")
        for name, buffer in slot.buffers.items():
            library.made(context.set_tensor_address(name, buffer.address), f"set the address of {name}")
        return _Bound(context, capturable=self._runtime_cache is None)
