"""The plans of a build: both branches' graphs converted, built, and proven to have the precision asked for."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tbps_infer.export.engines.activations import predicted_activation_bytes
from tbps_infer.export.engines.options import BuildContext
from tbps_infer.export.engines.read_back import read_back
from tbps_infer.export.engines.source_graphs import engine_graph, graph_precision
from tbps_infer.model_facts import BRANCHES, Branch
from tbps_infer.tensorrt.device_memory import DeviceMemory, device_of, open_memory
from tbps_infer.tensorrt.engine_folder import ENGINES, PlanFacts
from tbps_infer.tensorrt.plan_builder import build_plan
from tbps_infer.tensorrt.plan_spec import BuildSettings, plan_spec
from tbps_infer.tensorrt.precision_proof import GraphPrecision, Source, prove_precision
from tbps_infer.tensorrt.timing_cache import TimingCache, timing_cache_file

__all__ = ["build_plans"]

_MB = 1e6
# Of the free memory: weights, activations and what else runs on the device need the rest.
_WORKSPACE_SHARE = 0.5


def build_plans(context: BuildContext, folder: Path) -> tuple[tuple[PlanFacts, ...], dict[str, Any]]:
    """Build a plan for images into a folder and one for captions, or one for each of their lengths.

    Returns:
        What is known of each plan, and by branch what became of the graph's nodes (empty for FP32).

    Raises:
        UsageError: An option does not fit the flavour or the model.
        BackendError: TensorRT fails, or the precision is not what was asked for.
        VerificationError: A graph does not fit FP16.
    """
    options = context.options
    plans: list[PlanFacts] = []
    mixed: dict[str, Any] = {}
    with _building_device(context) as device, tempfile.TemporaryDirectory(dir=folder, prefix="graphs-") as scratch:
        for branch in BRANCHES:
            if options.precision != "fp32":
                context.on_step(f"Converting the {branch} branch to mixed precision")
            graph, report = engine_graph(context.bundle, branch, options.precision, options.mixed, Path(scratch))
            if report is not None:
                mixed[branch] = report.to_json()
            source = _BranchGraph(branch, graph, graph_precision(graph, options.precision))
            plans += [_build(context, device, folder, source, lengths) for lengths in _plan_lengths(context, branch)]
    return tuple(plans), mixed


@dataclass(frozen=True)
class _Device:
    """What building on a device needs: its memory and the times of its kernels. None for TensorRT for RTX."""

    memory: DeviceMemory
    times: TimingCache


@dataclass(frozen=True)
class _BranchGraph:
    """A branch's graph, and what it asks of its engines."""

    branch: Branch
    graph: Path
    wanted: GraphPrecision


def _plan_lengths(context: BuildContext, branch: Branch) -> tuple[tuple[int, ...], ...]:
    """The text lengths of each plan of a branch. One plan with all of them holds the weights once."""
    if branch == "image":
        return ((),)
    lengths = context.options.lengths_for(context.bundle.model)
    return (lengths,) if context.library.several_profiles else tuple((length,) for length in lengths)


@contextlib.contextmanager
def _building_device(context: BuildContext) -> Iterator[_Device | None]:
    """Make the chosen device the thread's own where one is needed: the builder takes whichever is."""
    options, library = context.options, context.library
    if not library.flavour.needs_gpu_to_build:
        yield None
        return
    memory = open_memory(options.device, options.memory)
    try:
        with device_of(memory):
            path = options.timing_cache or context.bundle.path / ENGINES / timing_cache_file(library, memory.gpu())
            named = options.timing_cache is not None
            yield _Device(memory, TimingCache(library, path, named=named, on_step=context.on_step))
    finally:
        memory.close()


def _build(
    context: BuildContext, device: _Device | None, folder: Path, source: _BranchGraph, lengths: tuple[int, ...]
) -> PlanFacts:
    """Build, write and prove one plan."""
    batch = context.options.batch(source.branch)
    alone = f"-{lengths[0]}" if lengths and not context.library.several_profiles else ""
    name = f"{source.branch}{alone}.plan"
    spec = plan_spec(context.bundle.model, source.branch, batch, lengths)
    greatest = {each: shapes.maximum for each, shapes in spec.profiles[-1].items()}
    predicted = predicted_activation_bytes(source.graph, greatest)
    activations = "activations unknown" if predicted is None else f"about {predicted / _MB:.0f} MB of activations"
    context.on_step(f"Building {name}: {activations} at batch {batch.maximum}")
    started = time.monotonic()
    plan = build_plan(
        context.library,
        source.graph,
        spec,
        _settings(context),
        timing_cache=None if device is None else device.times,
        on_progress=lambda phase, done, steps: context.on_progress(name, phase, done, steps),
    )
    seconds = time.monotonic() - started
    (folder / name).write_bytes(plan)
    origin: Source = "plan" if device is None else "inspector"
    memory = None if device is None else device.memory
    profiles, activation_bytes = read_back(context, memory, plan, spec, name)
    facts = PlanFacts(
        file=name,
        branch=source.branch,
        lengths=lengths,
        bytes=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(),
        build_seconds=round(seconds, 3),
        activation_bytes=activation_bytes,
        predicted_activation_bytes=predicted,
        proofs=tuple(prove_precision(kernels, source.wanted, origin, name) for kernels in profiles),
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


def _described(plan: PlanFacts) -> str:
    def count(name: str) -> int:
        return sum(getattr(proof, name) for proof in plan.proofs)

    parts = [f"{count('fp16_kernels')} of {count('kernels')} kernels use FP16"]
    if count("int8_kernels"):
        parts = [f"{count('int8_kernels')} of {count('kernels')} kernels use INT8 and {count('fp16_kernels')} FP16"]
    if count("folded_products"):
        parts.append(f"{count('folded_products')} products are in none")
    if count("unknown_kernels"):
        parts.append(f"of {count('unknown_kernels')} with {count('unknown_products')} products the type is unknown")
    parts.append(f"{count('fused_attention')} of {count('attentions')} attentions are fused")
    return (
        f"Built {plan.file}: {plan.bytes / _MB:.1f} MB, and {plan.activation_bytes / _MB:.1f} MB to run in, "
        f"in {plan.build_seconds:.1f} s; {', '.join(parts)}"
    )
