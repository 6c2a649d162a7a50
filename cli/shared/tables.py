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

__all__ = ["UNLIMITED", "bare_table", "cell", "rich_output", "styles_shown", "write_shown"]

UNLIMITED = 1000
"""Width in characters off a terminal: nothing is wrapped."""


def styles_shown() -> bool:
    """Whether standard output shows colours and links: a terminal that can, where nobody asked for none."""
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return on_terminal and not os.environ.get("NO_COLOR")


def write_shown(text: str) -> None:
    """Write lines whose escape sequences are our own; data in them has gone through `printable`."""
    (styled(sys.stdout) if sys.stdout.isatty() else sys.stdout).write(text)
    sys.stdout.flush()


@contextmanager
def rich_output() -> Iterator[Console]:
    """A console whose output is printed when the block ends: to a terminal as it is, elsewhere as plain text."""
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    # With NO_COLOR, rich still writes bold text and links; here no escape sequence is left.
    color_system = "auto" if styles_shown() else None
    width = None if on_terminal else UNLIMITED
    written = io.StringIO()
    yield Console(file=written, force_terminal=on_terminal, width=width, color_system=color_system)  # type: ignore[arg-type]
    text = written.getvalue()
    # rich pads lines with spaces, which programs that read a file or a pipe do not want.
    write_shown(text if on_terminal else "\n".join(line.rstrip() for line in text.split("\n")))


def cell(value: object, style: str = "") -> Text:
    """A value from outside as a cell, which stays within its line."""
    from rich.text import Text

    return Text(printable_line(str(value)), style=style)


def bare_table() -> Table:
    """A table without lines."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
