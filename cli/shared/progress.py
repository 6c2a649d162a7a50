"""Progress on standard error: a bar with rate and remaining time, for work that a person waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["progress_bar", "quiet", "say"]

_SHOW_AFTER_S = 1.0


def quiet() -> bool:
    """Whether the running command was told ``-q``."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get("tbps.quiet"))


def say(message: str) -> None:
    """One line for the person, on standard error, unless told to be quiet."""
    if not quiet():
        click.echo(message, err=True)


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total).

    The bar appears when the work has taken a second, and only on a terminal; it is gone when the work is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items per second."""

        def render(self, task: object) -> Text:
            speed = getattr(task, "speed", None)
            return Text(f"{speed:.1f} {unit}/s" if speed else "", style="progress.data.speed")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(label, total=None)
    shown = not console.is_terminal or quiet()
    started = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - started > _SHOW_AFTER_S:
            bar.start()
            shown = True
        bar.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if bar.live.is_started:  # stopped without a terminal, it would print an empty line
            bar.stop()
