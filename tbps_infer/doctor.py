"""What this machine has, what a bundle can run on here, and whether it gives the numbers that it was exported with.

Nothing is changed and nothing is assumed: each finding is what was tried, with what to do when it failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tbps_infer.bundle import Bundle
from tbps_infer.cores import usable_cores
from tbps_infer.errors import BackendError, TbpsError
from tbps_infer.images import load_crop
from tbps_infer.model_facts import BRANCHES, Branch, Precision
from tbps_infer.runners import Runner, RunOptions, open_runner
from tbps_infer.tensorrt.device_memory import open_memory
from tbps_infer.tensorrt.engine_folder import EngineFolder, engines_of
from tbps_infer.tensorrt.flavours import FLAVOURS
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import open_library
from tbps_infer.text import Tokenizer
from tbps_infer.verification.golden import changed_captions, changed_crops, golden_cosine

__all__ = ["Finding", "Status", "examine_bundle", "examine_machine"]

Status = Literal["ok", "absent", "problem"]

# What a graph or engine must keep of the golden vectors; the limits of `tbps build` are narrower and in more ways.
_LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.95}
_GIB = 1 << 30
_RESIZED_ALIKE = 1
"""Of 255: other versions of Pillow round some pixels differently."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What.
        status: ``ok``; ``absent`` where it is not here and need not be; ``problem`` where something is wrong.
        detail: What was found.
        action: What to do about it; empty when there is nothing to do.
    """

    subject: str
    status: Status
    detail: str
    action: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as plain JSON values."""
        return dataclasses.asdict(self)


def examine_machine(device: int = 0) -> Iterator[Finding]:
    """Look at what this machine has to run models with.

    Args:
        device: Index of the GPU.
    """
    yield Finding("machine", "ok", f"{platform.platform()}, Python {platform.python_version()}")
    yield Finding("processor", "ok", f"{platform.machine()}, {usable_cores()} usable cores, {_memory_text()}")
    gpu = _gpu(device)
    yield gpu if isinstance(gpu, Finding) else _gpu_finding(gpu)
    yield _packages(
        "CUDA from Python", ("cuda-bindings", "pycuda"), "pip install 'cuda-bindings==12.*'", wants_all=False
    )
    for name in FLAVOURS:
        yield _flavour(name)
    yield from _onnxruntime()
    yield _packages("exporting", ("torch", "transformers", "onnx", "onnxscript"), 'pip install "tbps-infer[export]"')


def examine_bundle(path: Path, device: int = 0) -> Iterator[Finding]:
    """Check a bundle's files, replay its golden vectors, and say what of it runs here.

    Args:
        path: The bundle.
        device: Index of the GPU.
    """
    try:
        bundle = Bundle.open(path)
        bundle.check_files()
        bundle.golden()
    except TbpsError as error:
        yield Finding("bundle", "problem", error.message, error.hint)
        return
    yield Finding("bundle", "ok", f"{len(bundle.files)} files as they were exported, {bundle.created}")
    yield _tried("tokenizer", lambda: _tokenizer(bundle))
    yield _tried("resizing", lambda: _resizing(bundle))
    for branch in BRANCHES:
        yield _tried(
            f"onnxruntime cpu fp32 {branch}",
            lambda branch=branch: _replay(open_runner(bundle, branch, RunOptions()), bundle, branch, "fp32"),  # type: ignore[misc]
        )
    yield from _onnxruntime_cuda(bundle, device)
    try:
        folders = engines_of(path)
    except BackendError as error:
        yield Finding("engines", "problem", error.message, error.hint)
        return
    if not folders:
        yield Finding("engines", "absent", "none were built", f"On the device: tbps build {path} --fp16")
    gpu = _gpu(device)
    for folder in folders:
        yield from _engines(folder, bundle, gpu if isinstance(gpu, GpuFacts) else None, device)


def _tokenizer(bundle: Bundle) -> Finding:
    golden = bundle.golden()
    changed = changed_captions(golden, Tokenizer.from_bundle(bundle).encode(golden.captions))
    if changed:
        return Finding(
            "tokenizer",
            "problem",
            f"{changed} of {len(golden.captions)} golden captions become other tokens here",
            "Install the version of tokenizers that the bundle was made with, as tbps info tells.",
        )
    return Finding("tokenizer", "ok", f"{len(golden.captions)} golden captions become the same tokens")


def _resizing(bundle: Bundle) -> Finding:
    golden = bundle.golden()
    crops = np.stack([load_crop(crop, bundle.model.preprocessing) for crop in golden.crops])
    changed, most = changed_crops(golden, crops)
    detail = f"{changed} of {len(crops)} golden crops have other pixels here, by {most} of 255 at most"
    if most > _RESIZED_ALIKE:
        return Finding("resizing", "problem", detail, "Install the newest Pillow: pip install -U pillow.")
    return Finding("resizing", "ok", detail if changed else f"{len(crops)} golden crops have the same pixels")


def _replay(runner: Runner, bundle: Bundle, branch: Branch, precision: str) -> Finding:
    try:
        cosine = golden_cosine(bundle.golden(), branch, runner)
        detail = f"golden cosine {cosine:.7f} at least, {runner.description}"
    finally:
        runner.close()
    if not cosine >= _LEAST_COSINE[precision]:
        return Finding(
            "", "problem", f"{detail}; want {_LEAST_COSINE[precision]}", "Do not use it; build or export again."
        )
    return Finding("", "ok", detail)


