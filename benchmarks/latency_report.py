"""A latency run's report: a document of tables, a CSV with everything, and a page with plots."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tbps_infer.benchmarks.document import Document, TextTable, csv_text, lines_by_reason, page_text
from tbps_infer.benchmarks.plots import Plot
from tbps_infer.benchmarks.results import MODEL_WORK, Results, Row
from tbps_infer.model_facts import BRANCHES

__all__ = ["latency_csv", "latency_document", "latency_page"]

_TITLES: Mapping[str, str] = {
    "image": "Image branch",
    "text": "Text branch, captions of equal length",
    "sentence to top 10": "A sentence to its top 10: tokenise, text branch, search",
    "caption mix": "Captions of mixed lengths, in length buckets",
    "stages": "Stages around the model, one item each",
    "limit": "The machine's limits",
    "memory": "Peak memory, each arm in its own process",
    "energy": "Energy",
}

_MIB = 1 << 20


_NOTE = (
    "Percentiles are interpolated linearly between samples; high ones lie close to the slowest "
    "sample where there are few. Ratios are medians over the rounds in which both arms ran, with bootstrap intervals."
)


def latency_document(results: Results) -> Document:
    """Everything a reader needs; empty tables are left out."""
    missing = lines_by_reason((label, str(reason)) for label, reason in results.note("absent").items())
    missing += map(str, results.note("limits not measured").values())
    facts = (*results.samples.environment.describe(), *_run_facts(results))
    return Document("Latency on this machine", facts, tuple(_tables(results)), "Not measured", missing, _NOTE)


def latency_page(results: Results, plots: Sequence[Plot]) -> str:
    """The document as one HTML page, plots before the tables."""
    return page_text(latency_document(results), "tbps bench latency", figures=map(_figure, plots))


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    return (
        f'<figure><img alt="{escape(plot.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(plot.title)}</figcaption></figure>"
    )


def _tables(results: Results) -> Iterator[TextTable]:
    for what in MODEL_WORK:
        rows = results.of(what)
        if rows:
            yield _model_table(what, rows)
    for what in dict.fromkeys(row.what for row in results.rows if "peer" in row.configuration):
        yield _peer_table(what, results.of(what))
    stages = [
        row for row in results.rows if row.what not in (*MODEL_WORK, "limit") and "peer" not in row.configuration
    ]
    if stages:
        head = ("stage", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "items/s", "samples")
        cells = ((row.what, *_times(row), _number(row.summary.per_second), str(row.summary.count)) for row in stages)
        yield TextTable(_TITLES["stages"], head, tuple(cells))
    limits = results.of("limit")
    if limits:
        yield TextTable(
            _TITLES["limit"], ("what", "by", "fastest ms", "rate"), tuple(map(_limit_cells, limits)), left=2
        )
    yield from _memory_table(results)
    yield from _energy_table(results)


def latency_csv(results: Results) -> str:
    """A row per arm, every configuration's value and every number in a column of its own."""
    keys = list(dict.fromkeys(key for row in results.rows for key in row.configuration))
    numbers = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "least_ms", "per_second")
    parts = list(dict.fromkeys(name for row in results.rows for name in row.summary.parts_ms))
    spread = ("p25_ms", "p75_ms", "baseline", "times_as_fast", "times_as_fast_low", "times_as_fast_high", "warm")

    def cells(row: Row) -> Iterator[object]:
        summary, ratio = row.summary, row.ratio
        yield row.arm
        yield from (_plain(row.configuration.get(key)) for key in keys)
        yield from (summary.count, summary.items)
        yield from (f"{getattr(summary, name):.6g}" for name in numbers)
        yield from (f"{summary.parts_ms[name]:.6g}" if name in summary.parts_ms else "" for name in parts)
        yield from (f"{value:.6g}" for value in summary.quartiles_ms)
        yield row.baseline
        yield from ("", "", "") if ratio is None else (f"{v:.4g}" for v in (ratio.median, *ratio.interval))
        yield "" if row.warm_up is None else str(row.warm_up.stable).lower()

    head = ("arm", *keys, "samples", "items", *numbers, *parts, *spread)
    return csv_text([head, *(tuple(cells(row)) for row in results.rows)])


def _run_facts(results: Results) -> Iterator[str]:
    held = results.samples
    loads = [run["conditions"]["load"][0] for run in held.runs if run["conditions"].get("load")]
    if loads:
        yield f"Load when started: {', '.join(f'{load:g}' for load in loads)}"
    yield from (f"Command: `{run['command']}`" for run in held.runs[-1:])
    unstable = [arm for arm, warm in held.warm_ups.items() if not warm.stable]
    if unstable:
        yield (
            f"{len(unstable)} of {len(held.warm_ups)} arms were still changing by more than the tolerance when their "
            "warm-up was cut off (marked ~)"
        )


