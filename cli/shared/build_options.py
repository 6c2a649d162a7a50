"""The builder's options, which `tbps build` and `tbps export` share, and a build with its progress and result."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tbps_infer.cli.shared.options import combined, memory_option
from tbps_infer.cli.shared.parameter_types import Numbers, Size
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.export.engines.options import EngineOptions

__all__ = ["build_and_report", "build_command", "build_options", "given_build_options"]

_SHARED = ("backend", "verify_data", "keep_fp32", "auto_islands", "fp32_accumulation")
"""What an export also says of engines, by options that are not the builder's alone."""


def _build(
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
) -> dict[str, Any]:
    from tbps_infer.devices import Device
    from tbps_infer.errors import UsageError
    from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings

    chosen = Device.parse(device)
    if chosen.kind == "cpu":
        raise UsageError("Engines do not run on the CPU.", "Name a GPU: --device cuda, or cuda:1 for the second one.")
    usual = opt_batch or (max_batch, min_batch)
    if len(usual) > 2:
        raise UsageError("More than two batch sizes are given.", "Give one for pictures and one for sentences.")
    return {
        "image_batch": BatchRange(min_batch, usual[0], max_batch),
        "text_batch": BatchRange(min_batch, usual[-1], max_batch),
        "text_lengths": text_lengths,
        "settings": BuildSettings(workspace, optimization_level, target),
        "timing_cache": timing_cache,
        "rebuild": rebuild,
        "device": chosen.index,
        "memory": memory_kind,
    }


build_options = combined(
    "build",
    _build,
    click.option("--device", default="cuda", help="GPU to build and check on: cuda or cuda:N."),
    memory_option,
    click.option(
        "--target",
        metavar="SM",
        help="tensorrt-rtx only: GPU architecture to build for, such as sm86.",
        show_default="sm80 and later",
    ),
    click.option("--min-batch", type=click.IntRange(1), default=1, help="Minimum batch size."),
    click.option(
        "--opt-batch",
        type=Numbers(),
        help="Batch sizes to optimise for: pictures,sentences, or one for both.",
        show_default="maximum for pictures, minimum for sentences",
    ),
    click.option("--max-batch", type=click.IntRange(1), default=32, help="Maximum batch size; memory grows with it."),
    click.option(
        "--text-lengths",
        type=Numbers(),
        default=(),
        show_default="32,48,64 and the maximum",
        help="Tokens per caption.",
    ),
    click.option(
        "--workspace", type=Size(), help="Scratch memory, such as 2GiB.", show_default="half of what is free"
    ),
    click.option(
        "--optimization-level",
        type=click.IntRange(0, 5),
        help="tensorrt only: effort spent on finding fast kernels.",
        show_default="3",
    ),
    click.option(
        "--timing-cache",
        type=click.Path(dir_okay=False, path_type=Path),
        help="tensorrt only: file that keeps kernel timings between builds.",
        show_default="one per GPU and version in BUNDLE/engines",
    ),
    click.option("--rebuild", is_flag=True, help="Build again even if the engines are up to date."),
)
"""``--target``, ``--max-batch`` and the rest; passes ``build``, keywords of `EngineOptions` by name."""

_BUILD = tuple(inspect.signature(_build).parameters)


def given_build_options() -> list[str]:
    """The flags of those of `build_options` that the user gave to the command that runs."""
    return [words[0] for words in _given(_BUILD)]


def build_command(bundle: Path, options: EngineOptions) -> str:
    """The `tbps build` that does what the command that runs would do next."""
    names = (*_SHARED, *_BUILD) if options.mixed.asks_for_fp32 else (*_SHARED[:2], *_BUILD)
    given = [word for words in _given(names) for word in words]
    return shlex.join(["tbps", "build", str(bundle), *given, "--precision", options.precision])


def _given(names: Collection[str]) -> Iterator[list[str]]:
    """The options of these names that do not have their default, as the user would type them."""
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in names or source in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP):
            continue
        value, flag = context.params[option.name], next(name for name in option.opts if name.startswith("--"))
        if isinstance(option, click.Option) and option.is_flag:
            yield [flag] if value else []
        elif option.multiple:
            yield [word for one in value for word in (flag, str(one))]
        else:
            yield [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


def build_and_report(bundle: Path, options: EngineOptions) -> None:
    """Build with a progress bar and print the result."""
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
