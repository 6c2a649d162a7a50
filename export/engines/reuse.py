"""Engines that a bundle has already: whether they are what was asked for, and whether they were ever tried."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tbps_infer.atomic import write_text
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError, BundleError, VerificationError
from tbps_infer.export.engines.options import EngineOptions
from tbps_infer.export.engines.self_check import check_engines
from tbps_infer.export.engines.source_graphs import source_precision
from tbps_infer.model_facts import Branch
from tbps_infer.tensorrt.engine_folder import (
    ENGINE_JSON,
    ENGINES,
    PORTABLE_TARGET,
    EngineFacts,
    EngineFolder,
    spec_hash,
)
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import Library

__all__ = ["build_spec", "engines_place", "ready_engines", "try_engines", "write_facts"]

_BRANCHES: tuple[Branch, ...] = ("image", "text")


def build_spec(bundle: Bundle, options: EngineOptions, library: Library, gpu: GpuFacts | None) -> dict[str, Any]:
    """All that the engines follow from, as plain JSON values; the GPU only where they are built for it."""
    source = source_precision(options.precision)
    names = [name for branch in _BRANCHES for name in bundle.graph_files(branch, source)]
    built_for: dict[str, Any] = {"target": options.settings.target or PORTABLE_TARGET}
    if library.flavour.needs_gpu_to_build and gpu is not None:
        built_for = {"name": gpu.name, "sm": gpu.sm, "driver": gpu.driver, "runtime": gpu.runtime}
    return {
        **options.to_json(bundle.model),
        "graphs": {name: bundle.files[name].sha256 for name in names},
        "flavour": options.backend,
        "version": library.version,
        "built_for": built_for,
        "tbps_infer": metadata.version("tbps-infer"),
    }


def engines_place(bundle: Bundle, options: EngineOptions, library: Library, gpu: GpuFacts | None) -> Path:
    """The folder that engines are installed in."""
    if library.flavour.needs_gpu_to_build and gpu is not None:
        built_for = gpu.label
    else:
        built_for = options.settings.target or PORTABLE_TARGET
    return bundle.path / ENGINES / f"{options.backend}-{library.version}-{built_for}-{options.precision}"


def ready_engines(place: Path, spec: Mapping[str, Any]) -> EngineFolder | None:
    """The engines that are there, if they are whole and were made from the same things."""
    try:
        there = EngineFolder.open(place)
        for plan in there.facts.plans:
            there.check_plan(plan)
    except BackendError:
        return None
    return there if spec_hash(there.facts.spec) == spec_hash(spec) else None


def try_engines(
    there: EngineFolder,
    bundle: Bundle,
    library: Library,
    gpu: GpuFacts | None,
    device: int,
    on_step: Callable[[str], None],
) -> EngineFolder:
    """Engines that were never executed, as those built on another machine, tried on the GPU that is here now.

    Returns:
        The same engines; with the self-check's report in their ``engine.json`` where they were tried.

    Raises:
        VerificationError: They do not do what the reference does; they are removed.
        BackendError: They do not run.
    """
    if there.facts.self_check.get("executed") or gpu is None:
        return there
    try:
        report = check_engines(there, bundle, library, gpu, device, on_step)
    except VerificationError as error:
        shutil.rmtree(there.path)
        with contextlib.suppress(OSError):  # not empty: there are others
            there.path.parent.rmdir()
        raise VerificationError(
            error.message, "The engines, which were built without trying them, were removed. Build them again here."
        ) from error
    if not report["executed"]:
        return there
    write_facts(there.path, replace(there.facts, self_check=report))
    return EngineFolder.open(there.path)


def write_facts(folder: Path, facts: EngineFacts) -> None:
    """Write a folder's ``engine.json`` whole or not at all; raises BundleError where that cannot be."""
    text = json.dumps(facts.to_json(), indent=2, ensure_ascii=False) + "\n"
    write_text(folder / ENGINE_JSON, text, BundleError)
