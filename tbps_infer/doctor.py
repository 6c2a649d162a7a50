"""What this machine has, what a bundle can run on here, and whether it gives the numbers that it was exported with.

Nothing is changed and nothing is assumed: each finding is what was tried, with what to do when it failed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tbps_infer.bundle import Bundle
from tbps_infer.cores import usable_cores
from tbps_infer.devices import MemoryKind, installed_versions
from tbps_infer.errors import BackendError, TbpsError
from tbps_infer.host_memory import memory_info
from tbps_infer.images import load_crop
from tbps_infer.model_facts import BRANCHES, PRECISIONS, Branch, Precision
from tbps_infer.runners import Runner, RunOptions, open_runner
from tbps_infer.tensorrt.device_memory import DeviceMemory, find_gpu, open_memory
from tbps_infer.tensorrt.engine_folder import EngineFolder, engines_of
from tbps_infer.tensorrt.flavours import FLAVOURS
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import open_library
from tbps_infer.text import Tokenizer
from tbps_infer.triton.client import TritonClient
from tbps_infer.verification.golden import changed_captions, changed_crops, golden_cosine
from tbps_infer.verification.similarity import cosines
from tbps_infer.verification.tolerances import GOLDEN_COSINE, RESIZED_COSINE

__all__ = ["Finding", "Status", "examine_bundle", "examine_machine"]

Status = Literal["ok", "absent", "warning", "problem"]

_GIB = 1 << 30
_SERVING = ("fastapi", "uvicorn", "prometheus-client", "python-multipart")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What.
        status: ``ok``; ``absent`` where it is not here and need not be; ``warning`` where it differs and may be used;
            ``problem`` where something is wrong.
        detail: What was found.
        action: What to do about it; empty when there is nothing to do.
    """

    subject: str
    status: Status
    detail: str
    action: str = ""


def examine_machine(device: int = 0, memory: MemoryKind | None = None) -> Iterator[Finding]:
    """Look at what this machine has to run models with.

    Args:
        device: Index of the GPU.
        memory: The package that calls CUDA; the first that works when not given.
    """
    yield Finding("machine", "ok", f"{platform.platform()}, Python {platform.python_version()}")
    yield Finding("processor", "ok", f"{platform.machine()}, {usable_cores()} usable cores, {_memory_text()}")
    yield _gpu_finding(device, memory)
    yield _packages(
        "CUDA from Python", ("cuda-bindings", "pycuda"), "pip install 'cuda-bindings>=12.9.1'", wants_all=False
    )
    for name in FLAVOURS:
        yield _flavour(name)
    yield from _onnxruntime()
    yield _packages("searching faster", ("numkong", "usearch"), 'pip install "tbps-infer[search]"')
    yield _packages("serving", _SERVING, 'pip install "tbps-infer[serve]"')
    yield _packages("exporting", ("torch", "transformers", "onnx", "onnxscript"), 'pip install "tbps-infer[export]"')