def _model_table(what: str, rows: Sequence[Row]) -> TextTable:
    stages = any(row.summary.parts_ms for row in rows)
    sizes = [name for name in ("length", "batch") if what in BRANCHES and any(row.number(name) for row in rows)]
    head = ["backend", "device", "precision", *(["CUDA graphs"] if _has_graphs(rows) else []), *sizes]
    left = len(head) - len(sizes)
    head += ["p50 ms", "p90 ms", "p95 ms", "p99 ms"]
    head += ["host→device", "compute", "device→host"] if stages else []
    head += ["items/s", f"× {_baseline(rows)}", "95 % interval", "samples"]
    return TextTable(
        _TITLES[what], tuple(head), tuple(_model_cells(row, sizes, stages, _has_graphs(rows)) for row in rows), left
    )


def _model_cells(row: Row, sizes: Sequence[str], stages: bool, graphs: bool) -> tuple[str, ...]:
    values, summary = row.configuration, row.summary
    cells = [str(values["backend"]), str(values["device"]), str(values["precision"])]
    if graphs:
        cells.append({None: "", True: "on", False: "off"}[values.get("cuda_graphs")])  # type: ignore[index]
    cells += [str(row.number(name)) for name in sizes]
    cells += _times(row)
    if stages:
        names = ("host_to_device_ms", "compute_ms", "device_to_host_ms")
        cells += [_number(summary.parts_ms[name]) if name in summary.parts_ms else "" for name in names]
    cells.append(_number(summary.per_second))
    cells += _ratio_cells(row)
    return (*cells, str(summary.count))


def _times(row: Row) -> list[str]:
    summary = row.summary
    mark = "~" if row.warm_up is not None and not row.warm_up.stable else ""
    return [mark + _number(summary.p50_ms), *map(_number, (summary.p90_ms, summary.p95_ms, summary.p99_ms))]


def _peer_table(what: str, rows: Sequence[Row]) -> TextTable:
    head = ("", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "items/s", f"× {_baseline(rows)}", "95 % interval", "samples")
    return TextTable(what, head, tuple(_peer_cells(row) for row in rows))


def _peer_cells(row: Row) -> tuple[str, ...]:
    return (row.label, *_times(row), _number(row.summary.per_second), *_ratio_cells(row), str(row.summary.count))


def _ratio_cells(row: Row) -> tuple[str, str]:
    if row.ratio is None:
        return ("1" if row.label == row.baseline else "", "")
    return (f"{row.ratio.median:.2f}", f"{row.ratio.interval[0]:.2f} to {row.ratio.interval[1]:.2f}")


def _has_graphs(rows: Sequence[Row]) -> bool:
    return any(row.configuration.get("cuda_graphs") is not None for row in rows)


def _baseline(rows: Sequence[Row]) -> str:
    """The baseline's name, without its device where rows have several."""
    labels = dict.fromkeys(row.baseline for row in rows if row.baseline)
    if len(labels) == 1:
        return next(iter(labels))
    return " / ".join(dict.fromkeys(label.split()[0] for label in labels)) or "baseline"


def _limit_cells(row: Row) -> tuple[str, ...]:
    values, seconds = row.configuration, row.summary.least_ms / 1e3
    rate = float(row.number("work")) / seconds / 1e9
    unit = "GFLOP/s" if values["unit"] == "flop" else "GB/s"
    precision = f" {values['precision']}" if values["precision"] else ""
    threads = f", {values['threads']} threads" if values["threads"] else ""
    by = f"{values['library']}{threads}"
    return (
        f"{values['kind']}{precision}, {values['device']}",
        by,
        _number(row.summary.least_ms),
        f"{rate:.1f} {unit}",
    )


def _memory_table(results: Results) -> Iterator[TextTable]:
    notes = results.note("memory")
    if notes:
        cells = []
        for name, peak in notes.items():
            size = f"{peak['batch']}" + (f" × {peak['length']} tokens" if peak["length"] else "")
            device = "" if peak["device_bytes"] is None else f"{peak['device_bytes'] / _MIB:.0f}"
            cells.append((name, size, f"{peak['host_bytes'] / _MIB:.0f}", f"{peak['idle_bytes'] / _MIB:.0f}", device))
        head = ("what", "batch", "host peak MiB", "before opening MiB", "device MiB")
        yield TextTable(_TITLES["memory"], head, tuple(cells))


def _energy_table(results: Results) -> Iterator[TextTable]:
    notes = results.note("energy")
    if notes:
        head = ("arm", "J/item", "mean W", "rails")
        rows = (
            (n, f"{e['joules_per_item']:.4g}", f"{e['watts']:.2f}", " + ".join(e["rails"])) for n, e in notes.items()
        )
        yield TextTable(_TITLES["energy"], head, tuple(rows))


def _number(value: float) -> str:
    """Three or four digits that count."""
    if value >= 1000:
        return f"{value:.0f}"
    if value >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _plain(value: object) -> object:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value
