"""Engines from a bundle's graphs, on the machine that will run them: no torch, no transformers.

All is made in a folder beside its place, proven, checked on the GPU where there is one, and only then moved there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from tbps_infer.atomic import new_folder
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError, BundleError
from tbps_infer.export.engines.failed import failed_place
from tbps_infer.export.engines.options import BuildContext, EngineOptions, OnPlanProgress, source_precision
from tbps_infer.export.engines.plans import build_plans
from tbps_infer.export.engines.self_check import check_engines
from tbps_infer.model_facts import BRANCHES
from tbps_infer.tensorrt.device_memory import find_gpu, why_no_gpu
from tbps_infer.tensorrt.engine_folder import ENGINES, PORTABLE_TARGET, EngineFacts, EngineFolder, spec_hash
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import Library, open_library
from tbps_infer.tensorrt.plan_builder import check_target
from tbps_infer.verification.gate import record_verdict

__all__ = ["BuiltEngines", "build_engines", "check_buildable"]


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

    On any error, and on an interruption, what was there before is there still, and nothing else is but the timing
    cache and engines that failed, which the next build replaces.

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
            do not pass the gate; they are not installed, and kept aside in the folder that the hint names.
    """
    bundle = Bundle.open(bundle_path)
    library, gpu = check_buildable(options)
    for branch in BRANCHES:
        bundle.check_graph(branch, source_precision(options.precision))
    context = BuildContext(bundle, options, library, gpu, on_step, on_progress)
    facts = _planned(context)
    place = bundle.path / ENGINES / facts.folder_name
    ready = None if options.rebuild else _ready_engines(place, facts.spec)
    if ready is not None:
        engines, verdict = check_engines(context, ready)
    else:
        with new_folder(place, BundleError, replace=True) as folder:
            plans, mixed = build_plans(context, folder)
            created = datetime.now(timezone.utc).isoformat(timespec="seconds")
            facts = replace(facts, plans=plans, mixed_precision=mixed, created=created)
            _, verdict = check_engines(context, EngineFolder(folder, facts))
        engines = EngineFolder.open(place)
        shutil.rmtree(failed_place(bundle, facts), ignore_errors=True)
    if verdict is not None:
        record_verdict(bundle.path, verdict)
    return BuiltEngines(engines, built=ready is None)


def check_buildable(options: EngineOptions) -> tuple[Library, GpuFacts | None]:
    """The library that builds and the GPU to build on, if this machine can build as asked for.

    Raises:
        UsageError: An option does not apply to the flavour, or it does not build for the target.
        BackendError: TensorRT is missing, or a GPU where one is needed: to build, or to verify on data.
    """
    library = open_library(options.backend)
    library.flavour.refuse_ignored({**vars(options.settings), "timing_cache": options.timing_cache})
    if options.settings.target is not None:
        check_target(library, options.settings.target)
    gpu = find_gpu(options.device, options.memory)
    if gpu is None and library.flavour.needs_gpu_to_build:
        reason = why_no_gpu(options.device, options.memory)
        raise BackendError(
            f"{library} builds for the GPU of this machine, and there is none that CUDA finds. {reason.message}",
            f"{reason.hint} Run tbps build on the device itself; tbps doctor says what is missing.",
        )
    if gpu is None and options.device > 0:  # named by the user, and not the one that is taken where none was
        raise why_no_gpu(options.device, options.memory)
    if gpu is None and options.gate_on is not None:
        raise BackendError(
            "Data to verify on were given, and there is no GPU here to run the engines on.",
            "Build without them, and run tbps verify on the device.",
        )
    return library, gpu


def _planned(context: BuildContext) -> EngineFacts:
    """What is known of engines before they are built: all that they follow from, and with it their folder's name."""
    options, library, gpu = context.options, context.library, context.gpu
    source = source_precision(options.precision)
    names = [name for branch in BRANCHES for name in context.bundle.graph_files(branch, source)]
    built_for: dict[str, Any] = {"target": options.settings.target or PORTABLE_TARGET}
    if library.flavour.needs_gpu_to_build and gpu is not None:
        built_for = {"name": gpu.name, "sm": gpu.sm, "driver": gpu.driver, "runtime": gpu.runtime}
    spec = {
        **options.to_json(context.bundle.model),
        "graphs": {name: context.bundle.files[name].sha256 for name in names},
        "flavour": options.backend,
        "version": library.version,
        "built_for": built_for,
        "tbps_infer": metadata.version("tbps-infer"),
    }
    return EngineFacts(
        flavour=options.backend,
        version=library.version,
        precision=options.precision,
        target=options.settings.target,
        gpu=gpu,
        spec=spec,
        plans=(),
        mixed_precision={},
        self_check={},
        created="",
    )


def _ready_engines(place: Path, spec: Mapping[str, Any]) -> EngineFolder | None:
    """The engines in their place, if they are whole and were made from the same things."""
    try:
        ready = EngineFolder.open(place)
        for plan in ready.facts.plans:
            ready.check_plan(plan)
    except BackendError:
        return None
    return ready if spec_hash(ready.facts.spec) == spec_hash(spec) else None
