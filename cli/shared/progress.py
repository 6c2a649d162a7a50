"""Progress on standard error: lines, and a bar with rate and remaining time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from tbps_infer.cli.shared.streams import styled
from tbps_infer.render.printable import printable_line

__all__ = ["progress_bar", "quiet", "say"]

_SHOW_AFTER_S = 1.0


def quiet() -> bool:
    """Whether the running command was given ``-q``."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get("tbps.quiet"))


def say(message: str) -> None:
    """Print a line on standard error, unless ``-q`` was given."""
    if not quiet():
        # Not click.echo, which goes past rich's redirection and would write into a bar that is shown.
        # Which would also take a message's escape sequences for its own.
        sys.stderr.write(f"{printable_line(message)}\n")


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[..., None]]:
    """Yield a function of (done, total, label) that moves the bar; a total of 0 is unknown, a label may be left out.

    The bar appears on a terminal after one second of work, and disappears when the work is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items per second."""

        def render(self, task: object) -> Text:
            speed = getattr(task, "speed", None)
            return Text(f"{speed:.1f} {unit}/s" if speed else "", style="progress.data.speed")

    console = Console(file=styled(sys.stderr))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(label, total=None)
    settled = not console.is_terminal or quiet()  # shown, or never to be
    started = time.monotonic()

    def update(done: int, total: int, new_label: str = label) -> None:
        nonlocal settled
        if not settled and time.monotonic() - started > _SHOW_AFTER_S:
            bar.start()
            settled = True
        bar.update(task, description=new_label, completed=done, total=total or None)

    try:
        yield update
    finally:
        if bar.live.is_started:  # stopped without a terminal, it would print an empty line
            bar.stop()
