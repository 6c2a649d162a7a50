"""Runs one branch's engines; see `tbps_infer.runners.protocol.Runner`."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import Bundle
from tbps_infer.devices import Device
from tbps_infer.errors import BackendError, FeedError
from tbps_infer.model_facts import Branch, Precision
from tbps_infer.runners.buckets import batches_of, bucket_for, fill_text, rows_of
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import DeviceTimes, Feeds, TensorSpec, blank_feeds, branch_specs, check_feeds
from tbps_infer.tensorrt.device_memory import DeviceMemory, device_of, open_memory
from tbps_infer.tensorrt.engine_folder import EngineFolder, PlanFacts, engines_of
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import Library, open_library
from tbps_infer.tensorrt.loading import LoadedEngines
from tbps_infer.tensorrt.runtime_cache import RuntimeCache
from tbps_infer.tensorrt.session import EngineSession, Slot

__all__ = ["TensorRTRunner", "find_engines", "open_engines", "run_folder"]

_IN_FLIGHT = 2


class TensorRTRunner:
    """One branch on one device, over one engine for images or one for each text length.

    Engines are loaded at their first use. A batch is filled up to a bucket and only its own rows are returned; one
    above the engine's greatest is cut. Calls from several threads wait for each other.

    Args:
        specs: The branch's inputs and outputs.
        loaders: What loads the engine of each length; the one key for images is None.
        memory: Of the device; closed with the runner.
        pad_id: What fills captions up.
        description: What is in use.
        release: Called at the end of `close`, for what the loaders hold.

    Attributes:
        inputs, outputs: The branch's.
    """

    def __init__(
        self,
        specs: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
        loaders: Mapping[int | None, Callable[[], EngineSession]],
        memory: DeviceMemory,
        *,
        pad_id: int = 0,
        description: str = "",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.inputs, self.outputs = tuple(specs[0]), tuple(specs[1])
        self._loaders = dict(loaders)
        self._lengths = sorted(length for length in loaders if length is not None)
        self._memory = memory
        self._pad_id = pad_id
        self._description = description
        self._release = release
        self._sessions: dict[int | None, EngineSession] = {}
        self._lock = threading.RLock()
        self._closed = False

    @property
    def description(self) -> str:
        """Flavour, version, precision, GPU, and how many CUDA graphs were captured here."""
        graphs = sum(session.captured for session in self._sessions.values())
        return f"{self._description}, {graphs} CUDA graphs"

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run the branch once, on any number of items.

        Raises:
            FeedError: The arrays do not fit, a caption is longer than any engine takes, or the runner is closed.
            BackendError: The engine does not load or run.
        """
        (outputs,) = self.run_stream([feeds])
        return outputs

    def run_timed(self, feeds: Feeds) -> tuple[dict[str, NDArray[Any]], DeviceTimes]:
        """Run the branch once and tell what the device says of it; batches above the engine's greatest add up.

        Returns:
            The outputs, and the times. Raises as `run`.
        """
        with self._in_use():
            check_feeds(self.inputs, feeds)
            session, fitting = self._fitting(feeds)
            timers = [self._memory.make_timer() for _ in range(4)]
            finished: list[dict[str, NDArray[Any]]] = []
            parts = np.zeros(3)
            try:
                for piece in batches_of(fitting, session.maximum):
                    finished.append(session.collect(session.submit(piece, timers)))
                    parts += [self._memory.elapsed_ms(*timers[place : place + 2]) for place in range(3)]
            finally:
                for timer in timers:
                    self._memory.free_event(timer)
            return _joined(finished, len(finished)), DeviceTimes(*parts.tolist())

    def run_stream(self, batches: Iterable[Feeds]) -> Generator[dict[str, NDArray[Any]], None, None]:
        """Run batch after batch, the next one's numbers travelling while one computes.

        Up to three batches are taken before the first one's outputs are yielded. The runner is taken for as long as
        this is iterated; other threads wait.

        Yields:
            The outputs of each batch, in order. Raises as `run`.
        """
        with self._in_use():
            under_way: deque[tuple[EngineSession, Slot]] = deque()
            parts: deque[int] = deque()
            finished: list[dict[str, NDArray[Any]]] = []
            try:
                for feeds in batches:
                    self._require_open()
                    check_feeds(self.inputs, feeds)
                    session, fitting = self._fitting(feeds)
                    parts.append(-(-rows_of(feeds) // session.maximum))
                    for piece in batches_of(fitting, session.maximum):
                        if len(under_way) == _IN_FLIGHT:
                            finished.append(_collected(under_way))
                        under_way.append((session, session.submit(piece)))
                    while parts and len(finished) >= parts[0]:
                        yield _joined(finished, parts.popleft())
                while parts:
                    self._require_open()
                    while len(finished) < parts[0]:
                        finished.append(_collected(under_way))
                    yield _joined(finished, parts.popleft())
            finally:
                # After an error, or an iteration given up; what failed first is what is told. A runner that was
                # closed meanwhile has waited for its batches and freed them.
                while under_way and not self._closed:
                    with contextlib.suppress(BackendError):
                        _collected(under_way)

    def stage(self, rows: int) -> dict[str, NDArray[Any]]:
        """Pinned arrays for the pixels of so many pictures; of a greater batch than the engine's the rest is copied.

        Raises:
            BackendError: The engine does not load, or there is no memory.
        """
        with self._in_use():
            return self._session(None).stage(rows)

    def warm(self, rows: int, length: int) -> None:
        """Load every engine and run its buckets up to ``rows`` until their graphs are captured. Raises as `run`."""
        del length  # each engine has its own
        with self._in_use():
            for key in self._loaders:
                session = self._session(key)
                most = bucket_for(min(rows, session.maximum), session.buckets)
                for bucket in session.buckets[: session.buckets.index(most) + 1]:
                    feeds = blank_feeds(self.inputs, bucket, key or 0)
                    # Each slot has contexts and graphs of its own: one plain run, and one that is captured.
                    for _ in self.run_stream([feeds] * 2 * _IN_FLIGHT):
                        pass

    def close(self) -> None:
        """Free engines and memory; running afterwards raises FeedError; closing twice is harmless.

        Raises:
            BackendError: The device failed before; what can be freed is freed all the same.
        """
        with self._lock:
            if self._closed:
                return
            with self._in_use(), contextlib.ExitStack() as stack:
                self._closed = True
                stack.callback(self._memory.close)
                stack.callback(self._release)
                for session in self._sessions.values():
                    stack.callback(session.close)
                self._sessions.clear()
                self._loaders.clear()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """The runner for this thread alone, the device its own. Raises FeedError when it is closed."""
        with self._lock:
            self._require_open()
            with device_of(self._memory):
                yield

    def _require_open(self) -> None:
        if self._closed:
            raise FeedError("the runner is closed")

    def _fitting(self, feeds: Feeds) -> tuple[EngineSession, Feeds]:
        """The engine for these arrays, and the arrays filled up to its length."""
        length: int | None = None
        if self._lengths:
            given = next(iter(feeds.values())).shape[1]
            if given > self._lengths[-1]:
                raise FeedError(
                    f"want captions of at most {self._lengths[-1]} tokens, got {given}",
                    "Build engines for longer ones: tbps build BUNDLE --text-lengths.",
                )
            length = bucket_for(given, self._lengths)
            feeds = fill_text(feeds, length, self._pad_id)
        return self._session(length), feeds

    def _session(self, length: int | None) -> EngineSession:
        if length not in self._sessions:
            self._sessions[length] = self._loaders[length]()
        return self._sessions[length]


def open_engines(
    bundle: Bundle,
    branch: Branch,
    options: RunOptions,
    *,
    cuda_graphs: bool | None = None,
) -> TensorRTRunner:
    """Open a bundle's engines of one branch on this machine.

    Args:
        bundle: The bundle.
        branch: Which branch.
        options: Which TensorRT, the engines' precision, the GPU, and the package that calls CUDA.
        cuda_graphs: Whether runs are launched as CUDA graphs; when not given, where the package that calls CUDA can.

    Raises:
        BackendError: TensorRT, CUDA or CUDA's graphs are not to be had, or the bundle has no engines that fit: of
            this precision, version, GPU, and made from its graphs.
    """
    library = open_library(options.backend)
    device = Device.parse(options.device)
    memory = open_memory(device.index, options.memory)
    try:
        if cuda_graphs and not memory.has_graphs:
            raise BackendError(f"{memory.name} has no CUDA graphs.", "Install cuda-bindings.")
        memory.has_graphs = memory.has_graphs if cuda_graphs is None else cuda_graphs
        gpu = memory.gpu()
        folder = find_engines(bundle, library, options.precision, gpu)
        return run_folder(folder, bundle, branch, library, memory, where=f"{device} {gpu.name}")
    except BaseException:
        memory.close()
        raise


def find_engines(bundle: Bundle, library: Library, precision: Precision, gpu: GpuFacts) -> EngineFolder:
    """The bundle's engines that fit this library, precision and GPU, those for this GPU alone before portable ones.

    Raises:
        BackendError: There are none, or only some that were made from other graphs.
    """
    flavour = library.flavour.name
    folders = [
        folder
        for folder in engines_of(bundle.path)
        if folder.facts.flavour == flavour and folder.facts.precision == precision
    ]
    if not folders:
        raise BackendError(
            f"{bundle.path} has no engines of {flavour} in {precision}.",
            f"Build them on this machine: tbps build {bundle.path} --backend {flavour} --precision {precision}",
        )
    elsewhere: list[BackendError] = []
    outdated: list[BackendError] = []
    for folder in sorted(folders, key=lambda folder: folder.facts.portable):
        try:
            folder.refuse_elsewhere(library.version, gpu)
        except BackendError as refusal:
            elsewhere.append(refusal)
            continue
        try:
            refuse_other_graphs(folder, bundle)
        except BackendError as refusal:
            outdated.append(refusal)
            continue
        return folder
    raise (outdated or elsewhere)[0]


def refuse_other_graphs(folder: EngineFolder, bundle: Bundle) -> None:
    """Refuse engines made from other graphs than the bundle's own. Raises BackendError."""
    for name in folder.other_graphs(bundle):
        raise BackendError(
            f"The engines in {folder.path} were made from another {name} than the bundle's.",
            f"Build them again: {folder.rebuild_command}",
        )


def run_folder(
    folder: EngineFolder, bundle: Bundle, branch: Branch, library: Library, memory: DeviceMemory, *, where: str
) -> TensorRTRunner:
    """A runner over a folder's engines of one branch, whether or not they fit this machine.

    Raises:
        BackendError: The folder has none of this branch. A plan whose bytes were altered, or that does not load,
            shows at its first use.
    """
    specs = branch_specs(bundle.model, branch)
    plans = [plan for plan in folder.facts.plans if plan.branch == branch]
    if not plans:
        raise BackendError(f"{folder.path} has no engine of the {branch} branch.", f"Build: {folder.rebuild_command}")
    cache: RuntimeCache | None = None
    if RuntimeCache.serves(library):
        file = folder.path / f"{branch}-{memory.gpu().label}.cache"
        cache = RuntimeCache(library, file, cuda_graphs=memory.has_graphs)
    loaded = LoadedEngines(folder, library, cache)

    def loader(plan: PlanFacts, profile: int) -> Callable[[], EngineSession]:
        return lambda: EngineSession(library, loaded.engine(plan), memory, specs, profile, cache)

    facts = folder.facts
    checked = ", self-check not executed" if facts.self_check.get("executed") is False else ""
    return TensorRTRunner(
        specs,
        {length: loader(plan, number) for plan in plans for number, length in enumerate(plan.lengths or (None,))},
        memory,
        pad_id=bundle.model.pad_id,
        description=f"{facts.flavour} {facts.version}, {facts.precision} on {where} over {memory.name}{checked}",
        release=loaded.close,
    )


def _collected(under_way: deque[tuple[EngineSession, Slot]]) -> dict[str, NDArray[Any]]:
    session, slot = under_way.popleft()
    return session.collect(slot)


def _joined(finished: list[dict[str, NDArray[Any]]], count: int) -> dict[str, NDArray[Any]]:
    """Take the first pieces and put them together."""
    pieces, finished[:] = finished[:count], finished[count:]
    if count == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