def _onnxruntime_cuda(bundle: Bundle, device: int) -> Iterator[Finding]:
    if not isinstance(_gpu(device), GpuFacts):
        return
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        for branch in BRANCHES:
            if precision == "fp16" and f"{branch}.fp16.onnx" not in bundle.files:
                continue
            options = RunOptions("onnxruntime", f"cuda:{device}", precision)
            yield _tried(
                f"onnxruntime cuda {precision} {branch}",
                lambda branch=branch, options=options: _replay(  # type: ignore[misc]
                    open_runner(bundle, branch, options), bundle, branch, options.precision
                ),
            )


def _engines(folder: EngineFolder, bundle: Bundle, gpu: GpuFacts | None, device: int) -> Iterator[Finding]:
    from tbps_infer.tensorrt.runner import refuse_other_graphs, run_folder

    facts, name = folder.facts, f"engines {folder.path.name}"
    try:
        refuse_other_graphs(folder, bundle)
        for plan in facts.plans:
            folder.check_plan(plan)
    except BackendError as error:
        yield Finding(name, "problem", error.message, error.hint)
        return
    checked = f"checked on {facts.self_check['gpu']}" if facts.self_check.get("passed") else "never executed"
    fp16 = sum(plan.proof.fp16_kernels for plan in facts.plans)
    int8 = sum(plan.proof.int8_kernels for plan in facts.plans)
    kernels = sum(plan.proof.kernels for plan in facts.plans)
    yield Finding(
        name,
        "ok",
        f"{len(facts.plans)} plans as they were built, {fp16} of {kernels} kernels FP16"
        f"{f' and {int8} INT8' if int8 else ''}, {checked}",
    )
    if gpu is None:
        yield Finding(name, "absent", "not tried: no GPU here", "Copy the bundle to the device, or build there.")
        return
    try:
        folder.refuse_other_gpu(gpu)
    except BackendError as error:  # a bundle may hold engines for several machines
        yield Finding(name, "absent", f"not tried: {error.message}", error.hint)
        return
    for branch in BRANCHES:

        def replay(branch: Branch = branch) -> Finding:
            library = open_library(facts.flavour)
            folder.refuse_elsewhere(library.version, gpu)
            runner = run_folder(folder, bundle, branch, library, open_memory(device), where=gpu.name)
            return _replay(runner, bundle, branch, facts.precision)

        yield _tried(f"{facts.flavour} {facts.precision} {branch}", replay)


def _tried(subject: str, attempt: Callable[[], Finding]) -> Finding:
    """What an attempt found, or the error that it ended with."""
    try:
        return dataclasses.replace(attempt(), subject=subject)
    except TbpsError as error:
        return Finding(subject, "problem", error.message, error.hint)


def _gpu(device: int) -> GpuFacts | Finding:
    try:
        memory = open_memory(device)
    except BackendError as error:
        return Finding("GPU", "absent", error.message, error.hint)
    try:
        return memory.gpu()
    except BackendError as error:  # it is there, and does not answer
        return Finding("GPU", "problem", error.message, error.hint)
    finally:
        memory.close()


def _gpu_finding(gpu: GpuFacts) -> Finding:
    memory = f"{gpu.free_bytes / _GIB:.1f} of {gpu.memory_bytes / _GIB:.1f} GiB free"
    return Finding(
        "GPU", "ok", f"{gpu.name}, {gpu.sm}, {memory}, driver for CUDA {gpu.driver}, runtime {gpu.runtime}"
    )


def _flavour(name: str) -> Finding:
    try:
        return Finding(name, "ok", open_library(name).version)
    except BackendError as error:
        installed = importlib.util.find_spec(FLAVOURS[name].module) is not None
        return Finding(name, "problem" if installed else "absent", error.message, error.hint)


def _onnxruntime() -> Iterator[Finding]:
    wheels = _versions(("onnxruntime", "onnxruntime-gpu"))
    if not wheels:
        yield Finding("onnxruntime", "absent", "not installed", 'pip install "tbps-infer[cpu]", or [gpu]')
        return
    if len(wheels) > 1:
        yield Finding(
            "onnxruntime",
            "problem",
            f"{' and '.join(wheels)} are both installed and overwrite each other's files",
            'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "tbps-infer[gpu]"',
        )
        return
    import onnxruntime

    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    yield Finding("onnxruntime", "ok", f"{wheels[0]} with {providers}")


def _packages(subject: str, names: tuple[str, ...], install: str, *, wants_all: bool = True) -> Finding:
    found = _versions(names)
    enough = len(found) == len(names) if wants_all else bool(found)
    missing = [name for name in names if not any(text.startswith(f"{name} ") for text in found)]
    detail = ", ".join([*found, *(f"no {name}" for name in missing)])
    return Finding(subject, "ok" if enough else "absent", detail, "" if enough else install)


def _versions(names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found


def _memory_text() -> str:
    if not hasattr(os, "sysconf") or sys.platform == "win32":
        return "memory unknown"
    values: dict[str, Any] = {}
    for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"):
        with contextlib.suppress(ValueError, OSError):
            values[name] = os.sysconf(name)
    if len(values) < 3:
        return "memory unknown"
    total, free = (values[name] * values["SC_PAGE_SIZE"] / _GIB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return f"{free:.1f} of {total:.1f} GiB memory free"
