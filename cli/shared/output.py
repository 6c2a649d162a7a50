"""Output of hits: a table for people; JSON, JSON lines and CSV for programs; all streamed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.progress import say
from tbps_infer.cli.shared.queries import Query
from tbps_infer.cli.shared.tables import cell, rich_output
from tbps_infer.layout import VectorLayout
from tbps_infer.render.hits_csv import HitsCsv
from tbps_infer.render.marks import Verdict, verdict
from tbps_infer.render.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tbps_infer.gallery import Hit

__all__ = ["FORMATS", "grouped_split", "write_results"]

FORMATS = ("table", "json", "jsonl", "csv")

Result = tuple[Query, Sequence["Hit"]]


def write_results(
    results: Iterable[Result],
    form: str,
    layout: VectorLayout,
    columns: Sequence[str],
    *,
    explain: bool = False,
    several: bool = False,
) -> None:
    """Write results to standard output as they come.

    Args:
        results: Queries with their hits, best first.
        form: One of `FORMATS`.
        layout: The model's, for the columns of the table and of the CSV.
        columns: The gallery's metadata columns, for those of the CSV.
        several: Whether hits are of several galleries, for the columns of the CSV.
        explain: Draw every segment's share of each score as a bar in the table; the other forms always contain it.
    """
    if form == "table":
        _write_table(results, layout, explain)
    elif form == "csv":
        _write_csv(results, layout, columns, several)
    else:
        {"json": _write_json, "jsonl": _write_lines}[form](results)


def grouped_split(split: Mapping[str, float]) -> dict[str, float]:
    """Shares of a score with numbered segments (``fine.0`` …) added up under their common name."""
    grouped: dict[str, float] = {}
    for name, share in split.items():
        head, _, tail = name.rpartition(".")
        key = head if head and tail.isdigit() else name
        grouped[key] = grouped.get(key, 0.0) + share
    return grouped


def _to_json(query: Query, hits: Sequence[Hit]) -> dict[str, Any]:
    return {
        "id": query.id,
        "query": query.label,
        "warnings": list(query.warnings),
        "hits": [
            {
                "rank": rank,
                "score": round(hit.score, 6),
                "path": str(hit.path),
                "record": hit.record,
                **({"gallery": hit.gallery} if hit.gallery else {}),
                "split": {name: round(share, 6) for name, share in hit.split.items()},
                "metadata": dict(hit.metadata),
            }
            for rank, hit in enumerate(hits, start=1)
        ],
    }


def _write_lines(results: Iterable[Result]) -> None:
    for query, hits in results:
        click.echo(json.dumps(_to_json(query, hits), ensure_ascii=False))


def _write_json(results: Iterable[Result]) -> None:
    """One JSON array; every element is written at once."""
    before = "[\n"
    for query, hits in results:
        click.echo(before + json.dumps(_to_json(query, hits), ensure_ascii=False), nl=False)
        before = ",\n"
    click.echo("\n]" if before == ",\n" else "[]")


def _write_csv(results: Iterable[Result], layout: VectorLayout, columns: Sequence[str], several: bool) -> None:
    table = HitsCsv(sys.stdout, layout, columns, ("query_id", "query", "gallery")[: 2 + several])
    for query, hits in results:
        for rank, hit in enumerate(hits, start=1):
            table.add(rank, hit, (query.id, query.label, hit.gallery)[: 2 + several])
        if not hits:  # which has no row to say so
            say(f"Query {query.id}: {query.warnings[-1]}")


def _write_table(results: Iterable[Result], layout: VectorLayout, explain: bool) -> None:
    from rich.text import Text

    groups = list(grouped_split(dict.fromkeys(layout.names, 0.0)))
    for number, (query, hits) in enumerate(results):
        with rich_output() as console:
            if number:
                console.print()
            console.print(cell(query.label, "bold"), soft_wrap=True)
            if hits:
                _print_hits(console, query, hits, groups)
            else:
                console.print(cell(query.warnings[-1]), soft_wrap=True)
            if explain and hits:
                console.print(Text(printable(_bars(hits, layout))), soft_wrap=True)


_MARKS: Mapping[Verdict, tuple[str, str]] = {
    "right": ("✓", "bold green"),
    "wrong": ("✕", "red"),
    "unknown": ("?", "dim"),
}


def _print_hits(console: Console, query: Query, hits: Sequence[Hit], groups: Sequence[str]) -> None:
    """A line per hit; where one does not fit, paths and metadata get lines of their own, and paths are not broken."""
    from rich.padding import Padding

    rows = [(str(rank), f"{hit.score:.3f}", *_shares(hit, groups)) for rank, hit in enumerate(hits, start=1)]
    names = ["rank", "score", *groups]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    pictures = [_picture(hit) for hit in hits]
    details = [cell(" ".join(f"{name}={value}" for name, value in _facts(hit).items()), "dim") for hit in hits]
    place = max(len("picture"), *(picture.cell_len for picture in pictures))
    marked = query.person is not None
    taken = sum(widths) + 2 * len(widths) + 3 * marked + place + 2
    beside = taken + max(detail.cell_len for detail in details) <= console.width

    head = cell(_joined(names, widths) + "   " * marked, "dim")
    if beside:
        head.append(f"  {'picture':<{place}}" + "  metadata" * any(details))
    console.print(head, soft_wrap=True)
    for hit, row, picture, detail in zip(hits, rows, pictures, details, strict=True):
        line = cell(_joined(row, widths))
        if marked:
            line.append("  ").append(*_MARKS[verdict(hit.metadata, query.person)])
        if beside:
            line.append("  ").append(picture).append(" " * (place - picture.cell_len + 2)).append(detail)
            console.print(line, soft_wrap=True)
        else:
            console.print(line, soft_wrap=True)
            console.print(cell(_INDENT).append(picture), soft_wrap=True)
            if detail:
                console.print(Padding.indent(detail, len(_INDENT)))


def _facts(hit: Hit) -> Mapping[str, Any]:
    return {"gallery": hit.gallery, **hit.metadata} if hit.gallery else hit.metadata


_INDENT = " " * 6


def _joined(values: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(value.rjust(width) for value, width in zip(values, widths, strict=True))


def _shares(hit: Hit, groups: Sequence[str]) -> list[str]:
    shares = grouped_split(hit.split)
    return [f"{shares[name]:.3f}" for name in groups]


def _picture(hit: Hit) -> Text:
    """The path of a hit's picture, on a terminal as a link."""
    linked = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return cell(_relative(hit.path), f"link {hit.path.as_uri()}" if linked else "")


_BAR_LENGTH = 20


def _bars(hits: Sequence[Hit], layout: VectorLayout) -> str:
    """Every hit's split as aligned bars, one line per segment: its share of its maximum."""
    width = max(map(len, layout.names))
    lines = []
    for rank, hit in enumerate(hits, start=1):
        for row, segment in enumerate(layout.segments):
            share = hit.split[segment.name]
            filled = round(_BAR_LENGTH * min(max(share / segment.weight, 0.0), 1.0))
            bar = "█" * filled + "░" * (_BAR_LENGTH - filled)
            number = f"{rank:>4}" if row == 0 else "    "
            lines.append(f"{number}  {segment.name:<{width}}  {bar}  {share:6.3f} of {segment.weight:.3f}")
    return "\n".join(lines)


def _relative(path: Path) -> str:
    """A path relative to the current folder where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
