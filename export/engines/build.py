"""Engines from a bundle's graphs, on the machine that will run them: no torch, no transformers.

All is made in a folder beside its place, proven, checked on the GPU where there is one, and only then moved there.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tbps_infer.atomic import new_folder
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError, BundleError
from tbps_infer.export.engines.activations import predicted_activation_bytes
from tbps_infer.export.engines.options import EngineOptions
from tbps_infer.export.engines.reuse import build_spec, engines_place, ready_engines, try_engines, write_facts
from tbps_infer.export.engines.self_check import check_engines, open_engines_of
from tbps_infer.export.engines.source_graphs import engine_graph, source_precision
from tbps_infer.export.engines.wanted_precision import graph_precision
from tbps_infer.export.gate import gate_engines
from tbps_infer.model_facts import Branch
from tbps_infer.runners.protocol import branch_specs
from tbps_infer.tensorrt.device_memory import device_of, find_gpu, open_memory, why_no_gpu
from tbps_infer.tensorrt.engine_folder import EngineFacts, EngineFolder, PlanFacts
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.kernels import Kernel, inspected_kernels, rtx_program
from tbps_infer.tensorrt.library import Library, open_library
from tbps_infer.tensorrt.plan_builder import build_plan
from tbps_infer.tensorrt.plan_spec import BuildSettings, plan_spec
from tbps_infer.tensorrt.precision_proof import PrecisionProof, prove_precision
from tbps_infer.verification.references import GateResult, record_verdict

__all__ = ["BuiltEngines", "OnPlanProgress", "build_engines", "check_buildable"]

OnPlanProgress = Callable[[str, str, int, int], None]
"""A plan's name, a phase of its build, the steps done, the steps in all. It may raise, which cancels."""

_BRANCHES: tuple[Branch, ...] = ("image", "text")
_MB = 1e6
# Of the free memory: weights, activations and what else runs on the device need the rest.
_WORKSPACE_SHARE = 0.5


@dataclass(frozen=True)
class BuiltEngines:
    """What a build came to.

    Attributes:
        folder: The engines, in their place.
        built: False when they were there already, made from the same graphs in the same way.
    """

    folder: EngineFolder
    built: bool


def build_engines(
    bundle_path: Path,
    options: EngineOptions,
    on_step: Callable[[str], None] = lambda _step: None,
    on_progress: OnPlanProgress = lambda _plan, _phase, _done, _steps: None,
) -> BuiltEngines:
    """Build the engines of both branches, one after the other, into the bundle's ``engines`` folder.

    On any error, and on an interruption, what was there before is there still and nothing else is.

    Args:
        bundle_path: The bundle.
        options: How.
        on_step: Called with a sentence when something begins; the memory that an engine will need is among them.
        on_progress: Called by the builder as it goes.

    Raises:
        UsageError: An option does not fit the flavour or the model.
        BundleError: The bundle is damaged, or cannot be written to.
        BackendError: TensorRT or a GPU is missing, the build fails, or the precision is not what was asked for.
        VerificationError: The graph does not fit FP16, or the engines do not do what the bundle's reference does, or
            do not pass the gate; they are not installed.
    """
    bundle = Bundle.open(bundle_path)
    library, gpu = check_buildable(options)
    for branch in _BRANCHES:
        bundle.check_graph(branch, source_precision(options.precision))
    spec = build_spec(bundle, options, library, gpu)
    place = engines_place(bundle, options, library, gpu)
    there = None if options.rebuild else ready_engines(place, spec)
    if there is not None:
        there = try_engines(there, bundle, library, gpu, options.device, on_step)
        _record(bundle, _gate(there, bundle, library, options, on_step))
        return BuiltEngines(there, built=False)
    with new_folder(place, BundleError, replace=True) as folder:
        facts = _Build(bundle, options, library, gpu, spec, folder, on_step, on_progress).run()
        verdict = _gate(EngineFolder(folder, facts), bundle, library, options, on_step)
        write_facts(folder, facts)
    _record(bundle, verdict)
    return BuiltEngines(EngineFolder.open(place), built=True)


def check_buildable(options: EngineOptions) -> tuple[Library, GpuFacts | None]:
    """The library that builds and the GPU to build on, if this machine can build as asked for.

    Raises:
        UsageError: An option means nothing to the flavour.
        BackendError: TensorRT is missing, or a GPU where one is needed: to build, or to verify on data.
    """
    library = open_library(options.backend)
    library.flavour.refuse_ignored({**options.settings.to_json(), "timing_cache": options.timing_cache})
    gpu = find_gpu(options.device)
    if gpu is None and library.flavour.needs_gpu_to_build:
        reason = why_no_gpu(options.device)
        raise BackendError(
            f"{library} builds for the GPU of this machine, and there is none that CUDA finds. {reason.message}",
            f"{reason.hint} Run tbps build on the device itself; tbps doctor says what is missing.",
        )
    if gpu is None and options.device > 0:  # named by the user, and not the one that is taken where none was
        raise why_no_gpu(options.device)
    if gpu is None and options.gate_on is not None:
        raise BackendError(
            "Data to verify on were given, and there is no GPU here to run the engines on.",
            "Build without them, and run tbps verify on the device.",
        )
    return library, gpu


def _gate(
    folder: EngineFolder,
    bundle: Bundle,
    library: Library,
    options: EngineOptions,
    on_step: Callable[[str], None],
) -> GateResult | None:
    """Hold engines to the gate where there are data to do so; None where not."""
    if options.gate_on is None:
        return None
    device = options.device
    return gate_engines(
        folder,
        bundle,
        options.gate_on,
        device,
        lambda branch: open_engines_of(folder, bundle, branch, library, device),
        on_step,
    )


