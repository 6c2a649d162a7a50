"""The self-check after a build: do the engines do, on this GPU, what the bundle's reference does?

Engines have given wrong numbers in silence: FP16 transformers on 10.3 (NVIDIA/TensorRT#4723), CLIP in FP16 (#2709),
equal rows that came out different on 11.1 (#4813), batches above 1 (#4853), fused attention on sm_120 (#4837). Hence
no engine is installed that was not tried, where there is a GPU to try it on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError, FeedError, VerificationError
from tbps_infer.export.engines.source_graphs import source_precision
from tbps_infer.model_facts import Branch, Precision
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import Feeds, Runner
from tbps_infer.tensorrt.device_memory import open_memory
from tbps_infer.tensorrt.engine_folder import EngineFolder
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import Library
from tbps_infer.tensorrt.runner import run_folder
from tbps_infer.verification.golden import golden_cosine
from tbps_infer.verification.parity import Embed, Shapes, measure_parity
from tbps_infer.verification.samples import SAMPLE_CROPS, bundle_samples
from tbps_infer.verification.tolerances import PARITY

__all__ = ["check_engines", "compare_with_reference", "open_engines_of"]

_BRANCHES: tuple[Branch, ...] = ("image", "text")


def check_engines(
    folder: EngineFolder,
    bundle: Bundle,
    library: Library,
    gpu: GpuFacts | None,
    device: int,
    on_step: Callable[[str], None] = lambda _step: None,
) -> dict[str, Any]:
    """Try engines on this machine's GPU, if they run on it.

    Args:
        folder: The engines, in their place or not yet.
        bundle: Whose graphs they were made from.
        library: Loads them.
        gpu: This machine's.
        device: Its index.
        on_step: Called with a sentence.

    Returns:
        ``{"executed": false, "reason": ...}`` where they cannot run, else the reports with ``"passed": true`` and the
        GPU's name.

    Raises:
        VerificationError: They do not do what the reference does.
        BackendError: They do not run.
    """
    facts = folder.facts
    if gpu is None:
        on_step("No GPU here: the engines were not executed, and engine.json says so")
        return {"executed": False, "passed": False, "reason": "there was no GPU on the machine that built them"}
    try:
        folder.refuse_elsewhere(library.version, gpu)
    except BackendError as error:
        on_step("The engines are for another GPU: they were not executed, and engine.json says so")
        return {"executed": False, "passed": False, "reason": error.message}
    on_step(f"Checking the engines on {gpu.name}")
    with contextlib.ExitStack() as stack:
        runners: dict[Branch, Runner] = {}
        for branch in _BRANCHES:
            runners[branch] = open_engines_of(folder, bundle, branch, library, device)
            stack.callback(runners[branch].close)
        lengths = tuple(plan.length for plan in facts.plans if plan.length is not None)
        shapes = Shapes(facts.batch, lengths, SAMPLE_CROPS)
        return {"gpu": gpu.name, **compare_with_reference(bundle, runners, shapes, facts.precision)}


def open_engines_of(folder: EngineFolder, bundle: Bundle, branch: Branch, library: Library, device: int) -> Runner:
    """A runner over engines that need not be in their place yet. Raises BackendError when they do not run."""
    where = folder.facts.gpu.name if folder.facts.gpu else f"cuda:{device}"
    return run_folder(folder, bundle, branch, library, open_memory(device), where=where)


def compare_with_reference(
    bundle: Bundle, runners: Mapping[Branch, Runner], shapes: Shapes, precision: Precision
) -> dict[str, Any]:
    """Golden vectors against PyTorch's numbers, and real people against the bundle's graphs on the CPU.

    Those are the graphs that the engines were made from: FP32, or INT8, whose loss the export has judged and which
    say how near to PyTorch INT8 can come.

    Raises:
        VerificationError: A limit is not kept; all of them are named.
        BackendError: ONNX Runtime, which runs the reference, is not installed.
    """
    limits, source = PARITY[precision], source_precision(precision)
    golden = {branch: _golden(bundle, branch, runner) for branch, runner in runners.items()}
    least = dict.fromkeys(_BRANCHES, limits.cosine)
    with contextlib.ExitStack() as stack:
        reference: dict[Branch, Embed] = {}
        for branch in _BRANCHES:
            runner = OnnxRuntimeRunner(bundle.check_graph(branch, source), RunOptions(precision=source))
            stack.callback(runner.close)
            reference[branch] = _embed(runner, branch)
            if source != "fp32":
                least[branch] -= 1 - _golden(bundle, branch, runner)
        report = measure_parity(reference, runners, bundle.model.layout, bundle_samples(bundle), shapes, limits)
    failures = [
        *(
            f"The golden {branch} vectors have a cosine of {cosine:.7f}, and the limit is {least[branch]:.7g}."
            for branch, cosine in golden.items()
            if not cosine >= least[branch]
        ),
        *report.failures,
    ]
    if failures:
        raise VerificationError(
            " ".join(failures),
            "The engines were not installed. Keep more in FP32 (--auto-islands, --keep-fp32), or build in fp32.",
        )
    return {"executed": True, "golden_cosine": golden, **report.to_json(), "passed": True}


def _golden(bundle: Bundle, branch: Branch, runner: Runner) -> float:
    try:
        return golden_cosine(bundle.golden(), branch, runner)
    except (BackendError, FeedError) as error:
        raise VerificationError(f"The {branch} branch does not run: {error.message}", error.hint) from error


def _embed(runner: Runner, branch: Branch) -> Embed:
    def embed(feeds: Feeds) -> NDArray[np.float32]:
        return runner.run(feeds)[f"{branch}_embedding"]

    return embed
