"""Output of hits: a table for people; JSON, JSON lines and CSV for programs; all streamed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.hits_table import grouped_split, hits_table
from tbps_infer.cli.shared.progress import say
from tbps_infer.cli.shared.queries import Query
from tbps_infer.cli.shared.tables import write_shown
from tbps_infer.layout import VectorLayout
from tbps_infer.render.hits_csv import HitsCsv
from tbps_infer.render.printable import printable

if TYPE_CHECKING:
    from tbps_infer.gallery import Hit

__all__ = ["FORMATS", "write_results"]

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
    names = list(grouped_split(dict.fromkeys(layout.names, 0.0)))
    for number, (query, hits) in enumerate(results):
        bars = printable(_bars(hits, layout)) + "\n" if explain and hits else ""
        write_shown("\n" * bool(number) + hits_table(query, hits, names) + bars)


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
