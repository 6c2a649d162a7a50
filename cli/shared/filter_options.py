"""The options that filter records, shared by the commands that search, remove and export."""

from __future__ import annotations

from typing import Any

import click

from tbps_infer.cli.shared.options import combined

__all__ = ["filter_options"]


def _filter(
    camera: tuple[str, ...],
    after: str | None,
    before: str | None,
    identity: tuple[str, ...],
    not_id: tuple[str, ...],
    where_sql: str | None,
) -> Any:
    from tbps_infer.gallery import Filter

    return Filter(camera, after, before, where_sql, identity, not_id)


filter_options = combined(
    "where",
    _filter,
    click.option("--camera", multiple=True, help="Only records of this camera. Repeatable."),
    click.option("--after", help="Only records from this time on: ISO 8601, a year, or Unix seconds."),
    click.option("--before", help="Only records before this time."),
    click.option("--id", "identity", multiple=True, help="Only records of this identity. Repeatable."),
    click.option("--not-id", multiple=True, help="No records of this identity. Repeatable."),
    click.option(
        "--where", "where_sql", metavar="SQL", help='SQL condition, such as "shelf = 3 and id is not null".'
    ),
)
"""``--camera``, ``--after``, ``--before``, ``--id``, ``--not-id``, ``--where``; passes ``where``, a `Filter`."""
