"""The bundle's graphs by ONNX Runtime on the device: parity in FP32 and FP16, then first and later times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, clocked, skipped, timed
from tbps_infer.bundle import Bundle
from tbps_infer.errors import TbpsError
from tbps_infer.export.engines.self_check import compare_with_reference
from tbps_infer.model_facts import BRANCHES, Branch, Precision
from tbps_infer.runners import Runner, RunOptions, open_runner
from tbps_infer.runners.protocol import blank_feeds
from tbps_infer.verification.parity import Shapes
from tbps_infer.verification.samples import SAMPLE_CROPS

__all__ = ["facts"]

_BATCHES = (1, 2, 3, 5, 8, 13, 32)
_TEXT_LENGTH = 32
_CPU_CROPS = 4


def facts(context: SectionContext) -> Iterator[Fact]:
    """Both branches in every precision that the bundle has and the device runs.

    A session on a GPU refuses nodes that would run on the CPU, so that opening it shows where every node runs.
    """
    bundle = Bundle.open(context.bundle)
    precisions: tuple[Precision, ...] = ("fp32",) if context.on_cpu else ("fp32", "fp16")
    for precision in precisions:
        if precision == "fp16" and "image.fp16.onnx" not in bundle.files:
            yield skipped("the bundle has no FP16 graphs")
            continue
        try:
            yield from _precision_facts(context, bundle, precision)
        except TbpsError as error:
            yield checked(f"{precision} runs and agrees with its reference", False, error=str(error))


def _precision_facts(context: SectionContext, bundle: Bundle, precision: Precision) -> Iterator[Fact]:
    options = RunOptions("onnxruntime", str(context.device), precision)
    with contextlib.ExitStack() as stack:
        runners: dict[Branch, Runner] = {}
        for branch in BRANCHES:
            runners[branch] = stack.enter_context(contextlib.closing(open_runner(bundle, branch, options)))
            yield checked(f"{precision} {branch}: every node runs on {context.device}", True)
        shapes = Shapes((1, 8), (_TEXT_LENGTH, bundle.model.max_length), _CPU_CROPS)
        if not context.on_cpu:
            shapes = Shapes((1, 8, 32), shapes.lengths, SAMPLE_CROPS)
        report = compare_with_reference(bundle, runners, shapes, precision)
        yield checked(f"{precision} agrees with its reference", report["passed"], report=report)
        for branch, runner in runners.items():
            for batch in _BATCHES[: 2 if context.on_cpu else None]:
                feeds = blank_feeds(runner.inputs, batch, _TEXT_LENGTH)
                times = clocked(lambda run=runner.run, feeds=feeds: run(feeds), 3 if context.on_cpu else 12)  # type: ignore[misc]
                yield timed(f"{branch}, batch {batch}, {precision}", times, backend=runner.description)
