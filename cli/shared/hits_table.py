"""The table of a query's hits. It does without rich, whose import takes longer than the search of a small gallery."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.queries import Query
from tbps_infer.cli.shared.tables import UNLIMITED, styles_shown
from tbps_infer.render.marks import Verdict, verdict
from tbps_infer.render.printable import printable_line

if TYPE_CHECKING:
    from tbps_infer.gallery import Hit

__all__ = ["grouped_split", "hits_table"]

_MARKS: Mapping[Verdict, tuple[str, Mapping[str, Any]]] = {
    "right": ("✓", {"bold": True, "fg": "green"}),
    "wrong": ("✕", {"fg": "red"}),
    "unknown": ("?", {"dim": True}),
}
_INDENT = " " * 6


def hits_table(query: Query, hits: Sequence[Hit], names: Sequence[str]) -> str:
    """The query and a line per hit; where one does not fit, paths and metadata get lines of their own.

    Paths are not broken, and what comes from outside stays within its line.

    Args:
        query: Whose hits they are.
        hits: Best first.
        names: Of the model's groups of segments (`grouped_split`), for the columns of their shares.
    """
    lines = [_styled(printable_line(query.label), bold=True)]
    if not hits:
        return f"{lines[0]}\n{printable_line(query.warnings[-1])}\n"
    head = ["rank", "score", *names]
    rows = [(str(rank), f"{hit.score:.3f}", *_shares(hit, names)) for rank, hit in enumerate(hits, start=1)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    pictures = [printable_line(_relative(hit.path)) for hit in hits]
    details = [printable_line(" ".join(f"{name}={value}" for name, value in _facts(hit).items())) for hit in hits]
    place = max(len("picture"), *map(_cells, pictures))
    marked = query.person is not None
    whole = _width()
    taken = sum(widths) + 2 * len(widths) + 3 * marked + place + 2
    beside = taken + max(map(_cells, details)) <= whole

    title = _joined(head, widths) + "   " * marked
    if beside:
        title += f"  {'picture':<{place}}" + "  metadata" * any(details)
    lines.append(_styled(title.rstrip(), dim=True))
    for hit, row, picture, detail in zip(hits, rows, pictures, details, strict=True):
        line = _joined(row, widths) + (f"  {_mark(hit, query)}" if marked else "")
        if beside:
            gap = " " * (place - _cells(picture) + 2)
            lines.append(f"{line}  {_linked(picture, hit.path)}{gap}{_styled(detail, dim=True)}".rstrip())
        else:
            below = (_linked(picture, hit.path), *_wrapped(detail, whole - len(_INDENT)))
            lines += [line, *(_INDENT + each for each in below if each)]
    return "\n".join(lines) + "\n"


def grouped_split(split: Mapping[str, float]) -> dict[str, float]:
    """Shares of a score with numbered segments (``fine.0`` …) added up under their common name."""
    grouped: dict[str, float] = {}
    for name, share in split.items():
        head, _, tail = name.rpartition(".")
        key = head if head and tail.isdigit() else name
        grouped[key] = grouped.get(key, 0.0) + share
    return grouped


def _shares(hit: Hit, names: Sequence[str]) -> list[str]:
    shares = grouped_split(hit.split)
    return [f"{shares[name]:.3f}" for name in names]


def _facts(hit: Hit) -> Mapping[str, Any]:
    return {"gallery": hit.gallery, **hit.metadata} if hit.gallery else hit.metadata


def _joined(values: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(value.rjust(width) for value, width in zip(values, widths, strict=True))


def _wrapped(text: str, width: int) -> list[str]:
    """The words of a text in dim lines of at most so many columns; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and _cells(lines[-1]) + 1 + _cells(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [_styled(line, dim=True) for line in lines]


def _mark(hit: Hit, query: Query) -> str:
    text, style = _MARKS[verdict(hit.metadata, query.person)]
    return _styled(text, **style)


def _linked(text: str, path: Path) -> str:
    """The path of a hit's picture, on a terminal as a link."""
    return f"\x1b]8;;{path.as_uri()}\x1b\\{text}\x1b]8;;\x1b\\" if styles_shown() else text


def _styled(text: str, **style: Any) -> str:
    return click.style(text, **style) if text and styles_shown() else text


def _width() -> int:
    """Columns of the terminal; elsewhere nothing is wrapped."""
    if not sys.stdout.isatty():
        return UNLIMITED
    import shutil

    return shutil.get_terminal_size().columns


def _cells(text: str) -> int:
    """Columns that a text takes: letters of some scripts take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _relative(path: Path) -> str:
    """A path relative to the current folder where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
