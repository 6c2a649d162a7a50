"""Tables on standard output."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tbps_infer.cli.shared.streams import styled
from tbps_infer.render.printable import printable_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["bare_table", "cell", "rich_output"]

_UNLIMITED = 1000
"""Width in characters off a terminal: nothing is wrapped."""


@contextmanager
def rich_output() -> Iterator[Console]:
    """A console whose output is printed when the block ends: to a terminal as it is, elsewhere as plain text."""
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    # With NO_COLOR, rich still writes bold text and links; here no escape sequence is left.
    color_system = "auto" if on_terminal and not os.environ.get("NO_COLOR") else None
    width = None if on_terminal else _UNLIMITED
    written = io.StringIO()
    yield Console(file=written, force_terminal=on_terminal, width=width, color_system=color_system)  # type: ignore[arg-type]
    text = written.getvalue()
    # rich pads lines with spaces, which programs that read a file or a pipe do not want.
    if on_terminal:
        styled(sys.stdout).write(text)
    else:
        sys.stdout.write("\n".join(line.rstrip() for line in text.split("\n")))
    sys.stdout.flush()


def cell(value: object, style: str = "") -> Text:
    """A value from outside as a cell, which stays within its line."""
    from rich.text import Text

    return Text(printable_line(str(value)), style=style)


def bare_table() -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
