"""Plots of results as PNG, for colour-blind readers too: a backend has a colour and a marker, a precision its dashes.

matplotlib is imported when something is drawn; its figures are made without pyplot, so that no window system and no
global state is touched.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_infer.benchmarks.results import Results, Row
from tbps_infer.errors import BackendError, BenchmarkError
from tbps_infer.model_facts import PRECISIONS

__all__ = ["AccuracyPoint", "Plot", "draw_plots", "read_accuracy", "require_matplotlib"]

# Okabe and Ito's palette, without its yellow, which is too pale for lines on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_BY_PRECISION = {"fp32": ("-", "full"), "fp16": ("--", "none"), "int8": (":", "left")}
_DPI = 144
_MOST_PANELS = 4


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        name: For its file.
        title: What it shows, as a sentence for the page.
        png: The picture.
    """

    name: str
    title: str
    png: bytes


@dataclass(frozen=True)
class AccuracyPoint:
    """How accurate one backend is: Rank-1 in percent, by `tbps bench accuracy`."""

    backend: str
    device: str
    precision: str
    rank1: float


def require_matplotlib() -> None:
    """Raises BackendError, naming the extra, where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "Plots and the HTML report need the package matplotlib, which is not installed.",
            'Install it: pip install "tbps-infer[bench]", or leave out --plots and --html.',
        ) from error


def draw_plots(results: Results, accuracy: Sequence[AccuracyPoint] | None = None) -> list[Plot]:
    """Draw what the results hold: latency against batch, throughput against precision, accuracy against latency.

    Args:
        results: Summarised samples.
        accuracy: Of the same backends, where it was measured.

    Raises:
        BackendError: matplotlib is not installed.
        BenchmarkError: No accuracy is of a backend that was timed.
    """
    require_matplotlib()
    styles = _styles(results)
    plots = []
    for branch in ("image", "text"):
        rows = _drawn([row for row in results.of(branch) if row.number("batch")])
        if rows:
            plots.append(_latency_plot(branch, rows, styles))
    if results.of("image") or results.of("text"):
        plots.append(_throughput_plot(results, styles))
    if accuracy is not None:
        plots.append(_accuracy_plot(results, accuracy, styles))
    return plots


def read_accuracy(path: Path) -> list[AccuracyPoint]:
    """The Rank-1 of each engine from what ``tbps bench accuracy --json`` wrote. Raises BenchmarkError."""
    try:
        engines = json.loads(path.read_text(encoding="utf-8"))["engines"]
        points = [
            AccuracyPoint(str(e["backend"]), str(e["device"]), str(e["precision"]), float(e["metrics"]["R@1"]))
            for e in engines
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path} is not what tbps bench accuracy writes: {error!r}.", "Make it: tbps bench accuracy --json."
        ) from error
    return points


Style = Mapping[str, Any]


def _styles(results: Results) -> dict[str, Style]:
    """The same in every plot: colour and marker by backend, dashes and the marker's filling by precision."""
    rows = {row.label: row for row in results.rows if row.label and "peer" not in row.configuration}
    backends = list(dict.fromkeys(_without_precision(row) for row in rows.values()))
    styles: dict[str, Style] = {}
    for label, row in rows.items():
        place = backends.index(_without_precision(row))
        dashes, filling = _BY_PRECISION[str(row.configuration["precision"])]
        styles[label] = {
            "color": _COLOURS[place % len(_COLOURS)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "linestyle": dashes,
            "fillstyle": filling,
        }
    return styles


def _without_precision(row: Row) -> tuple[object, ...]:
    return tuple(row.configuration[name] for name in ("backend", "device", "cuda_graphs"))


def _drawn(rows: Sequence[Row]) -> list[Row]:
    """The rows without those that differ from another only by not using CUDA graphs: tables have them."""
    with_graphs = {row.label.removesuffix(" graphs") for row in rows if row.configuration.get("cuda_graphs")}
    return [
        row
        for row in rows
        if row.configuration.get("cuda_graphs") is not False
        or row.label.removesuffix(" no graphs") not in with_graphs
    ]


def _latency_plot(branch: str, rows: Sequence[Row], styles: Mapping[str, Style]) -> Plot:
    lengths = sorted({row.number("length") for row in rows})[-_MOST_PANELS:]
    columns, lines = min(len(lengths), 2), -(-len(lengths) // 2)
    figure = _figure(4.8 * columns if columns > 1 else 7.0, 3.6 * lines + 1.2)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for axis in axes[len(lengths) :]:
        axis.set_axis_off()
    for axis, length in zip(axes, lengths, strict=False):
        panel = [row for row in rows if row.number("length") == length]
        for label in dict.fromkeys(row.label for row in panel):
            mine = sorted((row for row in panel if row.label == label), key=lambda row: row.number("batch"))
            middle = [row.summary.p50_ms for row in mine]
            upper = [row.summary.p95_ms - row.summary.p50_ms for row in mine]
            lower = [row.summary.p50_ms - row.summary.least_ms for row in mine]
            batches = [row.number("batch") for row in mine]
            axis.errorbar(
                batches,
                middle,
                yerr=[lower, upper],
                label=label,
                capsize=2.5,
                linewidth=1.4,
                markersize=5.5,
                **styles[label],
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        batches = sorted({row.number("batch") for row in panel})
        axis.set_xticks(batches, [str(batch) for batch in batches])
        _plain_numbers(axis.yaxis)
        axis.set_xlabel("batch (items per run)")
        axis.set_title(f"text branch, {length} tokens" if length else "image branch", fontsize=10)
        axis.grid(True, which="both", linewidth=0.4, alpha=0.4)
    for axis in axes[::columns]:
        axis.set_ylabel("latency of a run, ms")
    _legend(figure, axes[0])
    title = f"Latency of the {branch} branch against batch: median; bars from the fastest sample to p95"
    return Plot(f"latency-{branch}", title, _png(figure))


def _throughput_plot(results: Results, styles: Mapping[str, Style]) -> Plot:
    panels = [(branch, rows) for branch in ("image", "text") if (rows := _drawn(results.of(branch)))]
    figure = _figure(5.6 * len(panels) if len(panels) > 1 else 7.0, 5.0)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    present = [
        p for p in PRECISIONS if any(row.configuration["precision"] == p for _, rows in panels for row in rows)
    ]
    for axis, (branch, rows) in zip(axes, panels, strict=True):
        length = max(row.number("length") for row in rows)
        rows = [row for row in rows if row.number("length") == length]
        top = max(row.summary.per_second for row in rows)
        for place, precision in enumerate(present):
            labels = dict.fromkeys(row.label for row in rows if row.configuration["precision"] == precision)
            best = [
                max((row for row in rows if row.label == label), key=lambda row: row.summary.per_second)
                for label in labels
            ]
            for shift, row in enumerate(best, start=1):
                # Beside each other, since backends of one precision may be equally fast.
                x, y = place - 0.4 + 0.8 * shift / (len(best) + 1), row.summary.per_second
                style = {**styles[row.label], "linestyle": "none"}
                axis.plot([x], [y], markersize=9, label=row.label, **style)
                note = f"{y:,.0f}" if y >= 100 else f"{y:.3g}"
                # Neighbours' figures do not touch, nor the axis.
                above = 9 if shift % 2 or y < 0.1 * top else -15
                axis.annotate(note, (x, y), (0, above), textcoords="offset points", ha="center", fontsize=7.5)
        axis.set_xticks(range(len(present)), present)
        axis.set_xlim(-0.6, len(present) - 0.4)
        axis.set_ylim(0, 1.15 * top)
        axis.set_xlabel("precision")
        axis.set_title(f"{branch} branch" + (f", {length} tokens" if length else ""), fontsize=10)
        axis.grid(True, axis="y", linewidth=0.4, alpha=0.4)
    axes[0].set_ylabel("items per second at the best batch")
    _legend(figure, axes[0])
    return Plot("throughput-precision", "Throughput against precision, each backend at its best batch", _png(figure))


def _accuracy_plot(results: Results, accuracy: Sequence[AccuracyPoint], styles: Mapping[str, Style]) -> Plot:
    """Rank-1 against the latency of a sentence's whole way, or of one picture where that was not timed."""
    what = "sentence to top 10" if results.of("sentence to top 10") else "image"
    rows = _drawn([row for row in results.of(what) if row.number("batch") in (0, 1)])
    figure = _figure(7.0, 5.0)
    axis = figure.subplots()
    found = 0
    for row in rows:
        for point in accuracy:
            values = row.configuration
            if (point.backend, point.device.split(":")[0], point.precision) == (
                _backend_name(str(values["backend"])),
                str(values["device"]).split(":")[0],
                values["precision"],
            ):
                style = {**styles[row.label], "linestyle": "none"}
                axis.plot([row.summary.p50_ms], [point.rank1], markersize=9, label=row.label, **style)
                found += 1
    if not found:
        raise BenchmarkError(
            "The accuracy is of other backends than those that were timed: "
            f"{', '.join(f'{p.backend} {p.device} {p.precision}' for p in accuracy) or 'none'}.",
            "Measure the accuracy of the same ones, or leave out --accuracy.",
        )
    axis.set_xlabel("sentence to top 10, median ms" if what != "image" else "image branch, one picture, median ms")
    axis.set_ylabel("Rank-1, %")
    axis.set_xlim(left=0)
    axis.margins(0.15)
    axis.set_ylim(top=min(axis.get_ylim()[1], 100.5))
    axis.ticklabel_format(useOffset=False)
    axis.grid(True, linewidth=0.4, alpha=0.4)
    _legend(figure, axis)
    return Plot("accuracy-latency", "Accuracy against latency", _png(figure))


def _backend_name(way: str) -> str:
    """PyTorch compiled has the accuracy of PyTorch."""
    return "torch" if way == "torch-compile" else way


def _plain_numbers(axis: Any) -> None:
    """20 and not 2·10¹ on a logarithmic axis, at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    form: Callable[[float, int], str] = lambda value, _place: f"{value:g}"  # noqa: E731
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(form))
    axis.set_minor_formatter(NullFormatter())


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    columns = min(len(labels), max(int(figure.get_figwidth() / 3), 1))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False, markerscale=0.8
    )


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()
