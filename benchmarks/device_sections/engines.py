"""Engines of every TensorRT that is installed: built here, held to their reference, and timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, clocked, skipped, timed
from tbps_infer.bundle import Bundle
from tbps_infer.errors import TbpsError
from tbps_infer.export.engines import build_engines
from tbps_infer.export.engines.options import EngineOptions
from tbps_infer.model_facts import BRANCHES, Branch, Precision
from tbps_infer.runners.protocol import Runner
from tbps_infer.tensorrt.flavours import FlavourName
from tbps_infer.tensorrt.library import open_library
from tbps_infer.tensorrt.runner import open_engines

__all__ = ["facts"]

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
_BATCHES = (1, 8, 32)


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
            runner = open_engines(bundle, branch, flavour, precision, device=context.device.index, cuda_graphs=graphs)
            with contextlib.closing(runner):
                yield from _times(f"{flavour} {precision} {branch}", branch, bundle, runner, graphs)


def _times(what: str, branch: Branch, bundle: Bundle, runner: Runner, graphs: bool) -> Iterator[Fact]:
    height, width = bundle.model.preprocessing.image_size
    for batch in _BATCHES:
        feeds: dict[str, Any] = {"pixels": np.zeros((batch, height, width, 3), np.uint8)}
        if branch == "text":
            ids = np.ones((batch, 32), np.int32)
            feeds = {"input_ids": ids, "attention_mask": ids}
        times = clocked(lambda feeds=feeds: runner.run(feeds), 50, 5)  # type: ignore[misc]
        yield timed(f"{what}, batch {batch}", times, warm_up=5, graphs=graphs, backend=runner.description)