def examine_bundle(
    path: Path, device: int = 0, memory: MemoryKind | None = None, triton: TritonClient | None = None
) -> Iterator[Finding]:
    """Check a bundle's files, replay its golden vectors, and say what of it runs here.

    Args:
        path: The bundle.
        device: Index of the GPU.
        memory: The package that calls CUDA; the first that works when not given.
        triton: A server that runs it, whose embeddings are compared as well.
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
    gpu = find_gpu(device, memory)
    yield from _graphs(bundle, RunOptions())
    yield from _graphs(bundle, RunOptions(precision="int8"))
    if gpu is not None:
        yield from _graphs(bundle, RunOptions("onnxruntime", f"cuda:{device}"))
        yield from _graphs(bundle, RunOptions("onnxruntime", f"cuda:{device}", "fp16"))
    try:
        folders = engines_of(path)
    except BackendError as error:
        yield Finding("engines", "problem", error.message, error.hint)
        return
    if not folders:
        yield Finding("engines", "absent", "none were built", f"On the device: tbps build {path} --fp16")
    for folder in folders:
        yield from _engines(folder, bundle, gpu, partial(open_memory, device, memory))
    if triton is not None:
        for branch in BRANCHES:
            yield _tried(f"triton {branch}", partial(_served, triton, bundle, branch))


def _served(triton: TritonClient, bundle: Bundle, branch: Branch) -> Finding:
    """Compare what a server gives for the golden crops and sentences, which it tokenizes itself."""
    model = "image" if branch == "image" else "text_graph"
    if (served := triton.parameter(model, "fingerprint")) != bundle.model.fingerprint:
        detail = f"the server runs the model {served[:12]}, and the bundle is {bundle.model.fingerprint[:12]}"
        return Finding("", "problem", detail, "Write its repository again: tbps deploy triton")
    golden = bundle.golden()
    precision = triton.parameter(model, "precision")
    if branch == "image":  # one at a time: a server may be told to take no more
        found = np.concatenate([triton.embed_images(crop[None]) for crop in golden.pixels])
        wanted = golden.image_embeddings
    else:
        found = np.concatenate([triton.embed_texts([caption]) for caption in golden.captions])
        wanted = golden.text_embeddings
    if found.shape != wanted.shape or precision not in PRECISIONS:
        return Finding("", "problem", f"{precision} embeddings of the shape {found.shape}, want {wanted.shape}")
    return _judged(float(cosines(found, wanted).min()), f"{precision}, of the bundle's fingerprint", precision)


def _tokenizer(bundle: Bundle) -> Finding:
    golden = bundle.golden()
    changed = changed_captions(golden, Tokenizer.from_bundle(bundle).encode(golden.captions))
    if changed:
        return Finding(
            "tokenizer",
            "problem",
            f"{changed} of {len(golden.captions)} golden captions become other tokens here",
            f"Install the tokenizers that the bundle was made with: {_version(bundle, 'tokenizers')}.",
        )
    return Finding("tokenizer", "ok", f"{len(golden.captions)} golden captions become the same tokens")


def _resizing(bundle: Bundle) -> Finding:
    golden = bundle.golden()
    crops = np.stack([load_crop(crop, bundle.model.preprocessing) for crop in golden.crops])
    changed, most = changed_crops(golden, crops)
    if not changed:
        return Finding("resizing", "ok", f"{len(crops)} golden crops have the same pixels")
    detail = f"{changed} of {len(crops)} golden crops have other pixels here, by {most} of 255 at most"
    made, here = _version(bundle, "pillow"), installed_versions(("pillow",))["pillow"]
    detail += f"; the bundle was made with {made}, and here is pillow {here}"
    try:
        runner = open_runner(bundle, "image", RunOptions())
    except BackendError as error:
        measure = f"How far that moves embeddings was not measured. {error.hint}".strip()
        return Finding("resizing", "warning", f"{detail}: {error.message}", measure)
    try:
        cosine = golden_cosine(dataclasses.replace(golden, pixels=crops), "image", runner)
    finally:
        runner.close()
    detail += f"; golden cosine {cosine:.7f} at least"
    if not cosine >= RESIZED_COSINE:
        mend = f"Install {made}, or export the bundle again with the one that is here."
        return Finding("resizing", "problem", f"{detail}; want {RESIZED_COSINE}", mend)
    return Finding("resizing", "ok" if cosine >= GOLDEN_COSINE["fp32"] else "warning", detail)


def _version(bundle: Bundle, package: str) -> str:
    """The package that made a bundle, as pip spells it."""
    version = bundle.versions.get(package)
    return f"{package}=={version}" if version else f"a {package} that it does not name"


def _graphs(bundle: Bundle, options: RunOptions) -> Iterator[Finding]:
    where = "cpu" if options.device == "cpu" else "cuda"
    for branch in BRANCHES:
        if options.precision == "fp32" or f"{branch}.{options.precision}.onnx" in bundle.files:
            opener = partial(open_runner, bundle, branch, options)
            yield _tried(
                f"onnxruntime {where} {options.precision} {branch}",
                partial(_replay, opener, bundle, branch, options.precision),
            )


def _replay(opener: Callable[[], Runner], bundle: Bundle, branch: Branch, precision: Precision) -> Finding:
    runner = opener()
    try:
        cosine = golden_cosine(bundle.golden(), branch, runner)
        described = runner.description
    finally:
        runner.close()
    return _judged(cosine, described, precision)


def _judged(cosine: float, described: str, precision: Precision) -> Finding:
    detail = f"golden cosine {cosine:.7f} at least, {described}"
    if not cosine >= (least := GOLDEN_COSINE[precision]):
        return Finding("", "problem", f"{detail}; want {least}", "Do not use it; build or export again.")
    return Finding("", "ok", detail)


def _engines(
    folder: EngineFolder, bundle: Bundle, gpu: GpuFacts | None, memory: Callable[[], DeviceMemory]
) -> Iterator[Finding]:
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
    proofs = [proof for plan in facts.plans for proof in plan.proofs]
    fp16 = sum(proof.fp16_kernels for proof in proofs)
    int8 = sum(proof.int8_kernels for proof in proofs)
    kernels = sum(proof.kernels for proof in proofs)
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

    def opened(branch: Branch) -> Runner:
        library = open_library(facts.flavour)
        folder.refuse_elsewhere(library.version, gpu)
        return run_folder(folder, bundle, branch, library, memory(), where=gpu.name)

    for branch in BRANCHES:
        attempt = partial(_replay, partial(opened, branch), bundle, branch, facts.precision)
        yield _tried(f"{facts.flavour} {facts.precision} {branch}", attempt)


def _tried(subject: str, attempt: Callable[[], Finding]) -> Finding:
    """What an attempt found, or the error that it ended with."""
    try:
        return dataclasses.replace(attempt(), subject=subject)
    except TbpsError as error:
        return Finding(subject, "problem", error.message, error.hint)


def _gpu_finding(device: int, kind: MemoryKind | None) -> Finding:
    try:
        memory = open_memory(device, kind)
    except BackendError as error:
        return Finding("GPU", "absent", error.message, error.hint)
    try:
        gpu = memory.gpu()
    except BackendError as error:  # it is there, and does not answer
        return Finding("GPU", "problem", error.message, error.hint)
    finally:
        memory.close()
    multiprocessors = f", {gpu.multiprocessors} multiprocessors" if gpu.multiprocessors else ""
    room = f"{gpu.free_bytes / _GIB:.1f} of {gpu.memory_bytes / _GIB:.1f} GiB free"
    versions = f"driver for CUDA {gpu.driver}, called by {memory.name} made for {gpu.runtime}"
    return Finding("GPU", "ok", f"{gpu.name}, {gpu.sm}{multiprocessors}, {room}, {versions}")


def _flavour(name: str) -> Finding:
    try:
        return Finding(name, "ok", open_library(name).version)
    except BackendError as error:
        installed = importlib.util.find_spec(FLAVOURS[name].module) is not None
        return Finding(name, "problem" if installed else "absent", error.message, error.hint)


def _onnxruntime() -> Iterator[Finding]:
    versions = installed_versions(("onnxruntime", "onnxruntime-gpu"))
    wheels = [f"{name} {version}" for name, version in versions.items()]
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
    found = installed_versions(names)
    enough = len(found) == len(names) if wants_all else bool(found)
    present = [f"{name} {version}" for name, version in found.items()]
    detail = ", ".join([*present, *(f"no {name}" for name in names if name not in found)])
    return Finding(subject, "ok" if enough else "absent", detail, "" if enough else install)


def _memory_text() -> str:
    memory = memory_info()
    if not {"MemTotal", "MemAvailable"} <= memory.keys():
        return "memory unknown"
    return f"{memory['MemAvailable'] / _GIB:.1f} of {memory['MemTotal'] / _GIB:.1f} GiB memory available"
