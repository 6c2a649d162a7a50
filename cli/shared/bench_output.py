"""Where the benchmarks write their results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.progress import say

if TYPE_CHECKING:
    from tbps_infer.benchmarks.document import Document, TextTable

__all__ = ["write_file", "write_report"]

_WIDE = 1000
_STDOUT = Path("-")


def write_report(
    document: Document,
    values: Mapping[str, Any],
    json_file: Path | None,
    others: Mapping[Path | None, Callable[[], str]],
) -> None:
    """Print a report, or its JSON where that goes to standard output, and write the files asked for.

    Args:
        document: The report.
        values: The same as JSON values.
        json_file: Where these go; None for nowhere.
        others: By file, what makes its text; None is no file.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False)
    if json_file == _STDOUT:
        click.echo(text)
    else:
        _print(document)
        if json_file is not None:
            write_file(json_file, text + "\n")
    for file, make in others.items():
        if file is not None:
            write_file(file, make())


def write_file(path: Path, text: str) -> None:
    """Write a text, making its folder, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
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
