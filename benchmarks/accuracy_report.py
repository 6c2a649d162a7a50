"""Accuracy as text and as one page: tables, CSV, Markdown, and the worst pictures and captions to look at."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.accuracy import AccuracyResults, EngineAccuracy
from tbps_infer.benchmarks.page import html_items, html_page, html_table
from tbps_infer.benchmarks.report import TextTable, markdown_table
from tbps_infer.model_facts import BRANCHES
from tbps_infer.verification.agreement import BranchAgreement, WorstItem
from tbps_infer.verification.bootstrap import DRAWS
from tbps_infer.verification.differences import MetricDifference

__all__ = [
    "accuracy_csv",
    "accuracy_markdown",
    "accuracy_page",
    "accuracy_tables",
    "not_run_lines",
    "summary_lines",
]

THUMBNAIL = (192, 64)
"""Height and width of a thumbnail in pixels."""

_JPEG_QUALITY = 82
_HEAD = ("backend", "device", "precision")

_NOTE = (
    "Captions are the queries, all pictures the gallery, the caption's own among them; ties count as lost. "
    f"Intervals: 95 %, percentiles of a paired bootstrap over captions ({DRAWS} draws). Overlap: the share of "
    "the first ten pictures that reference and engine have in common, mean over captions. Kendall's tau-b: of the "
    "scores of the pictures that are among the first ten of either, mean over captions."
)

_STYLE = """
ol { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.8rem; align-items: stretch; }
ol.captions { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
ol li { background: var(--soft); border-radius: 6px; padding: 0.6rem; font-size: 0.85rem; min-width: 0; }
ol.captions li { display: flex; gap: 0.7rem; }
ol.pictures li { width: 6.4rem; text-align: center; overflow-wrap: anywhere; }
ol img, .gone { width: 64px; height: 192px; flex: none; object-fit: contain; background: none; }
.gone { display: inline-flex; align-items: center; }
ol b { font-variant-numeric: tabular-nums; display: block; }
ol small { opacity: 0.75; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
"""


def summary_lines(results: AccuracyResults) -> list[str]:
    """What was compared, on what, where, by which command."""
    stable = results.environment.stable
    gpus = [str(gpu.get("name", gpu)) for gpu in stable.get("gpus", ())]
    packages = ", ".join(f"{name} {version}" for name, version in stable.get("packages", {}).items())
    return [
        f"Data: {results.data}",
        f"Reference: {results.reference}",
        f"Machine: {stable.get('cpu') or 'unknown'}, {stable.get('usable_cores')} usable cores"
        + "".join(f", {name}" for name in gpus),
        f"Packages: {packages}",
        f"Command: `{results.command}`",
    ]


def accuracy_tables(results: AccuracyResults) -> Iterator[TextTable]:
    """Metrics, their differences from the reference, cosines, and rankings."""
    names = tuple(results.engines[0].metrics)
    yield TextTable(
        "Text to image, %",
        (*_HEAD, *names),
        tuple((*_cells(e), *(f"{e.metrics[name]:.2f}" for name in names)) for e in results.engines),
        left=3,
    )
    yield TextTable(
        "Difference from the reference, points",
        (*_HEAD, "metric", "reference", "engine", "difference", "95 % interval"),
        tuple((*_cells(e), *_difference_cells(each)) for e in results.compared for each in e.differences),
        left=4,
    )
    yield TextTable(
        "Cosine with the reference",
        (*_HEAD, "branch", "part", "min", "p1", "mean"),
        tuple(row for e in results.compared for branch in _branches(e) for row in _cosine_rows(e, branch)),
        left=5,
    )
    yield TextTable(
        "Rankings beside the reference's",
        (*_HEAD, "top-k", "overlap, %", "Kendall's tau"),
        tuple(
            (*_cells(e), str(a.k), f"{100 * a.overlap:.2f}", f"{a.kendall_tau:.5f}")
            for e in results.compared
            if (a := e.agreement) is not None
        ),
        left=3,
    )


def accuracy_csv(results: AccuracyResults) -> str:
    """A row per engine, the reference first."""
    names = tuple(results.engines[0].metrics)
    parts = ("min", "p1", "mean")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = [*_HEAD, "reference", *names]
    head += [f"{name} {what}" for name in names for what in ("difference", "low", "high")]
    head += [f"{branch} cosine {part}" for branch in BRANCHES for part in parts]
    writer.writerow([*head, "overlap", "kendall_tau"])
    for engine in results.engines:
        run = engine.run
        row = [run.backend, run.device, run.precision, "no" if engine.differences else "yes"]
        row += [*(f"{engine.metrics[name]:.6g}" for name in names)]
        numbers: list[float] = []
        if engine.agreement is not None:
            numbers += [value for d in engine.differences for value in (d.difference, d.low, d.high)]
            for branch in _branches(engine):
                numbers += [branch.whole.minimum, branch.whole.p1, branch.whole.mean]
            numbers += [engine.agreement.overlap, engine.agreement.kendall_tau]
        row += [f"{number:.9g}" for number in numbers]
        writer.writerow([*row, *[""] * (len(head) + 2 - len(row))])
    return stream.getvalue()


def accuracy_markdown(results: AccuracyResults) -> str:
    """What was compared, and every table."""
    lines = [*(f"- {line}" for line in summary_lines(results)), ""]
    for table in accuracy_tables(results):
        lines += [f"### {table.title}", "", *markdown_table(table), ""]
    if results.not_run:
        lines += ["### Not run", "", *(f"- {line}" for line in not_run_lines(results)), ""]
    return "\n".join([*lines, _NOTE, ""])


def not_run_lines(results: AccuracyResults) -> list[str]:
    """What was not compared, and why, one line per reason."""
    reasons: dict[str, list[str]] = {}
    for each in results.not_run:
        reasons.setdefault(each.reason, []).append(each.label)
    return [f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()]


def accuracy_page(results: AccuracyResults, caption_pictures: NDArray[np.int64]) -> str:
    """The report as one HTML page that loads nothing from anywhere.

    Args:
        results: With the pictures' files still in their places.
        caption_pictures: int64 ``[captions]``: the index of each caption's own picture.
    """
    parts = ["<h1>Accuracy beside the reference</h1>", html_items(summary_lines(results))]
    parts += [f"<h2>{escape(table.title)}</h2>{html_table(table)}" for table in accuracy_tables(results)]
    if results.not_run:
        parts.append(f"<h2>Not run</h2>{html_items(not_run_lines(results))}")
    parts.append(f"<p>{escape(_NOTE)}</p>")
    for engine in results.compared:
        parts += _worst(engine, results, caption_pictures)
    return html_page("tbps bench accuracy", parts, _STYLE)


def _worst(engine: EngineAccuracy, results: AccuracyResults, caption_pictures: NDArray[np.int64]) -> Iterator[str]:
    assert engine.agreement is not None
    data = results.data
    yield f"<h2>Least like the reference: {escape(engine.label)}</h2>"
    pictures = (_picture_item(item, data.pictures[item.index]) for item in engine.agreement.image.worst)
    yield f'<h3>Pictures</h3><ol class="pictures">{"".join(pictures)}</ol>'
    captions = (
        _caption_item(item, data.captions[item.index], data.pictures[caption_pictures[item.index]])
        for item in engine.agreement.text.worst
    )
    yield f'<h3>Captions, beside their own pictures</h3><ol class="captions">{"".join(captions)}</ol>'


def _picture_item(item: WorstItem, path: Path) -> str:
    return f"<li>{_thumbnail(path)}<b>{item.cosine:.6f}</b><small>{escape(path.name)}</small></li>"


def _caption_item(item: WorstItem, caption: str, path: Path) -> str:
    return f"<li>{_thumbnail(path)}<div><b>{item.cosine:.6f}</b>{escape(caption)}</div></li>"


def _thumbnail(path: Path) -> str:
    """A picture as a data URI, twice as large as it is shown, for sharp screens."""
    from tbps_infer.errors import ImageError
    from tbps_infer.images import load_rgb

    try:
        image = load_rgb(path)
    except (ImageError, OSError):
        return '<span class="gone">gone</span>'
    height, width = THUMBNAIL
    image.thumbnail((2 * width, 2 * height))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_JPEG_QUALITY)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(path.name)}">'


def _cells(engine: EngineAccuracy) -> tuple[str, str, str]:
    mark = " (reference)" if engine.agreement is None else ""
    return engine.run.backend, engine.run.device, f"{engine.run.precision}{mark}"


def _difference_cells(each: MetricDifference) -> tuple[str, ...]:
    numbers = (f"{each.reference:.2f}", f"{each.candidate:.2f}", f"{each.difference:+.2f}")
    return each.name, *numbers, f"{each.low:+.2f} to {each.high:+.2f}"


def _branches(engine: EngineAccuracy) -> Sequence[BranchAgreement]:
    return () if engine.agreement is None else (engine.agreement.image, engine.agreement.text)


def _cosine_rows(engine: EngineAccuracy, branch: BranchAgreement) -> Iterator[tuple[str, ...]]:
    parts = {"whole": branch.whole, **(branch.parts if len(branch.parts) > 1 else {})}
    for name, cosine in parts.items():
        numbers = (f"{value:.6f}" for value in (cosine.minimum, cosine.p1, cosine.mean))
        yield (*_cells(engine), branch.branch, name, *numbers)
