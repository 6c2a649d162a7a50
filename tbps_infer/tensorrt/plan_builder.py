"""Builds one engine from one ONNX graph: strongly typed, every setting read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tbps_infer.errors import BackendError, UsageError
from tbps_infer.tensorrt.interruption import Interruption, held_back
from tbps_infer.tensorrt.library import Library
from tbps_infer.tensorrt.plan_spec import BuildSettings, PlanSpec
from tbps_infer.tensorrt.timing_cache import TimingCache

__all__ = ["OnProgress", "build_plan"]

OnProgress = Callable[[str, int, int], None]
"""A phase's name, the steps done, the steps in all. It may raise, which cancels the build and is raised from it."""


def build_plan(
    library: Library,
    graph: Path,
    spec: PlanSpec,
    settings: BuildSettings,
    *,
    timing_cache: TimingCache | None = None,
    on_progress: OnProgress = lambda _phase, _done, _steps: None,
) -> memoryview:
    """Build an engine.

    The precision is the graph's own, and FP32 is FP32: TF32 is off. An interruption from the keyboard cancels.

    Args:
        library: The TensorRT that builds.
        graph: An ONNX file, its external data beside it.
        spec: What the graph must take and give, and the profiles.
        settings: The builder's.
        timing_cache: Times of kernels, which the build uses and adds to; TensorRT only.
        on_progress: Called with the phase, the steps done and their number.

    Returns:
        The plan's bytes.

    Raises:
        UsageError: An option does not apply to the flavour, or its target is not one that it builds for.
        BackendError: Any step failed; with TensorRT's reason.
    """
    library.flavour.refuse_ignored({**vars(settings), "timing_cache": timing_cache})
    builder = library.create_builder()
    config = library.made(builder.create_builder_config(), "make a builder configuration")
    _configure(library, config, settings)
    with held_back() as interruption:
        network, parser = _parse(library, builder, graph)
        _check_interface(library, network, spec, graph)
        # Only now: a parser on a network whose builder has a recorder crashes when it is freed.
        builder.error_recorder = library.recorder
        try:
            _add_profiles(library, builder, config, spec)
            if timing_cache is not None:
                timing_cache.attach(config)
            plan = _build(library, builder, network, config, _monitor(library.module, on_progress, interruption))
            if timing_cache is not None and interruption.error is None:
                timing_cache.keep(config)
        finally:
            del parser, network
    return memoryview(plan)


def _configure(library: Library, config: Any, settings: BuildSettings) -> None:
    trt = library.module
    config.clear_flag(trt.BuilderFlag.TF32)
    _kept(library, "TF32 off", config.get_flag(trt.BuilderFlag.TF32), False)
    # Layer types are read back from the engine (`tbps_infer.tensorrt.precision_proof`).
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_bytes is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, settings.workspace_bytes)
        _kept(library, "the workspace", config.get_memory_pool_limit(pool), settings.workspace_bytes)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
        _kept(library, "the optimization level", config.builder_optimization_level, settings.optimization_level)
    if settings.target is not None:
        _set_target(library, config, settings.target)


