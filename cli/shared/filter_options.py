"""The options that filter records, shared by the commands that search, remove and export."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["filter_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def filter_options(command: Command) -> Command:
    """``--camera``, ``--after``, ``--before``, ``--id``, ``--not-id``, ``--where``; passes ``where``, a `Filter`."""

    @click.option("--camera", multiple=True, help="Only this camera; again for more.")
    @click.option("--after", help="Only from this time on: ISO 8601, a year, or Unix seconds.")
    @click.option("--before", help="Only before this time.")
    @click.option("--id", "identity", multiple=True, help="Only this identity; again for more.")
    @click.option("--not-id", multiple=True, help="Not this identity; again for more.")
    @click.option("--where", metavar="SQL", help='Only where this holds, as in "shelf = 3 and id is not null".')
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        camera: tuple[str, ...],
        after: str | None,
        before: str | None,
        identity: tuple[str, ...],
        not_id: tuple[str, ...],
        where: str | None,
        **kwargs: Any,
    ) -> Any:
        from tbps_infer.gallery import Filter

        return command(*args, where=Filter(camera, after, before, where, identity, not_id), **kwargs)

    return wrapped  # type: ignore[return-value]
