"""Where the benchmarks write their results."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.atomic import write_bytes, write_text
from tbps_infer.cli.shared.progress import say
from tbps_infer.errors import UsageError

if TYPE_CHECKING:
    from tbps_infer.benchmarks.report import TextTable
    from tbps_infer.benchmarks.results import Results

__all__ = ["ReportFiles", "print_table", "write_file", "write_report"]

_WIDE = 1000
_STDOUT = Path("-")


@dataclass(frozen=True)
class ReportFiles:
    """What is written besides the table on standard output; None is not."""

    json: Path | None
    csv: Path | None
    markdown: Path | None
    plots: Path | None
    html: Path | None
    accuracy: Path | None

    @property
    def draws(self) -> bool:
        """Whether matplotlib is needed."""
        return self.plots is not None or self.html is not None


def write_report(results: Results, files: ReportFiles) -> None:
    """Print the tables, or JSON where that goes to standard output, and write the files asked for."""
    from tbps_infer.benchmarks.report import csv_text, markdown_text

    if files.json == _STDOUT:
        click.echo(json.dumps(results.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_tables(results)
    if files.json is not None and files.json != _STDOUT:
        write_file(files.json, json.dumps(results.to_json(), indent=2, ensure_ascii=False) + "\n")
    if files.csv is not None:
        write_file(files.csv, csv_text(results))
    if files.markdown is not None:
        write_file(files.markdown, markdown_text(results))
    if files.draws:
        _draw(results, files)


def _draw(results: Results, files: ReportFiles) -> None:
    from tbps_infer.benchmarks.page import report_page
    from tbps_infer.benchmarks.plots import draw_plots, read_accuracy

    accuracy = None if files.accuracy is None else read_accuracy(files.accuracy)
    plots = draw_plots(results, accuracy)
    if files.plots is not None:
        for plot in plots:
            write_bytes(files.plots / f"{plot.name}.png", plot.png, UsageError, parents=True)
        say(f"{files.plots}: {', '.join(f'{plot.name}.png' for plot in plots)}")
    if files.html is not None:
        write_file(files.html, report_page(results, plots))


def write_file(path: Path, text: str) -> None:
    """Write a text, making its folder, and say so."""
    write_text(path, text, UsageError, parents=True)
    say(f"Wrote {path}.")


def _print_tables(results: Results) -> None:
    from tbps_infer.benchmarks.report import absent_lines, environment_lines, tables

    for line in environment_lines(results):
        click.echo(line)
    for table in tables(results):
        click.echo(f"\n{table.title}")
        print_table(table)
    absent = absent_lines(results)
    if absent:
        click.echo("\nNot measured")
        for line in absent:
            click.echo(f"  {line}")


def print_table(table: TextTable) -> None:
    """A table on standard output, as wide as it takes where that is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    on_terminal = sys.stdout.isatty()
    console = Console(width=None if on_terminal else _WIDE)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(table.head):
        grid.add_column(name, justify="left" if place < table.left else "right")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    with console.capture() as captured:
        console.print(grid)
    text = captured.get()
    # rich fills lines up with spaces; in a file or a pipe they are in the way.
    click.echo(text if on_terminal else "\n".join(line.rstrip() for line in text.split("\n")), nl=False)