def _kept(library: Library, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise BackendError(f"{library} did not keep the setting of {what}: it was given {wanted} and has {found}.")


def check_target(library: Library, target: str) -> None:
    """Refuse a GPU architecture that a library does not build for.

    Raises:
        UsageError: It is none of those; the sentence lists them.
        BackendError: The library builds for this machine's GPU alone.
    """
    name = target.upper()
    if not library.has("IBuilderConfig", "set_compute_capability"):
        raise BackendError(f"{library} cannot build for another GPU than this machine's.", "Leave the target out.")
    if not name.startswith("SM") or not library.has("ComputeCapability", name):
        kinds = library.module.ComputeCapability.__members__
        known = ", ".join(
            sorted((kind.lower() for kind in kinds if kind.startswith("SM")), key=lambda sm: int(sm[2:]))
        )
        raise UsageError(
            f"{library} does not build for {target!r}; it builds for {known}.",
            "Orin (sm87) and data-centre GPUs such as the H100 (sm90) run full TensorRT: build there with the "
            "backend tensorrt.",
        )


def _set_target(library: Library, config: Any, target: str) -> None:
    check_target(library, target)
    kind = getattr(library.module.ComputeCapability, target.upper())
    config.num_compute_capabilities = 1  # before the next line, which is ignored without it
    if not config.set_compute_capability(kind, 0):
        raise library.failed(f"take the target {target}")


def _parse(library: Library, builder: Any, graph: Path) -> tuple[Any, Any]:
    """The network, and the parser, which must live as long as the network is built from."""
    trt = library.module
    if not graph.is_file():
        raise BackendError(f"There is no graph {graph}.", "Export the model again.")
    library.begin()
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = library.made(builder.create_network(1 << int(flag)), "make a strongly typed network")
    if not network.get_flag(flag):
        raise library.failed("make a strongly typed network")
    parser = library.made(trt.OnnxParser(network, library.logger), "make an ONNX parser")
    parsed = parser.parse_from_file(str(graph))
    problems = [_described(parser.get_error(number)) for number in range(parser.num_errors)]
    if not parsed or problems:
        raise BackendError(
            f"{library} cannot read {graph}: {'; '.join(problems) or library.journal.text()}.",
            "Export the model again; opset 18 is read by every TensorRT from 10.3 on.",
        )
    return network, parser


def _described(error: Any) -> str:
    return f"node {error.node()}: {error.desc().strip().rstrip('.')}"


def _check_interface(library: Library, network: Any, spec: PlanSpec, graph: Path) -> None:
    """An empty or foreign file parses without a complaint: inputs, outputs and their types are compared."""
    wanted = {(tensor.name, tensor.dtype) for tensor in (*spec.inputs, *spec.outputs)}
    tensors = [network.get_input(number) for number in range(network.num_inputs)]
    tensors += [network.get_output(number) for number in range(network.num_outputs)]
    found = {(tensor.name, library.dtype(tensor.dtype, tensor.name)) for tensor in tensors}
    if found != wanted:
        raise BackendError(
            f"{graph} has the inputs and outputs {_listed(found)}, and this model's are {_listed(wanted)}.",
            "Export the model again.",
        )


def _listed(tensors: set[tuple[str, np.dtype[Any]]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(tensors, key=str)) or "(none)"


def _add_profiles(library: Library, builder: Any, config: Any, spec: PlanSpec) -> None:
    library.begin()
    for shapes in spec.profiles:
        profile = library.made(builder.create_optimization_profile(), "make an optimization profile")
        for name, each in shapes.items():
            profile.set_shape(name, each.minimum, each.optimum, each.maximum)
        if not bool(profile) or config.add_optimization_profile(profile) < 0:
            raise library.failed("use the shapes given")


def _build(library: Library, builder: Any, network: Any, config: Any, monitor: Any) -> Any:
    library.begin()
    config.progress_monitor = monitor
    try:
        plan = builder.build_serialized_network(network, config)
    except Exception as error:
        raise BackendError(f"{library} failed to build: {error}; {library.journal.text()}.") from error
    finally:
        config.progress_monitor = None
    if plan is None:  # an interrupted build too
        reason = library.journal.text()
        raise BackendError(
            f"{library} could not build the engine: {reason}.",
            "Allow more scratch memory (--workspace)." if "workspace" in reason.lower() else "",
        )
    return plan


def _monitor(module: Any, on_progress: OnProgress, interruption: Interruption) -> Any:
    """What `on_progress` raises is noted and cancels: an exception must not travel through TensorRT."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self.steps[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return interruption.error is None

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, self.steps.get(phase_name, 0))

        def _report(self, phase: str, done: int) -> None:
            try:
                if interruption.error is None:
                    on_progress(phase, done, self.steps.get(phase, 0))
            except BaseException as error:
                interruption.note(error)

    return Monitor()
