"""Options that several commands share, as decorators."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from tbps_infer.cli.shared.parameter_types import Finite
from tbps_infer.devices import BACKENDS, MEMORY_KINDS, SEARCH_BACKENDS
from tbps_infer.model_facts import PRECISIONS

__all__ = [
    "EXISTING",
    "batch_size_option",
    "combined",
    "dataset_options",
    "encoder_options",
    "filter_options",
    "int8_limit_options",
    "json_option",
    "kind_option",
    "memory_option",
    "mixed_precision_options",
    "output_option",
    "precision_options",
    "precisions_options",
    "query_options",
    "reference_option",
    "run_options",
    "seed_option",
    "split_option",
    "verbosity_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])

EXISTING = click.Path(exists=True, path_type=Path)


def combined(name: str, make: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Options whose values a command receives as one argument.

    Args:
        name: The command's argument.
        make: Makes the argument's value; its parameters are the options' names.
        options: Click options, in the order of the help.
    """
    parameters = tuple(inspect.signature(make).parameters)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            value = make(**{parameter: kwargs.pop(parameter) for parameter in parameters})
            return command(*args, **{name: value}, **kwargs)

        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[return-value]

    return decorate


def output_option(text: str, kind: Any = click.Path(path_type=Path)) -> Callable[[Command], Command]:  # noqa: B008
    """``-o/--output``, required; a path, unless it is of another kind."""
    return click.option("-o", "--output", type=kind, required=True, help=text)


def seed_option(default: int = 0) -> Callable[[Command], Command]:
    """``--seed``."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=default, help="Random seed.")


batch_size_option = click.option(
    "-b", "--batch-size", type=click.IntRange(1), default=32, help="Items per forward pass."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
kind_option = click.option(
    "--kind", help="Annotation format, such as RSTPReid.", show_default="recognised by the file's name"
)
reference_option = click.option(
    "--reference", type=EXISTING, metavar="CHECKPOINT", help="Checkpoint that BUNDLE was exported from."
)
split_option = click.option("--split", default="test", help="Split of the data set.")


def dataset_options(command: Command) -> Command:
    """``--split`` and ``--kind``: how to read a data set."""
    return split_option(kind_option(command))


def query_options(command: Command) -> Command:
    """``--search-device``, ``--search-backend`` and ``--bundle``: where and with what to search."""
    device_help = "Device to compare vectors on: cpu or cuda:N; a GPU keeps them in memory."
    device = click.option("--search-device", default="cpu", help=device_help)
    backend = click.option(
        "--search-backend",
        type=click.Choice(SEARCH_BACKENDS),
        default="auto",
        help="What compares them on a GPU; auto is the kernel where it can run.",
    )
    default = "the one that embedded the gallery"
    bundle = click.option("--bundle", type=EXISTING, help="Model for the queries.", show_default=default)
    return device(backend(bundle(command)))


def verbosity_options(command: Command) -> Command:
    """``-v`` and ``-q``: how much is logged to standard error."""

    @click.option(
        "-v", "--verbose", count=True, show_default=False, help="Log more to standard error; -vv logs everything."
    )
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but results and errors.")
    @functools.wraps(command)
    def wrapped(*args: Any, verbose: int, quiet: bool, **kwargs: Any) -> Any:
        level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
        click.get_current_context().meta["tbps.quiet"] = quiet
        with _named_warnings():
            return command(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


@contextmanager
def _named_warnings() -> Iterator[None]:
    """Log what a decoder warns of with the name of the picture; other warnings are shown as they always are."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        from tbps_infer.images import picture_being_read

        picture = picture_being_read()
        if picture is None:
            usual(message, category, *place, **options)
        else:
            logging.getLogger("tbps_infer.images").warning("%s: %s", picture, str(message).strip())

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def _precisions(precision: Collection[str], fp16: bool, int8: bool) -> tuple[str, ...]:
    asked = {*precision, *(["fp16"] * fp16), *(["int8"] * int8)}
    return tuple(name for name in PRECISIONS if name in asked) or ("fp32",)


def _precision(precision: str | None, fp16: bool, int8: bool) -> str:
    asked = _precisions([precision] if precision else [], fp16, int8)
    if len(asked) > 1:
        raise click.UsageError(f"The precisions {' and '.join(asked)} exclude each other here; choose one.")
    return asked[0]


_SHORTHANDS = (
    click.option("--fp16", "--half", "fp16", is_flag=True, help="Same as --precision fp16."),
    click.option("--int8", is_flag=True, help="Same as --precision int8."),
)

precision_options = combined(
    "precision",
    _precision,
    click.option("--precision", type=click.Choice(PRECISIONS), help="Numeric precision.", show_default="fp32"),
    *_SHORTHANDS,
)
"""``--precision``, with ``--fp16``, ``--half`` and ``--int8`` as shorthands; passes ``precision``."""

