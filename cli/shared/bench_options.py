"""Options that the benchmarks share: what is measured, and where the results go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from tbps_infer.cli.shared.bench_output import ReportFiles
from tbps_infer.cli.shared.options import combined, memory_option
from tbps_infer.cli.shared.parameter_types import NewFile
from tbps_infer.model_facts import PRECISIONS

__all__ = ["FILE", "Selection", "report_options", "selection_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Selection:
    """What to measure.

    Attributes:
        backends: By the names of the command's ``--backend``.
        devices: ``cpu``, ``cuda`` or ``cuda:N``.
        precisions: ``fp32``, ``fp16``, ``int8``.
        threads: On the CPU; None for the usable cores.
        memory: The package that calls CUDA for engines; None for the first that works.
    """

    backends: tuple[Any, ...]
    devices: tuple[str, ...]
    precisions: tuple[Any, ...]
    threads: int | None
    memory: Any


def selection_options(all_backends: tuple[str, ...]) -> Callable[[Command], Command]:
    """``--backend``, ``--device`` and the other choices of what to measure; passes ``selection``, `Selection`."""

    def select(
        backends: tuple[str, ...],
        devices: tuple[str, ...],
        precisions: tuple[str, ...],
        threads: int | None,
        memory_kind: Any,
    ) -> Selection:
        present = devices or _present_devices(memory_kind)
        return Selection(backends or all_backends, present, precisions or PRECISIONS, threads, memory_kind)

    devices_help = "Device to use: cpu, cuda or cuda:N. Repeatable."
    repeatable = partial(click.option, multiple=True, show_default="all")
    return combined(
        "selection",
        select,
        repeatable("--backend", "backends", type=click.Choice(all_backends), help="Backend to use. Repeatable."),
        repeatable("--device", "devices", help=devices_help, show_default="the CPU and the first GPU"),
        repeatable("--precision", "precisions", type=click.Choice(PRECISIONS), help="Precision to use. Repeatable."),
        click.option("--threads", type=click.IntRange(1), help="CPU threads.", show_default="all usable cores"),
        memory_option,
    )


report_options = combined(
    "files",
    ReportFiles,
    click.option("--json", type=FILE, help="Write the results as JSON; - for standard output."),
    click.option("--csv", type=NewFile(), help="Write the results as CSV."),
    click.option("--markdown", type=NewFile(), help="Write the tables as Markdown."),
    click.option("--latex", type=NewFile(), help="Write the tables as LaTeX, for the package booktabs."),
    click.option("--html", type=NewFile(), help="Write the results as one self-contained page."),
)
"""``--json``, ``--csv``, ``--markdown``, ``--latex`` and ``--html``; passes ``files``, `ReportFiles`."""


def _present_devices(memory_kind: Any) -> tuple[str, ...]:
    """The CPU, and the first GPU where there is one."""
    from tbps_infer.tensorrt.device_memory import find_gpu

    return ("cpu",) if find_gpu(kind=memory_kind) is None else ("cpu", "cuda:0")
