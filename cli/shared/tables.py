"""Tables on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["bare_table", "rich_output"]

_UNLIMITED = 1000
"""Width in characters off a terminal: nothing is wrapped."""


@contextmanager
def rich_output() -> Iterator[Console]:
    """A console whose output is printed when the block ends: to a terminal as it is, elsewhere as plain text."""
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    # With NO_COLOR, rich still writes bold text and links; here no escape sequence is left.
    color_system = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(width=None if on_terminal else _UNLIMITED, color_system=color_system)  # type: ignore[arg-type]
    with console.capture() as captured:
        yield console
    text = captured.get()
    # rich pads lines with spaces, which programs that read a file or a pipe do not want.
    click.echo(text if on_terminal else "\n".join(line.rstrip() for line in text.split("\n")), nl=False)


def bare_table() -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
