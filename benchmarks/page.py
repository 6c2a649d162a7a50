"""The report as one HTML file that loads nothing from anywhere: tables, and plots as data."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from tbps_infer.benchmarks.plots import Plot
from tbps_infer.benchmarks.report import TextTable, absent_lines, environment_lines, tables
from tbps_infer.benchmarks.results import Results

__all__ = ["html_items", "html_page", "html_table", "report_page"]

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


def report_page(results: Results, plots: Sequence[Plot]) -> str:
    """The page's text.

    Args:
        results: Summarised samples.
        plots: Shown before the tables.
    """
    parts = ["<h1>Latency on this machine</h1>", html_items(environment_lines(results))]
    parts += [_figure(plot) for plot in plots]
    parts += [f"<h2>{escape(table.title)}</h2>{html_table(table)}" for table in tables(results)]
    absent = absent_lines(results)
    if absent:
        parts.append(f"<h2>Not measured</h2>{html_items(absent)}")
    parts.append(
        "<p>Percentiles interpolate linearly between samples; those beyond the number of samples lie close to the "
        "slowest. Ratios are medians over rounds in which both arms ran, with bootstrap intervals.</p>"
    )
    return html_page("tbps bench latency", parts)


def html_page(title: str, parts: Sequence[str], style: str = "") -> str:
    """A whole page of some HTML.

    Args:
        title: Of its tab.
        parts: HTML, one below the other.
        style: CSS beyond what every report has.
    """
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>{escape(title)}</title><style>{_STYLE}{style}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def html_items(lines: Sequence[str]) -> str:
    """Sentences as a list; what stands between backticks is code."""
    return "<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in lines) + "</ul>"


def _inline(line: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(line))


def html_table(table: TextTable) -> str:
    """A table, its numbers to the right, that scrolls where the page is narrow."""

    def cells(row: Sequence[str], tag: str) -> str:
        marks = (' class="word"' if place < table.left else "" for place in range(len(row)))
        return "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in table.rows)
    head = f"<thead><tr>{cells(table.head, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>\n{body}</tbody></table></div>'


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    return (
        f'<figure><img alt="{escape(plot.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(plot.title)}</figcaption></figure>"
    )
