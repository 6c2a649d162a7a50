"""Where the benchmarks write their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.atomic import write_text
from tbps_infer.cli.shared.progress import say
from tbps_infer.cli.shared.tables import bare_table, cell, rich_output
from tbps_infer.errors import UsageError

if TYPE_CHECKING:
    from tbps_infer.benchmarks.document import Document, TextTable

__all__ = ["Report", "ReportFiles", "write_report"]

_STDOUT = Path("-")


@dataclass(frozen=True)
class ReportFiles:
    """Files to write besides the tables on standard output; None for those that are not asked for."""

    json: Path | None
    csv: Path | None
    markdown: Path | None
    latex: Path | None
    html: Path | None


@dataclass(frozen=True)
class Report:
    """Results in all forms.

    Attributes:
        document: What is printed, and written as Markdown and LaTeX.
        json: The results as JSON values.
        csv: Makes the CSV text.
        html: Makes the page.
    """

    document: Document
    json: Any
    csv: Callable[[], str]
    html: Callable[[], str]


def write_report(report: Report, files: ReportFiles) -> None:
    """Print the tables, or JSON where that goes to standard output, and write the files asked for."""
    from tbps_infer.benchmarks.document import latex_text, markdown_text

    text = json.dumps(report.json, indent=2, ensure_ascii=False)
    if files.json == _STDOUT:
        click.echo(text)
    else:
        _print(report.document)
    markdown = partial(markdown_text, report.document)
    latex = partial(latex_text, report.document)
    forms = ((files.csv, report.csv), (files.markdown, markdown), (files.latex, latex), (files.html, report.html))
    if files.json is not None and files.json != _STDOUT:
        _write_file(files.json, text + "\n")
    for path, make in forms:
        if path is not None:
            _write_file(path, make())


def _write_file(path: Path, text: str) -> None:
    write_text(path, text, UsageError, parents=True)
    say(f"Wrote {path}.")


def _print(document: Document) -> None:
    for fact in document.facts:
        click.echo(fact)
    for table in document.tables:
        click.echo(f"\n{table.title}")
        _print_table(table)
    if document.missing:
        click.echo(f"\n{document.missing_title}")
        for line in document.missing:
            click.echo(f"  {line}")


def _print_table(table: TextTable) -> None:
    grid = bare_table()
    for place, name in enumerate(table.head):
        grid.add_column(name, justify="left" if place < table.left else "right")
    for row in table.rows:
        grid.add_row(*map(cell, row))
    with rich_output() as console:
        console.print(grid)
