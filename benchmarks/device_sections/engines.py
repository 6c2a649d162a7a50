"""Engines of every TensorRT that is installed: built here, held to their reference, and timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import get_args

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, clocked, skipped, timed
from tbps_infer.bundle import Bundle
from tbps_infer.errors import TbpsError
from tbps_infer.export.engines import build_engines
from tbps_infer.export.engines.options import EngineOptions
from tbps_infer.model_facts import BRANCHES, Precision
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import Runner, blank_feeds
from tbps_infer.tensorrt.flavours import FlavourName
from tbps_infer.tensorrt.library import open_library
from tbps_infer.tensorrt.runner import open_engines

__all__ = ["facts"]

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
_BATCHES = (1, 8, 32)
_TEXT_LENGTH = 32


def facts(context: SectionContext) -> Iterator[Fact]:
    """For every flavour and precision: the build with its self-check, then times with and without CUDA graphs."""
    if context.on_cpu:
        yield skipped("needs a GPU")
        return
    for flavour in get_args(FlavourName):
        try:
            open_library(flavour)
        except TbpsError as error:
            yield skipped(f"{flavour}: {error.message}")
            continue
        for precision in _PRECISIONS:
            try:
                yield from _engine_facts(context, flavour, precision)
            except TbpsError as error:
                yield checked(f"{flavour} {precision}", False, error=str(error))


def _engine_facts(context: SectionContext, flavour: FlavourName, precision: Precision) -> Iterator[Fact]:
    started = time.perf_counter()
    options = EngineOptions(backend=flavour, precision=precision, device=context.device.index)
    folder = build_engines(context.bundle, options).folder
    report = folder.facts.self_check
    yield checked(
        f"{flavour} {precision}: built and held to its reference",
        bool(report.get("executed")) and bool(report.get("passed")),
        seconds=time.perf_counter() - started,
        self_check=report,
        precision_proof=[plan.to_json() for plan in folder.facts.plans],
    )
    bundle = Bundle.open(context.bundle)
    for branch in BRANCHES:
        for graphs in (True, False):
            run = RunOptions(flavour, str(context.device), precision)
            runner = open_engines(bundle, branch, run, cuda_graphs=graphs)
            with contextlib.closing(runner):
                yield from _times(f"{flavour} {precision} {branch}", runner, graphs)


def _times(what: str, runner: Runner, graphs: bool) -> Iterator[Fact]:
    for batch in _BATCHES:
        feeds = blank_feeds(runner.inputs, batch, _TEXT_LENGTH)
        times = clocked(lambda feeds=feeds: runner.run(feeds), 50, 5)  # type: ignore[misc]
        yield timed(f"{what}, batch {batch}", times, warm_up=5, graphs=graphs, backend=runner.description)
