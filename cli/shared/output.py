"""Output of hits: a table for people; JSON, JSON lines and CSV for programs; all streamed."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.queries import Query
from tbps_infer.cli.shared.tables import bare_table, rich_output
from tbps_infer.layout import VectorLayout

if TYPE_CHECKING:
    from rich.table import Table

    from tbps_infer.gallery import Hit

__all__ = ["FORMATS", "grouped_split", "write_results"]

FORMATS = ("table", "json", "jsonl", "csv")

Result = tuple[Query, Sequence["Hit"]]


def write_results(results: Iterable[Result], form: str, layout: VectorLayout, *, explain: bool = False) -> None:
    """Write results to standard output as they come.

    Args:
        results: Queries with their hits, best first.
        form: One of `FORMATS`.
        layout: The model's, for the table's columns.
        explain: Draw every segment's share of each score as a bar in the table; the other forms always contain it.
    """
    if form == "table":
        _write_table(results, layout, explain)
        return
    writer = {"json": _write_json, "jsonl": _write_lines, "csv": _write_csv}[form]
    writer(results, layout)


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
        "hits": [
            {
                "rank": rank,
                "score": round(hit.score, 6),
                "path": str(hit.path),
                "record": hit.record,
                "split": {name: round(share, 6) for name, share in hit.split.items()},
                "metadata": dict(hit.metadata),
            }
            for rank, hit in enumerate(hits, start=1)
        ],
    }


def _write_lines(results: Iterable[Result], _layout: VectorLayout) -> None:
    for query, hits in results:
        click.echo(json.dumps(_to_json(query, hits), ensure_ascii=False))


def _write_json(results: Iterable[Result], _layout: VectorLayout) -> None:
    """One JSON array; every element is written at once."""
    before = "[\n"
    for query, hits in results:
        click.echo(before + json.dumps(_to_json(query, hits), ensure_ascii=False), nl=False)
        before = ",\n"
    click.echo("\n]" if before == ",\n" else "[]")


def _write_csv(results: Iterable[Result], layout: VectorLayout) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["id", "query", "rank", "score", "path", "record", *layout.names, "metadata"])
    for query, hits in results:
        for rank, hit in enumerate(hits, start=1):
            shares = [f"{hit.split[name]:.6f}" for name in layout.names]
            metadata = json.dumps(dict(hit.metadata), ensure_ascii=False)
            row = [query.id, query.label, rank, f"{hit.score:.6f}", hit.path, hit.record, *shares, metadata]
            writer.writerow(row)


def _write_table(results: Iterable[Result], layout: VectorLayout, explain: bool) -> None:
    from rich.text import Text

    linked = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    groups = list(grouped_split(dict.fromkeys(layout.names, 0.0)))
    for number, (query, hits) in enumerate(results):
        with rich_output() as console:
            if number:
                console.print()
            console.print(Text(query.label, style="bold"), soft_wrap=True)
            console.print(_table(query, hits, groups, linked) if hits else "no picture passes the filter")
            if explain and hits:
                console.print(Text(_bars(hits, layout)), soft_wrap=True)


def _table(query: Query, hits: Sequence[Hit], groups: Sequence[str], linked: bool) -> Table:
    from rich.text import Text

    from tbps_infer.render.marks import verdict

    marks = {"right": ("✓", "bold green"), "wrong": ("✕", "red"), "unknown": ("?", "dim")}

    table = bare_table()
    for name in ("rank", "score", *groups):
        table.add_column(name, justify="right", no_wrap=True)
    if query.person is not None:
        table.add_column("")
    table.add_column("picture", overflow="fold")
    table.add_column("metadata" if any(hit.metadata for hit in hits) else "", overflow="fold")
    for rank, hit in enumerate(hits, start=1):
        shares = grouped_split(hit.split)
        row = [Text(cell) for cell in (str(rank), f"{hit.score:.3f}", *(f"{shares[name]:.3f}" for name in groups))]
        if query.person is not None:
            row.append(Text(*marks[verdict(hit.metadata, query.person)]))
        row.append(Text(_relative(hit.path), style=f"link {hit.path.as_uri()}" if linked else ""))
        row.append(Text(" ".join(f"{name}={value}" for name, value in hit.metadata.items()), style="dim"))
        table.add_row(*row)
    return table


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