def _record(bundle: Bundle, verdict: GateResult | None) -> None:
    if verdict is not None:
        record_verdict(bundle.path, verdict)


@dataclass(frozen=True)
class _Build:
    bundle: Bundle
    options: EngineOptions
    library: Library
    gpu: GpuFacts | None
    spec: Mapping[str, Any]
    folder: Path
    on_step: Callable[[str], None]
    on_progress: OnPlanProgress

    def run(self) -> EngineFacts:
        """Convert, build, prove and check; the plans are in the folder afterwards."""
        plans: list[PlanFacts] = []
        mixed: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=self.folder, prefix="graphs-"))
            if self.library.flavour.needs_gpu_to_build:  # the builder takes whichever device is the thread's
                memory = open_memory(self.options.device)
                stack.callback(memory.close)
                stack.enter_context(device_of(memory))
            for branch in _BRANCHES:
                graph = self._graph(branch, Path(scratch), mixed)
                lengths = self.options.lengths_for(self.bundle.model) if branch == "text" else (None,)
                plans += [self._plan(graph, branch, length) for length in lengths]
        facts = EngineFacts(
            flavour=self.options.backend,
            version=self.library.version,
            precision=self.options.precision,
            target=self.options.settings.target,
            gpu=self.gpu,
            spec=self.spec,
            plans=tuple(plans),
            mixed_precision=mixed,
            self_check={},
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        built = EngineFolder(self.folder, facts)
        checked = check_engines(built, self.bundle, self.library, self.gpu, self.options.device, self.on_step)
        return replace(facts, self_check=checked)

    def _graph(self, branch: Branch, scratch: Path, mixed: dict[str, Any]) -> Path:
        """The graph to build from, and beside it in ``mixed`` what became of its nodes."""
        if self.options.precision != "fp32":
            self.on_step(f"Converting the {branch} branch to mixed precision")
        graph, report = engine_graph(self.bundle, branch, self.options.precision, self.options.mixed, scratch)
        if report is not None:
            mixed[branch] = report.to_json()
        return graph

    def _plan(self, graph: Path, branch: Branch, length: int | None) -> PlanFacts:
        name = "image.plan" if length is None else f"text-{length}.plan"
        spec = plan_spec(branch_specs(self.bundle.model, branch), branch, self.options.batch, length)
        predicted = predicted_activation_bytes(graph, {n: ranges.maximum for n, ranges in spec.shapes.items()})
        self.on_step(
            f"Building {name}: about {predicted / _MB:.0f} MB of activations at batch {self.options.batch.maximum}"
        )
        started = time.monotonic()
        plan = build_plan(
            self.library,
            graph,
            spec,
            self._settings(),
            timing_cache=self.options.timing_cache,
            on_progress=lambda phase, done, steps: self.on_progress(name, phase, done, steps),
        )
        seconds = time.monotonic() - started
        path = self.folder / name
        path.write_bytes(plan)
        kernels, activation_bytes = self._read_back(plan, name)
        proof = prove_precision(
            kernels,
            graph_precision(graph, self.options.precision),
            "plan" if self.options.backend == "tensorrt-rtx" else "inspector",
            name,
        )
        self.on_step(_described(name, proof, len(plan), activation_bytes, seconds))
        return PlanFacts(
            file=name,
            branch=branch,
            length=length,
            bytes=len(plan),
            sha256=hashlib.sha256(plan).hexdigest(),
            build_seconds=round(seconds, 3),
            activation_bytes=activation_bytes,
            predicted_activation_bytes=predicted,
            proof=proof,
        )

    def _settings(self) -> BuildSettings:
        """The user's, with a workspace that leaves room on the device's memory when none was given."""
        chosen = self.options.settings
        if chosen.workspace_bytes is not None or not self.library.flavour.needs_gpu_to_build or self.gpu is None:
            return chosen
        workspace = int(self.gpu.free_bytes * _WORKSPACE_SHARE) >> 20 << 20
        return BuildSettings(max(workspace, 1 << 20), chosen.optimization_level, chosen.target)

    def _read_back(self, plan: memoryview, name: str) -> tuple[tuple[Kernel, ...], int]:
        """The kernels of a plan, and the device memory that its activations need."""
        if self.options.backend == "tensorrt-rtx":
            program = rtx_program(plan)
            target = self.options.settings.target
            if program.tf32 or (program.forward_compatible if target else not program.forward_compatible):
                raise BackendError(f"{name} was not built as asked for: {program.target}, TF32 {program.tf32}.")
            if target and program.target != target:
                raise BackendError(f"{name} was built for {program.target}, and {target} was asked for.")
            return program.kernels, program.activation_bytes
        runtime = self.library.create_runtime()
        engine = self.library.deserialize(runtime, plan, name)
        inspector = self.library.made(engine.create_engine_inspector(), "make an engine inspector")
        layout = self.library.module.LayerInformationFormat.JSON
        information = inspector.get_engine_information(layout)
        return inspected_kernels(information), int(engine.device_memory_size_v2)


def _described(name: str, proof: PrecisionProof, size: int, scratch: int, seconds: float) -> str:
    unknown = f", {proof.folded_products} products are in none" if proof.folded_products else ""
    used = f"{proof.fp16_kernels} of {proof.kernels} kernels use FP16"
    if proof.int8_kernels:
        used = f"{proof.int8_kernels} of {proof.kernels} kernels use INT8 and {proof.fp16_kernels} FP16"
    return (
        f"Built {name}: {size / _MB:.1f} MB, and {scratch / _MB:.1f} MB to run in, in {seconds:.1f} s; "
        f"{used}{unknown}, {proof.fused_attention} of {proof.attentions} attentions are fused"
    )
