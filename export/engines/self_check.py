"""What engines are held to before they are kept: parity with the bundle's reference, and the gate on the user's data.

Engines have given wrong numbers in silence: FP16 transformers on 10.3 (NVIDIA/TensorRT#4723), CLIP in FP16 (#2709),
equal rows that came out different on 11.1 (#4813), batches above 1 (#4853), fused attention on sm_120 (#4837). Hence
no engine is installed that was not tried, where there is a GPU to try it on. Those that fail are kept aside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.bundle import Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError, FeedError, VerificationError
from tbps_infer.export.engines.failed import failed_place, set_aside
from tbps_infer.export.engines.options import BuildContext, source_precision
from tbps_infer.model_facts import BRANCHES, Branch, Precision
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import Feeds, Runner
from tbps_infer.tensorrt.device_memory import open_memory
from tbps_infer.tensorrt.engine_folder import EngineFacts, EngineFolder, write_facts
from tbps_infer.tensorrt.runner import run_folder
from tbps_infer.text import Tokenizer
from tbps_infer.verification.evaluation_set import EvaluationSet
from tbps_infer.verification.gate import GateResult, hold_to_gate
from tbps_infer.verification.golden import golden_cosine
from tbps_infer.verification.parity import Embed, Shapes, measure_parity
from tbps_infer.verification.references import graphs_reference
from tbps_infer.verification.samples import SAMPLE_CROPS, Samples, bundle_samples
from tbps_infer.verification.similarity import largest_difference
from tbps_infer.verification.tolerances import FP16_ROUNDING, GATE, PARITY, refuse_failures

__all__ = ["check_engines", "compare_with_reference"]


def check_engines(context: BuildContext, folder: EngineFolder) -> tuple[EngineFolder, GateResult | None]:
    """Try engines on this machine's GPU, if they run on it, and write what came of it into their ``engine.json``.

    They are compared with the reference unless they were before, and held to the gate where there are data to do so.
    Both run the same two runners, so that each engine is loaded once.

    Args:
        context: Of the build.
        folder: Engines not yet in their place, whose facts have no self-check; or engines in their place.

    Returns:
        The engines with their self-check, the report or why they were not executed; and what came of the gate, to be
        recorded when they are in their place, None without data.

    Raises:
        VerificationError: They do not do what the reference does, or do not pass the gate. Unless they were in their
            place and do what the reference does, they are moved to the folder that the hint names.
        BackendError: They do not run, or there are data for the gate and they cannot be executed on this machine.
        BundleError: ``engine.json`` cannot be written.
    """
    data, known = context.options.gate_on, folder.facts.self_check
    if known and (context.gpu is None or (known["executed"] and data is None)):
        return folder, None
    reason = _why_not_executed(context, folder)
    if reason is not None and data is not None:
        raise BackendError(
            f"The engines cannot be held to the gate: {reason.rstrip('.')}.",
            "Build them on the machine that runs them, or without data to verify on.",
        )
    if reason is not None:
        place = "No GPU here: the engines" if context.gpu is None else "The engines are for another GPU: they"
        context.on_step(f"{place} were not executed, and engine.json says so")
        return (folder if known else _record(folder, {"executed": False, "passed": False, "reason": reason})), None
    report: dict[str, Any] = {}
    try:
        with _open_candidate(context, folder) as candidate:
            if not known.get("executed"):
                report = _self_check(context, folder, candidate)
                refuse_failures(
                    report["failures"], "Keep more in FP32 (--auto-islands, --keep-fp32), or build in fp32."
                )
                folder = _record(folder, report)
            return folder, None if data is None else _gate(context, folder, candidate, data)
    except VerificationError as error:
        if known and (known["executed"] or report.get("passed")):
            raise
        aside = failed_place(context.bundle, folder.facts)
        set_aside(folder, {**report, "passed": False, "refused": error.message}, aside)
        state = "were removed from their place" if known else "were not installed"
        raise VerificationError(
            error.message, f"The engines {state}; they are in {aside}, with the report. {error.hint}"
        ) from error


def _why_not_executed(context: BuildContext, folder: EngineFolder) -> str | None:
    """Why the engines do not run on this machine; None where they do."""
    if context.gpu is None:
        return "there was no GPU on the machine that built them"
    try:
        folder.refuse_elsewhere(context.library.version, context.gpu)
    except BackendError as error:
        return error.message
    return None


def _record(folder: EngineFolder, report: dict[str, Any]) -> EngineFolder:
    """Write a self-check into the engines' ``engine.json``."""
    write_facts(folder.path, replace(folder.facts, self_check=report))
    return EngineFolder.open(folder.path)


def _open_candidate(context: BuildContext, folder: EngineFolder) -> Encoder:
    """An encoder over engines that need not be in their place yet; it opens each branch at its first use, once."""
    bundle, device, memory = context.bundle, context.options.device, context.options.memory
    where = folder.facts.gpu.name if folder.facts.gpu else f"cuda:{device}"
    # What the facts say of an earlier self-check is outdated by the time the gate asks for a description.
    unchecked = replace(folder, facts=replace(folder.facts, self_check={}))

    def opener(branch: Branch) -> Callable[[], Runner]:
        return lambda: run_folder(
            unchecked, bundle, branch, context.library, open_memory(device, memory), where=where
        )

    return Encoder(bundle.model, Tokenizer.from_bundle(bundle), opener("image"), opener("text"))


