"""Options that several commands share, as decorators."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from tbps_infer.devices import BACKENDS
from tbps_infer.model_facts import PRECISIONS

__all__ = [
    "EXISTING",
    "batch_size_option",
    "int8_limit_options",
    "mixed_precision_options",
    "output_option",
    "overwrite_option",
    "precision_options",
    "run_options",
    "verbosity_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])

EXISTING = click.Path(exists=True, path_type=Path)


def output_option(what: str) -> Callable[[Command], Command]:
    """``-o/--output``, required: where the result goes."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help=what)


def overwrite_option(what: str) -> Callable[[Command], Command]:
    """``--overwrite``."""
    return click.option("--overwrite", is_flag=True, help=what)


def batch_size_option(default: int) -> Callable[[Command], Command]:
    """``-b/--batch-size``."""
    return click.option(
        "-b", "--batch-size", type=click.IntRange(1), default=default, help="Items per run of the model."
    )


def verbosity_options(command: Command) -> Command:
    """``-v`` and ``-q``: how much is logged to standard error."""

    @click.option("-v", "--verbose", count=True, help="Say more on standard error; twice for everything.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing on standard error but errors.")
    @functools.wraps(command)
    def wrapped(*args: Any, verbose: int, quiet: bool, **kwargs: Any) -> Any:
        level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
        click.get_current_context().meta["tbps.quiet"] = quiet
        return command(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def precision_options(command: Command) -> Command:
    """``--precision`` with ``--fp16`` and ``--half`` as shorthands; passes ``precision``."""

    @click.option("--precision", type=click.Choice(PRECISIONS), help="What to compute in.  [default: fp32]")
    @click.option("--fp16", "--half", "fp16", is_flag=True, help="The same as --precision fp16.")
    @functools.wraps(command)
    def wrapped(*args: Any, precision: str | None, fp16: bool, **kwargs: Any) -> Any:
        if fp16 and precision not in (None, "fp16"):
            raise click.UsageError(f"--fp16 contradicts --precision {precision}.")
        return command(*args, precision="fp16" if fp16 else precision or "fp32", **kwargs)

    return wrapped  # type: ignore[return-value]


def mixed_precision_options(command: Command) -> Command:
    """``--keep-fp32`` and ``--auto-islands``; passes ``mixed``, `MixedPrecisionOptions`."""

    @click.option(
        "--keep-fp32",
        multiple=True,
        metavar="PATTERN",
        help="FP16 only: leave what a name, operator or parameter matches in FP32; may be repeated.",
    )
    @click.option("--auto-islands", is_flag=True, help="FP16 only: measure activations, leave large ones in FP32.")
    @functools.wraps(command)
    def wrapped(*args: Any, keep_fp32: tuple[str, ...], auto_islands: bool, **kwargs: Any) -> Any:
        from tbps_infer.export.fp16.convert import MixedPrecisionOptions

        return command(*args, mixed=MixedPrecisionOptions(keep_fp32, auto_islands), **kwargs)

    return wrapped  # type: ignore[return-value]


def int8_limit_options(command: Command) -> Command:
    """The limits of INT8's gate; passes ``int8_limits``, those given, by the names of `Thresholds`."""
    from tbps_infer.verification.tolerances import GATE

    helps = {
        "max_rank1_drop": "INT8, data with ids: R@1 may drop by so many points.",
        "max_map_drop": "INT8, data with ids: mAP may drop by so many points.",
        "min_overlap": "INT8, data without ids: least share of the same first ten.",
        "min_cosine": "INT8, data without ids: least cosine with FP32.",
    }
    usual = asdict(GATE["int8"])

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(f"int8_{name}") for name in helps}
        return command(
            *args, int8_limits={name: value for name, value in given.items() if value is not None}, **kwargs
        )

    for name, text in reversed(helps.items()):
        flag = f"--int8-{name.replace('_', '-')}"
        text = f"{text}  [default: {usual[name]}]"
        wrapped = click.option(flag, f"int8_{name}", type=click.FloatRange(min=0), metavar="X", help=text)(wrapped)
    return wrapped  # type: ignore[return-value]


def run_options(command: Command) -> Command:
    """``--backend``, ``--device``, ``--precision`` and ``--threads``; passes ``run``, a `RunOptions`."""

    @click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="onnxruntime",
        help="onnxruntime runs a bundle, tensorrt and tensorrt-rtx its engines, torch a checkpoint.",
    )
    @click.option(
        "--device", default="cpu", help="cpu, cuda or cuda:N. Refused where it cannot be had, never replaced."
    )
    @click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the usable cores]")
    @precision_options
    @functools.wraps(command)
    def wrapped(*args: Any, backend: Any, device: str, threads: int | None, precision: Any, **kwargs: Any) -> Any:
        from tbps_infer.runners.options import RunOptions

        return command(*args, run=RunOptions(backend, device, precision, threads), **kwargs)

    return wrapped  # type: ignore[return-value]
