"""Accuracy as text and as one page: tables, CSV, Markdown, and the worst pictures and captions to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.accuracy import AccuracyResults, EngineAccuracy
from tbps_infer.benchmarks.document import Document, TextTable, csv_text, lines_by_reason, page_text
from tbps_infer.inline_picture import image_html
from tbps_infer.model_facts import BRANCHES
from tbps_infer.verification.agreement import BranchAgreement, WorstItem
from tbps_infer.verification.bootstrap import DRAWS
from tbps_infer.verification.differences import MetricDifference

__all__ = ["accuracy_csv", "accuracy_document", "accuracy_page"]

THUMBNAIL = (192, 64)
"""Height and width of a thumbnail in pixels."""

_GONE = '<span class="gone">gone</span>'
_HEAD = ("backend", "device", "precision")

_NOTE = (
    "Captions are the queries; the gallery is all pictures, the caption's own included; ties count as misses. "
    f"Intervals: 95 %, percentiles of a paired bootstrap over captions ({DRAWS} draws). Overlap: the share of "
    "the top ten pictures that reference and engine have in common, averaged over captions. Kendall's tau-b: of the "
    "scores of the pictures in the top ten of either, averaged over captions."
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


def accuracy_document(results: AccuracyResults) -> Document:
    """Metrics, their differences from the reference, cosines, and rankings."""
    facts = (
        f"Data: {results.data}",
        f"Reference: {results.reference}",
        *results.environment.describe(),
        f"Command: `{results.command}`",
    )
    missing = lines_by_reason(results.not_run)
    tables = tuple(table for table in _tables(results) if table.rows)
    return Document("Accuracy beside the reference", facts, tables, "Not run", missing, _NOTE)


def _tables(results: AccuracyResults) -> Iterator[TextTable]:
    names = tuple(results.engines[0].metrics)
    yield TextTable(
        "Text to image, %",
        (*_HEAD, *names),
        tuple((*_cells(e), *(f"{e.metrics[name]:.2f}" for name in names)) for e in results.engines if names),
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
    head = [*_HEAD, "reference", *names]
    head += [f"{name} {what}" for name in names for what in ("difference", "low", "high")]
    head += [f"{branch} cosine {part}" for branch in BRANCHES for part in ("min", "p1", "mean")]
    head += ["overlap", "kendall_tau"]
    rows = []
    for engine in results.engines:
        run, agreement = engine.run, engine.agreement
        row = [run.backend, run.device, run.precision, "yes" if agreement is None else "no"]
        row += [f"{engine.metrics[name]:.6g}" for name in names]
        if agreement is not None:
            numbers = [value for d in engine.differences for value in (d.difference, d.low, d.high)]
            for branch in _branches(engine):
                numbers += [branch.whole.minimum, branch.whole.p1, branch.whole.mean]
            row += [f"{number:.9g}" for number in (*numbers, agreement.overlap, agreement.kendall_tau)]
        rows.append([*row, *[""] * (len(head) - len(row))])
    return csv_text([head, *rows])


def accuracy_page(results: AccuracyResults, caption_pictures: NDArray[np.int64] | None) -> str:
    """The report as one HTML page that loads nothing from anywhere.

    Args:
        results: With the pictures' files still in their places.
        caption_pictures: int64 ``[captions]``: the index of each caption's own picture; None where it is not known.
    """
    worst = (part for engine in results.compared for part in _worst(engine, results, caption_pictures))
    return page_text(accuracy_document(results), "tbps bench accuracy", appendix=worst, style=_STYLE)


def _worst(
    engine: EngineAccuracy, results: AccuracyResults, caption_pictures: NDArray[np.int64] | None
) -> Iterator[str]:
    assert engine.agreement is not None
    data = results.data
    yield f"<h2>Least like the reference: {escape(engine.run.label)}</h2>"
    pictures = (_picture_item(item, data.pictures[item.index]) for item in engine.agreement.image.worst)
    yield f'<h3>Pictures</h3><ol class="pictures">{"".join(pictures)}</ol>'
    captions = (
        _caption_item(
            item,
            data.captions[item.index],
            None if caption_pictures is None else data.pictures[caption_pictures[item.index]],
        )
        for item in engine.agreement.text.worst
    )
    beside = "" if caption_pictures is None else ", beside their own pictures"
    yield f'<h3>Captions{beside}</h3><ol class="captions">{"".join(captions)}</ol>'


def _picture_item(item: WorstItem, path: Path) -> str:
    return f"<li>{image_html(path, THUMBNAIL, _GONE)}<b>{item.cosine:.6f}</b><small>{escape(path.name)}</small></li>"


def _caption_item(item: WorstItem, caption: str, path: Path | None) -> str:
    picture = "" if path is None else image_html(path, THUMBNAIL, _GONE)
    return f"<li>{picture}<div><b>{item.cosine:.6f}</b>{escape(caption)}</div></li>"


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