def _self_check(context: BuildContext, folder: EngineFolder, candidate: Encoder) -> dict[str, Any]:
    """The report of `compare_with_reference` with the GPU's name."""
    assert context.gpu is not None
    context.on_step(f"Checking the engines on {context.gpu.name}")
    facts = folder.facts
    lengths = tuple(length for plan in facts.plans for length in plan.lengths)
    runners = {branch: candidate.runner(branch) for branch in BRANCHES}
    shapes = Shapes(facts.batch_sizes, lengths, SAMPLE_CROPS)
    report = compare_with_reference(context.bundle, runners, shapes, facts.precision)
    failures = [*report["failures"], *_unrounded(facts, report["differences"])]
    return {"gpu": context.gpu.name, **report, "failures": failures, "passed": not failures}


def _unrounded(facts: EngineFacts, differences: Mapping[str, float]) -> Iterator[str]:
    """A sentence for each FP16 profile that does not tell its types and whose numbers are those of FP32.

    FP32 engines need none of this: FP16's rounding exceeds what they may differ by. INT8's rounding is in the graph,
    whatever an engine computes it in, so what such an engine does not tell stays unknown.
    """
    for plan in facts.plans if facts.precision == "fp16" else ():
        for name, proof in zip(_profile_names(plan.branch, plan.lengths), plan.proofs, strict=True):
            if proof.unknown_products and not differences[name] >= FP16_ROUNDING:
                yield (
                    f"The {name} engine does not tell the types of {proof.unknown_products} products, and differs "
                    f"from FP32 by {differences[name]:.2g} at most: FP16 was asked for and rounds by more."
                )


def _profile_names(branch: Branch, lengths: Sequence[int]) -> list[str]:
    return [f"{branch}-{length}" for length in lengths] if branch == "text" else [branch]


def _gate(context: BuildContext, folder: EngineFolder, candidate: Encoder, data: EvaluationSet) -> GateResult:
    """Hold engines to the gate, beside their bundle's FP32 graphs on the CPU. Raises VerificationError."""
    facts = folder.facts
    context.on_step(f"Holding the engines to the gate on {data}")
    run = RunOptions(facts.flavour, f"cuda:{context.options.device}", facts.precision, memory=context.options.memory)
    result = hold_to_gate(candidate, run, graphs_reference(context.bundle), data, GATE[facts.precision])
    refuse_failures(
        result.verdict.failures,
        "No new engine was installed. Keep more in FP32: --auto-islands, --keep-fp32.",
        f"The gate refuses {run.label}: ",
    )
    return result


def compare_with_reference(
    bundle: Bundle, runners: Mapping[Branch, Runner], shapes: Shapes, precision: Precision
) -> dict[str, Any]:
    """Golden vectors against PyTorch's numbers, and real people against the bundle's graphs on the CPU.

    Those are the graphs that the engines were made from: FP32, or INT8, whose loss the export has judged and which
    say how near to PyTorch INT8 can come.

    Returns:
        What was measured; whether it ``passed``; and the ``failures``, a sentence for each limit that is not kept.

    Raises:
        VerificationError: An engine does not run at all.
        BackendError: ONNX Runtime, which runs the reference, is not installed.
    """
    limits, source = PARITY[precision], source_precision(precision)
    golden = {branch: _golden(bundle, branch, runner) for branch, runner in runners.items()}
    least = dict.fromkeys(BRANCHES, limits.cosine)
    with contextlib.ExitStack() as stack:
        reference: dict[Branch, Embed] = {}
        for branch in BRANCHES:
            runner = OnnxRuntimeRunner(bundle.check_graph(branch, source), RunOptions(precision=source))
            stack.callback(runner.close)
            reference[branch] = _embed(runner, branch)
            if source != "fp32":
                least[branch] -= 1 - _golden(bundle, branch, runner)
        samples = bundle_samples(bundle)
        report = measure_parity(reference, runners, bundle.model.layout, samples, shapes, limits)
        differences = _differences(reference, runners, samples, shapes)
    failures = [
        *(
            f"The golden {branch} vectors have a cosine of {cosine:.7f}, and the limit is {least[branch]:.7g}."
            for branch, cosine in golden.items()
            if not cosine >= least[branch]
        ),
        *report.failures,
    ]
    found = {"golden_cosine": golden, "differences": differences}
    return {"executed": True, **found, **report.to_json(), "failures": failures, "passed": not failures}


def _differences(
    reference: Mapping[Branch, Embed], runners: Mapping[Branch, Runner], samples: Samples, shapes: Shapes
) -> dict[str, float]:
    """The largest difference of a number, by profile: FP16 has its rounding in there, and FP32 has not."""
    most = max(shapes.batch_sizes)
    batches: list[tuple[Branch, str, Feeds]] = [("image", "image", samples.image_batch(0, most))]
    for name, length in zip(_profile_names("text", shapes.lengths), shapes.lengths, strict=True):
        batches.append(("text", name, samples.text_batch(0, most, length)))
    return {
        name: largest_difference(_embed(runners[branch], branch)(feeds), reference[branch](feeds))
        for branch, name, feeds in batches
    }


def _golden(bundle: Bundle, branch: Branch, runner: Runner) -> float:
    try:
        return golden_cosine(bundle.golden(), branch, runner)
    except (BackendError, FeedError) as error:
        raise VerificationError(f"The {branch} branch does not run: {error.message}", error.hint) from error


def _embed(runner: Runner, branch: Branch) -> Embed:
    def embed(feeds: Feeds) -> NDArray[np.float32]:
        return runner.run(feeds)[f"{branch}_embedding"]

    return embed
