"""A benchmark's report, whatever was measured: facts, tables, and what is missing and why; Markdown, LaTeX, HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Document", "TextTable", "csv_text", "latex_text", "lines_by_reason", "markdown_text", "page_text"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.22rem 0.7rem; text-align: right; white-space: nowrap; }
th { position: sticky; top: 0; border-bottom: 2px solid var(--line); font-weight: 600; }
th.word, td.word { text-align: left; }
tbody tr:nth-child(even) { background: var(--soft); }
figure { margin: 1rem 0; } figcaption { font-size: 0.9rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
"""


@dataclass(frozen=True)
class TextTable:
    """A table of strings.

    Attributes:
        title: Its heading.
        head: A name per column.
        rows: Cells.
        left: How many first columns are words and not numbers.
        text: A paragraph above it, in Markdown alone.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    text: str = ""


@dataclass(frozen=True)
class Document:
    """What a report says; what stands between backticks is code.

    Attributes:
        title: Its heading.
        facts: What was measured, on what, by which command: a sentence each.
        tables: The figures.
        missing_title: The heading of `missing`.
        missing: What could not be measured, and why: a line per reason.
        note: How the figures are computed.
    """

    title: str
    facts: Sequence[str]
    tables: Sequence[TextTable]
    missing_title: str
    missing: Sequence[str]
    note: str


def lines_by_reason(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """One line per reason, of pairs of a name and its reason."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(several)}: {reason}" for reason, several in names.items()]


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows, the head first, as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def markdown_text(document: Document) -> str:
    """The document without its title, each table below a heading of the third level."""
    return "\n".join(_markdown_lines(document))


def _markdown_lines(document: Document) -> Iterator[str]:
    yield from (*(f"- {fact}" for fact in document.facts), "")
    for table in document.tables:
        yield from (f"### {table.title}", "", *([table.text, ""] if table.text else []), *_markdown_table(table), "")
    if document.missing:
        yield from (f"### {document.missing_title}", "", *(f"- {line}" for line in document.missing), "")
    if document.note:
        yield from (document.note, "")


def _markdown_table(table: TextTable) -> list[str]:
    """Numbers to the right."""
    rule = ["---" if place < table.left else "---:" for place in range(len(table.head))]
    return ["| " + " | ".join(cells) + " |" for cells in (table.head, rule, *table.rows)]


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": r"$-$",
}
_SIGNED = re.compile(r"(?<![\w.])([+-])(?=\d)")


def latex_text(document: Document) -> str:
    """The tables in LaTeX, for the package booktabs; what is not in them stands in comments."""
    return "\n".join(_latex_lines(document))


def _latex_lines(document: Document) -> Iterator[str]:
    yield r"% needs \usepackage{booktabs}"
    lines = (document.title, *document.facts, document.note, *document.missing)
    yield from (f"% {' '.join(line.split())}" for line in lines if line)
    for table in document.tables:
        if not table.rows:
            continue
        columns = "l" * table.left + "r" * (len(table.head) - table.left)
        yield from ("", r"\begin{table}", r"\centering", rf"\caption{{{_latex_cell(table.title)}}}")
        yield from (rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(table.head), r"\midrule")
        yield from map(_latex_row, table.rows)
        yield from (r"\bottomrule", r"\end{tabular}", r"\end{table}")
    yield ""


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_cell, cells)) + r" \\"


def _latex_cell(text: str) -> str:
    """A cell's text as LaTeX prints it, signs of numbers in mathematics: a hyphen is no minus."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return _SIGNED.sub(r"$\1$", escaped)


def page_text(
    document: Document, name: str, *, figures: Iterable[str] = (), appendix: Iterable[str] = (), style: str = ""
) -> str:
    """The document as one HTML page that loads nothing from anywhere.

    Args:
        document: What it says.
        name: Of the page, in its browser's tab.
        figures: HTML before the tables.
        appendix: HTML after everything else.
        style: CSS beyond what every report has.
    """
    parts = [f"<h1>{escape(document.title)}</h1>", _html_list(document.facts), *figures]
    parts += [f"<h2>{escape(table.title)}</h2>{_html_table(table)}" for table in document.tables]
    if document.missing:
        parts.append(f"<h2>{escape(document.missing_title)}</h2>{_html_list(document.missing)}")
    parts += [f"<p>{escape(document.note)}</p>", *appendix]
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>{escape(name)}</title><style>{_STYLE}{style}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html_list(lines: Sequence[str]) -> str:
    items = (re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(line)) for line in lines)
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _html_table(table: TextTable) -> str:
    """Numbers to the right; it scrolls where the page is narrow."""

    def cells(row: Sequence[str], tag: str) -> str:
        marks = (' class="word"' if place < table.left else "" for place in range(len(row)))
        return "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in table.rows)
    head = f"<thead><tr>{cells(table.head, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>\n{body}</tbody></table></div>'