precisions_options = combined(
    "precisions",
    _precisions,
    click.option(
        "--precision",
        multiple=True,
        type=click.Choice(PRECISIONS),
        help="Numeric precision. Repeatable.",
        show_default="fp32",
    ),
    *_SHORTHANDS,
)
"""The same for a command that makes several; passes ``precisions``, in the order of `PRECISIONS`."""


def _mixed_precision(keep_fp32: tuple[str, ...], auto_islands: bool, fp32_accumulation: tuple[str, ...]) -> Any:
    from tbps_infer.export.fp16.convert import MixedPrecisionOptions

    return MixedPrecisionOptions(keep_fp32, auto_islands, fp32_accumulation=fp32_accumulation)


mixed_precision_options = combined(
    "mixed",
    _mixed_precision,
    click.option(
        "--keep-fp32",
        multiple=True,
        metavar="PATTERN",
        help="FP16 only: keep nodes in FP32 whose name, operator or parameter matches. Repeatable.",
    ),
    click.option(
        "--auto-islands", is_flag=True, help="FP16 only: measure activations and keep nodes with large ones in FP32."
    ),
    click.option(
        "--fp32-accumulation",
        multiple=True,
        metavar="PATTERN",
        help="FP16 only: add up matching matrix products and convolutions in FP32. Costs speed where the "
        "GPU adds up FP16 faster, and may split fused attention. Repeatable.",
    ),
)
"""``--keep-fp32``, ``--auto-islands`` and ``--fp32-accumulation``; passes ``mixed``, `MixedPrecisionOptions`."""


def int8_limit_options(command: Command) -> Command:
    """The limits of INT8's gate; passes ``int8_limits``, those given, by the names of `Thresholds`."""
    from tbps_infer.verification.tolerances import GATE

    helps = {
        "max_rank1_drop": "INT8, data with ids: R@1 may drop by at most this many points.",
        "max_map_drop": "INT8, data with ids: mAP may drop by at most this many points.",
        "min_overlap": "INT8, data without ids: lowest top-10 overlap allowed.",
        "min_cosine": "INT8, data without ids: lowest cosine with FP32 allowed.",
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
        wrapped = click.option(flag, f"int8_{name}", type=Finite(min=0), metavar="X", help=text)(wrapped)
    return wrapped  # type: ignore[return-value]


memory_option = click.option(
    "--memory",
    "memory_kind",
    type=click.Choice(MEMORY_KINDS),
    help="Engines only: package that calls CUDA.",
    show_default="cuda-bindings if it works, else pycuda",
)
"""``--memory``; passes ``memory_kind``."""


def _run(backend: Any, device: str, threads: int | None, memory_kind: Any, precision: Any) -> Any:
    from tbps_infer.runners.options import RunOptions

    return RunOptions(backend, device, precision, threads, memory_kind)


run_options = combined(
    "run",
    _run,
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="onnxruntime",
        help="Inference backend: torch runs a checkpoint, the others run a bundle.",
    ),
    click.option("--device", default="cpu", help="Device to run on: cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(1), help="CPU threads.", show_default="all usable cores"),
    memory_option,
    precision_options,
)
"""``--backend``, ``--device``, ``--threads``, ``--memory`` and ``--precision``; passes ``run``, `RunOptions`."""


def encoder_options(command: Command) -> Command:
    """``--batch-size`` and `run_options`: how to embed."""
    return batch_size_option(run_options(command))


def _filter(
    camera: tuple[str, ...],
    after: str | None,
    before: str | None,
    identity: tuple[str, ...],
    not_id: tuple[str, ...],
    expression: str | None,
) -> Any:
    from tbps_infer.gallery import Filter

    return Filter(camera, after, before, expression, identity, not_id)


filter_options = combined(
    "where",
    _filter,
    click.option("--camera", multiple=True, help="Only records of this camera. Repeatable."),
    click.option(
        "--after",
        help="Only records from this time on: ISO 8601, a year, or Unix time. Without a zone, it is compared with "
        "times as they are shown.",
    ),
    click.option("--before", help="Only records before this time."),
    click.option("--id", "identity", multiple=True, help="Only records of this identity. Repeatable."),
    click.option("--not-id", multiple=True, help="No records of this identity. Repeatable."),
    click.option(
        "--where",
        "expression",
        metavar="CONDITION",
        help="Only records whose metadata satisfy a condition, such as \"shelf = 3 and time like '2024%'\": and, or, "
        "not, comparisons, in, between, like, is null, + - * / %, and functions of text and dates (docs/search.md). "
        "Identities and cameras are text.",
    ),
)
"""``--camera``, ``--after``, ``--before``, ``--id``, ``--not-id``, ``--where``; passes ``where``, a `Filter`."""
