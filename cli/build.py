"""`tbps build`: a bundle's graphs become TensorRT engines, on the device that will run them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.gate_options import verify_data_option
from tbps_infer.cli.shared.options import EXISTING, mixed_precision_options, precision_options, verbosity_options
from tbps_infer.cli.shared.progress import quiet, say
from tbps_infer.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from tbps_infer.verification.evaluation_set import EvaluationSet

__all__ = ["build", "build_and_report"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Size(click.ParamType):  # type: ignore[type-arg]
    """``2GiB``, ``512M`` or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; units are of 1024."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not a size such as 2GiB or 512MiB.", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].lower()])


class Lengths(click.ParamType):  # type: ignore[type-arg]
    """``32,48,64,100``."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Token counts."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d+(,\d+)*", str(value)):
            self.fail(f"{value!r} is not a list of lengths such as 32,48,64,100.", param, ctx)
        return tuple(int(number) for number in str(value).split(","))


@click.command()
@click.argument("bundle", type=EXISTING)
@click.option("--backend", type=click.Choice(tuple(FLAVOURS)), default="tensorrt", help="Which TensorRT builds.")
@click.option("--device", default="cuda", help="The GPU to build and check on: cuda or cuda:N.")
@click.option(
    "--target", metavar="SM", help="tensorrt-rtx only: the GPU to build for, as sm86.  [default: sm80 and later]"
)
@click.option("--min-batch", type=click.IntRange(1), default=1, help="Least items per run.")
@click.option("--opt-batch", type=click.IntRange(1), default=8, help="Items per run that kernels are chosen for.")
@click.option("--max-batch", type=click.IntRange(1), default=32, help="Most items per run; memory grows with it.")
@click.option(
    "--text-lengths",
    type=Lengths(),
    default=(),
    show_default="32,48,64 and the model's greatest",
    help="Tokens per caption, one engine each.",
)
@click.option("--workspace", type=Size(), help="Scratch memory of kernels, as 2GiB.  [default: half of what is free]")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="tensorrt only: how long it looks for fast kernels.  [default: 3]",
)
@click.option(
    "--timing-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="tensorrt only: a file that keeps kernels' times from build to build.",
)
@click.option("--rebuild", is_flag=True, help="Build engines that are there and up to date again.")
@verify_data_option
@mixed_precision_options
@precision_options
@verbosity_options
def build(
    bundle: Path,
    backend: Any,
    device: str,
    target: str | None,
    min_batch: int,
    opt_batch: int,
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
    """Build the TensorRT engines of BUNDLE on this machine, prove their precision, and check them on its GPU.

    What is built is told kernel by kernel; engines that differ from the reference are not installed.

    \b
    tbps build bundle --fp16
    tbps build bundle --precision int8     # wants a bundle exported with --precision int8
    """
    from tbps_infer.devices import Device
    from tbps_infer.errors import UsageError
    from tbps_infer.export.engines.options import EngineOptions
    from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings

    chosen = Device.parse(device)
    if chosen.kind == "cpu":
        raise UsageError("Engines do not run on the CPU.", "Give the GPU: --device cuda, or cuda:1 for the second.")
    options = EngineOptions(
        backend=backend,
        precision=precision,
        batch=BatchRange(min_batch, opt_batch, max_batch),
        text_lengths=text_lengths,
        settings=BuildSettings(workspace, optimization_level, target),
        timing_cache=timing_cache,
        mixed=mixed,
        rebuild=rebuild,
        device=chosen.index,
        gate_on=gate_on,
    )
    build_and_report(bundle, options)


def build_and_report(bundle: Path, options: Any) -> None:
    """Build with a bar, and say what came of it; ``options`` are `EngineOptions`."""
    from tbps_infer.export.engines.build import build_engines

    with _phases() as (say_above, on_progress):
        built = build_engines(bundle, options, say_above, on_progress)
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


@contextmanager
def _phases() -> Iterator[tuple[Callable[[str], None], Callable[[str, str, int, int], None]]]:
    """Two functions: one that prints a sentence, one that moves the bar of the builder's current phase.

    The bar is there on a terminal alone, and gone at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal or quiet():
        yield say, lambda _plan, _phase, _done, _steps: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def move(plan: str, phase: str, done: int, steps: int) -> None:
            bar.update(task, description=f"{plan}: {phase}", completed=done, total=steps or None)

        yield lambda sentence: console.print(sentence, highlight=False, markup=False), move
