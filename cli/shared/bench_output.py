"""Where the benchmarks write their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.progress import say
from tbps_infer.cli.shared.tables import bare_table, rich_output

if TYPE_CHECKING:
    from tbps_infer.benchmarks.report import TextTable

__all__ = ["Report", "ReportFiles", "write_report"]

_STDOUT = Path("-")


@dataclass(frozen=True)
class ReportFiles:
    """Files to write besides the tables on standard output; None for those that are not asked for."""

    json: Path | None
    csv: Path | None
    markdown: Path | None
    html: Path | None


@dataclass(frozen=True)
class Report:
    """Results in all forms.

    Attributes:
        head: Lines above the tables.
        tables: The tables.
        absent: A heading, and a line for each thing that was not measured.
        json: The results as JSON values.
        csv: Makes the CSV text.
        markdown: Makes the Markdown text.
        html: Makes the page.
    """

    head: Sequence[str]
    tables: Iterable[TextTable]
    absent: tuple[str, Sequence[str]]
    json: Any
    csv: Callable[[], str]
    markdown: Callable[[], str]
    html: Callable[[], str]


def write_report(report: Report, files: ReportFiles) -> None:
    """Print the tables, or JSON where that goes to standard output, and write the files asked for."""
    text = json.dumps(report.json, indent=2, ensure_ascii=False)
    if files.json == _STDOUT:
        click.echo(text)
    else:
        _print_tables(report)
    forms = ((files.csv, report.csv), (files.markdown, report.markdown), (files.html, report.html))
    if files.json is not None and files.json != _STDOUT:
        _write_file(files.json, text + "\n")
    for path, make in forms:
        if path is not None:
            _write_file(path, make())


def _write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    say(f"Wrote {path}.")


def _print_tables(report: Report) -> None:
    for line in report.head:
        click.echo(line)
    for table in report.tables:
        click.echo(f"\n{table.title}")
        _print_table(table)
    heading, lines = report.absent
    if lines:
        click.echo(f"\n{heading}")
        for line in lines:
            click.echo(f"  {line}")


def _print_table(table: TextTable) -> None:
    from rich.text import Text

    grid = bare_table()
    for place, name in enumerate(table.head):
        grid.add_column(name, justify="left" if place < table.left else "right")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    with rich_output() as console:
        console.print(grid)
