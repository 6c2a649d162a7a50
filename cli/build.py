"""`tbps build`: a bundle's graphs become TensorRT engines, on the device that will run them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.gate_options import verify_data_option
from tbps_infer.cli.shared.options import (
    EXISTING,
    memory_option,
    mixed_precision_options,
    precision_options,
    verbosity_options,
)
from tbps_infer.cli.shared.parameter_types import Numbers, Size
from tbps_infer.cli.shared.progress import progress_bar, say
from tbps_infer.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from tbps_infer.verification.evaluation_set import EvaluationSet

__all__ = ["build", "build_and_report"]


@click.command()
@click.argument("bundle", type=EXISTING)
@click.option("--backend", type=click.Choice(tuple(FLAVOURS)), default="tensorrt", help="TensorRT edition.")
@click.option("--device", default="cuda", help="GPU to build and check on: cuda or cuda:N.")
@memory_option
@click.option(
    "--target",
    metavar="SM",
    help="tensorrt-rtx only: GPU architecture to build for, such as sm86.",
    show_default="sm80 and later",
)
@click.option("--min-batch", type=click.IntRange(1), default=1, help="Minimum batch size.")
@click.option(
    "--opt-batch",
    type=Numbers(),
    help="Batch sizes to optimise for: pictures,sentences, or one for both.",
    show_default="maximum for pictures, minimum for sentences",
)
@click.option("--max-batch", type=click.IntRange(1), default=32, help="Maximum batch size; memory grows with it.")
@click.option(
    "--text-lengths", type=Numbers(), default=(), show_default="32,48,64 and the maximum", help="Tokens per caption."
)
@click.option("--workspace", type=Size(), help="Scratch memory, such as 2GiB.", show_default="half of what is free")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="tensorrt only: effort spent on finding fast kernels.",
    show_default="3",
)
@click.option(
    "--timing-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="tensorrt only: file that keeps kernel timings between builds.",
    show_default="one per GPU and version in BUNDLE/engines",
)
@click.option("--rebuild", is_flag=True, help="Build again even if the engines are up to date.")
@verify_data_option
@mixed_precision_options
@precision_options
@verbosity_options
def build(
    bundle: Path,
    backend: Any,
    device: str,
    memory_kind: Any,
    target: str | None,
    min_batch: int,
    opt_batch: tuple[int, ...] | None,
    max_batch: int,
    text_lengths: tuple[int, ...],
    workspace: int | None,
    optimization_level: int | None,
    timing_cache: Path | None,
    rebuild: bool,
    gate_on: EvaluationSet | None,
    mixed: Any,
    precision: Any,
) -> None:
    """Build the TensorRT engines of BUNDLE on this machine.

    The precision of every kernel is checked and printed. Engines whose output differs from the reference are not
    installed and kept aside. INT8 needs a bundle that was exported with --precision int8.

    \b
    tbps build bundle --fp16
    tbps build bundle --backend tensorrt-rtx --fp16 --target sm86
    """
    from tbps_infer.devices import Device
    from tbps_infer.errors import UsageError
    from tbps_infer.export.engines.options import EngineOptions
    from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings

    chosen = Device.parse(device)
    if chosen.kind == "cpu":
        raise UsageError("Engines do not run on the CPU.", "Name a GPU: --device cuda, or cuda:1 for the second one.")
    usual = opt_batch or (max_batch, min_batch)
    if len(usual) > 2:
        raise UsageError("More than two batch sizes are given.", "Give one for pictures and one for sentences.")
    options = EngineOptions(
        backend=backend,
        precision=precision,
        image_batch=BatchRange(min_batch, usual[0], max_batch),
        text_batch=BatchRange(min_batch, usual[-1], max_batch),
        text_lengths=text_lengths,
        settings=BuildSettings(workspace, optimization_level, target),
        timing_cache=timing_cache,
        mixed=mixed,
        rebuild=rebuild,
        device=chosen.index,
        memory=memory_kind,
        gate_on=gate_on,
    )
    build_and_report(bundle, options)


def build_and_report(bundle: Path, options: Any) -> None:
    """Build with a progress bar and print the result; ``options`` are `EngineOptions`."""
    from tbps_infer.export.engines.build import build_engines

    with progress_bar("Building", "steps") as bar:
        built = build_engines(
            bundle, options, say, lambda plan, phase, done, steps: bar(done, steps, f"{plan}: {phase}")
        )
    facts = built.folder.facts
    size = sum(plan.bytes for plan in facts.plans) / 1e6
    if facts.self_check["executed"]:
        golden = min(facts.self_check["golden_cosine"].values())
        state = f"checked on {facts.self_check['gpu']}, golden cosine {golden:.7f} at least"
    else:
        state = f"not executed: {facts.self_check['reason'].rstrip('.')}"
    if not built.built:
        state = f"up to date, {state}"
    click.echo(f"{built.folder.path}: {len(facts.plans)} engines, {size:.1f} MB, {facts.precision}, {state}")
