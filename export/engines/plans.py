"""The plans of a build: both branches' graphs converted, built, and proven to have the precision asked for."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tbps_infer.errors import BackendError
from tbps_infer.export.engines.activations import predicted_activation_bytes
from tbps_infer.export.engines.options import BuildContext
from tbps_infer.export.engines.source_graphs import engine_graph, graph_precision
from tbps_infer.model_facts import BRANCHES, Branch
from tbps_infer.tensorrt.device_memory import device_of, open_memory
from tbps_infer.tensorrt.engine_folder import PlanFacts
from tbps_infer.tensorrt.kernels import Kernel, inspected_kernels, rtx_program
from tbps_infer.tensorrt.plan_builder import build_plan
from tbps_infer.tensorrt.plan_spec import BuildSettings, plan_spec
from tbps_infer.tensorrt.precision_proof import GraphPrecision, prove_precision

__all__ = ["build_plans"]

_MB = 1e6
# Of the free memory: weights, activations and what else runs on the device need the rest.
_WORKSPACE_SHARE = 0.5


def build_plans(context: BuildContext, folder: Path) -> tuple[tuple[PlanFacts, ...], dict[str, Any]]:
    """Build a plan for images and one for each text length into a folder.

    Returns:
        What is known of each plan, and by branch what became of the graph's nodes (empty for FP32).

    Raises:
        UsageError: An option does not fit the flavour or the model.
        BackendError: TensorRT fails, or the precision is not what was asked for.
        VerificationError: A graph does not fit FP16.
    """
    options, model = context.options, context.bundle.model
    plans: list[PlanFacts] = []
    mixed: dict[str, Any] = {}
    with _building_device(context), tempfile.TemporaryDirectory(dir=folder, prefix="graphs-") as scratch:
        for branch in BRANCHES:
            if options.precision != "fp32":
                context.on_step(f"Converting the {branch} branch to mixed precision")
            graph, report = engine_graph(context.bundle, branch, options.precision, options.mixed, Path(scratch))
            if report is not None:
                mixed[branch] = report.to_json()
            wanted = graph_precision(graph, options.precision)
            lengths = options.lengths_for(model) if branch == "text" else (None,)
            plans += [_build(context, folder, graph, wanted, branch, length) for length in lengths]
    return tuple(plans), mixed


@contextlib.contextmanager
def _building_device(context: BuildContext) -> Iterator[None]:
    """Make the chosen device the thread's own where one is needed: the builder takes whichever is."""
    if not context.library.flavour.needs_gpu_to_build:
        yield
        return
    memory = open_memory(context.options.device, context.options.memory)
    try:
        with device_of(memory):
            yield
    finally:
        memory.close()


def _build(
    context: BuildContext, folder: Path, graph: Path, wanted: GraphPrecision, branch: Branch, length: int | None
) -> PlanFacts:
    """Build, write and prove one plan."""
    options = context.options
    name = "image.plan" if length is None else f"text-{length}.plan"
    spec = plan_spec(context.bundle.model, branch, options.batch, length)
    predicted = predicted_activation_bytes(graph, {each: shapes.maximum for each, shapes in spec.shapes.items()})
    activations = "activations unknown" if predicted is None else f"about {predicted / _MB:.0f} MB of activations"
    context.on_step(f"Building {name}: {activations} at batch {options.batch.maximum}")
    started = time.monotonic()
    plan = build_plan(
        context.library,
        graph,
        spec,
        _settings(context),
        timing_cache=options.timing_cache,
        on_progress=lambda phase, done, steps: context.on_progress(name, phase, done, steps),
    )
    seconds = time.monotonic() - started
    (folder / name).write_bytes(plan)
    kernels, activation_bytes = _read_back(context, plan, name)
    facts = PlanFacts(
        file=name,
        branch=branch,
        length=length,
        bytes=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(),
        build_seconds=round(seconds, 3),
        activation_bytes=activation_bytes,
        predicted_activation_bytes=predicted,
        proof=prove_precision(kernels, wanted, "plan" if options.backend == "tensorrt-rtx" else "inspector", name),
    )
    context.on_step(_described(facts))
    return facts


def _settings(context: BuildContext) -> BuildSettings:
    """The user's, with a workspace that leaves room on the device's memory when none was given."""
    chosen, gpu = context.options.settings, context.gpu
    if chosen.workspace_bytes is not None or not context.library.flavour.needs_gpu_to_build or gpu is None:
        return chosen
    workspace = int(gpu.free_bytes * _WORKSPACE_SHARE) >> 20 << 20
    return replace(chosen, workspace_bytes=max(workspace, 1 << 20))


def _read_back(context: BuildContext, plan: memoryview, name: str) -> tuple[tuple[Kernel, ...], int]:
    """The kernels of a plan, and the device memory that its activations need."""
    if context.options.backend == "tensorrt-rtx":
        program = rtx_program(plan)
        target = context.options.settings.target
        if program.tf32 or (program.forward_compatible if target else not program.forward_compatible):
            raise BackendError(f"{name} was not built as asked for: {program.target}, TF32 {program.tf32}.")
        if target and program.target != target:
            raise BackendError(f"{name} was built for {program.target}, and {target} was asked for.")
        return program.kernels, program.activation_bytes
    library = context.library
    runtime = library.create_runtime()
    engine = library.deserialize(runtime, plan, name)
    inspector = library.made(engine.create_engine_inspector(), "make an engine inspector")
    information = inspector.get_engine_information(library.module.LayerInformationFormat.JSON)
    return inspected_kernels(information), int(engine.device_memory_size_v2)


def _described(plan: PlanFacts) -> str:
    proof = plan.proof
    unknown = f", {proof.folded_products} products are in none" if proof.folded_products else ""
    used = f"{proof.fp16_kernels} of {proof.kernels} kernels use FP16"
    if proof.int8_kernels:
        used = f"{proof.int8_kernels} of {proof.kernels} kernels use INT8 and {proof.fp16_kernels} FP16"
    return (
        f"Built {plan.file}: {plan.bytes / _MB:.1f} MB, and {plan.activation_bytes / _MB:.1f} MB to run in, "
        f"in {plan.build_seconds:.1f} s; "
        f"{used}{unknown}, {proof.fused_attention} of {proof.attentions} attentions are fused"
    )
