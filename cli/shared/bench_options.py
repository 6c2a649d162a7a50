"""Options that the benchmarks share: what is measured, and where the results go."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from tbps_infer.model_facts import PRECISIONS

__all__ = ["FILE", "Asked", "asked_options", "table_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Asked:
    """What is to be measured; what was not asked for by name is all that there may be.

    Attributes:
        backends: By the names of the command's ``--backend``.
        devices: ``cpu``, ``cuda`` or ``cuda:N``.
        precisions: ``fp32``, ``fp16``, ``int8``.
        threads: On the CPU; None for the usable cores.
    """

    backends: tuple[Any, ...]
    devices: tuple[str, ...]
    precisions: tuple[Any, ...]
    threads: int | None


def asked_options(backends: tuple[str, ...]) -> Callable[[Command], Command]:
    """``--backend``, ``--device``, ``--precision`` and ``--threads``; passes ``asked``, `Asked`."""

    def decorate(command: Command) -> Command:
        every = "May be repeated.  [default: all]"
        where = "cpu, cuda or cuda:N; may be repeated.  [default: cpu, and a GPU if any]"

        @click.option("--backend", "ways", type=click.Choice(backends), multiple=True, help=every)
        @click.option("--device", "devices", multiple=True, help=where)
        @click.option("--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True, help=every)
        @click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the usable cores]")
        @functools.wraps(command)
        def wrapped(
            *args: Any,
            ways: tuple[str, ...],
            devices: tuple[str, ...],
            precisions: tuple[str, ...],
            threads: int | None,
            **kwargs: Any,
        ) -> Any:
            asked = Asked(ways or backends, devices or _present_devices(), precisions or PRECISIONS, threads)
            return command(*args, asked=asked, **kwargs)

        return wrapped  # type: ignore[return-value]

    return decorate


def table_options(*, everything: str, row: str) -> Callable[[Command], Command]:
    """``--json``, ``--csv`` and ``--markdown``; passes ``json_file``, ``csv_file`` and ``markdown_file``.

    Args:
        everything: What the JSON holds.
        row: What has a row of the CSV.
    """

    def decorate(command: Command) -> Command:
        for option in (
            click.option("--markdown", "markdown_file", type=FILE, help="Write the tables as Markdown."),
            click.option("--csv", "csv_file", type=FILE, help=f"Write a row per {row}."),
            click.option(
                "--json", "json_file", type=FILE, help=f"Write {everything} as JSON; - for standard output."
            ),
        ):
            command = option(command)
        return command

    return decorate


def _present_devices() -> tuple[str, ...]:
    """The CPU, and the first GPU where there is one."""
    from tbps_infer.tensorrt.device_memory import find_gpu

    return ("cpu",) if find_gpu() is None else ("cpu", "cuda:0")
