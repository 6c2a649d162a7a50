"""Options that say how sources of pictures and lists are read, and what is told about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import combined
from tbps_infer.cli.shared.progress import say

if TYPE_CHECKING:
    from tbps_infer.gallery.columns import Value
    from tbps_infer.sources import SourceItem, SourceReport

__all__ = ["list_options", "metadata_table", "source_options", "tell_of_sources"]

_ROWS_SHOWN = 10
_TAB = ("tab", "\\t")

_separator_option = click.option(
    "--separator",
    metavar="CHARACTER",
    help="Separator of CSV lists: , ; | or tab.",
    show_default="found in the header",
)
_list_format_option = click.option(
    "--list-format",
    type=click.Choice(("csv", "jsonl", "txt")),
    help="Format of a list on standard input.",
    show_default="found in its first line",
)


def _list_style(separator: str | None, list_format: Any) -> Any:
    from tbps_infer.lists import ListStyle

    return ListStyle(list_format, "\t" if separator in _TAB else separator)


list_options = combined("style", _list_style, _separator_option, _list_format_option)
"""``--separator`` and ``--list-format``; passes ``style``, a `ListStyle`."""


def _source_options(
    no_recursive: bool,
    exclude: tuple[str, ...],
    text_columns: tuple[str, ...],
    timezone: str,
    name_pattern: str | None,
    separator: str | None,
    list_format: Any,
) -> Any:
    from tbps_infer.gallery.times import find_zone
    from tbps_infer.name_pattern import NamePattern
    from tbps_infer.sources import SourceOptions

    return SourceOptions(
        recursive=not no_recursive,
        exclude=exclude,
        text=text_columns,
        zone=find_zone(timezone),
        names=None if name_pattern is None else NamePattern(name_pattern),
        style=_list_style(separator, list_format),
    )


source_options = combined(
    "reading",
    _source_options,
    click.option("--no-recursive", is_flag=True, help="Do not search subfolders."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Files and folders to skip in folders and globs, besides @eaDir, .thumbnails and ._*. Repeatable.",
    ),
    click.option(
        "--text",
        "text_columns",
        multiple=True,
        metavar="COLUMN",
        help="Keep the column as text, as id and camera are. Repeatable.",
    ),
    click.option(
        "--timezone", default="UTC", metavar="ZONE", help="Zone of times without one, such as Europe/Berlin."
    ),
    click.option(
        "--name-pattern",
        metavar="PATTERN",
        help="Metadata in file names, as in 'cam{camera}_{time:%Y-%m-%dT%H-%M-%S}_{}', or one of market1501, "
        "dukemtmc, msmt17, cuhk-pedes.",
    ),
    _separator_option,
    _list_format_option,
)
"""How to read sources; passes ``reading``, `SourceOptions`."""


def tell_of_sources(report: SourceReport, timezone: str) -> None:
    """Say on standard error how columns and times were read, and what was skipped."""
    if report.types:
        say("columns: " + ", ".join(f"{name}: {kind}" for name, kind in sorted(report.types.items())))
    if report.unzoned:
        say(f"times: {report.unzoned} without a zone, read as {timezone} (--timezone)")
    if report.unmatched:
        say(f"names: {len(report.unmatched)} do not follow the pattern, such as {report.unmatched[0].name}")
    for reason, (count, example) in report.skipped.items():
        say(f"skipped {count} {reason}, such as {example}")


def metadata_table(items: list[SourceItem]) -> None:
    """Print what is known about the first pictures."""
    from tbps_infer.cli.shared.tables import bare_table, rich_output

    shown = items[:_ROWS_SHOWN]
    columns = list(dict.fromkeys(name for item in shown for name in item.metadata))
    with rich_output() as console:
        table = bare_table()
        for name in ("picture", *columns):
            table.add_column(name, overflow="fold")
        for item in shown:
            table.add_row(_plain(item.path.name), *(_plain(item.metadata.get(name)) for name in columns))
        console.print(table)


def _plain(value: Value) -> str:
    from rich.markup import escape

    from tbps_infer.render.printable import printable_line

    return "" if value is None else escape(printable_line(str(value)))
