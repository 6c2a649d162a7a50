"""Results as text: rows of strings for any table, CSV, Markdown, and sentences on what was measured on what."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tbps_infer.benchmarks.results import MODEL_WORK, Results, Row
from tbps_infer.model_facts import BRANCHES

__all__ = [
    "TITLES",
    "TextTable",
    "absent_lines",
    "csv_text",
    "environment_lines",
    "markdown_table",
    "markdown_text",
    "tables",
]

TITLES: Mapping[str, str] = {
    "image": "Image branch",
    "text": "Text branch, captions of one length",
    "sentence to top 10": "A sentence to its top 10: tokenise, text branch, search",
    "caption mix": "A mix of captions of their own lengths, through length buckets",
    "stages": "Stages around the model, one item each",
    "limit": "The machine's limits",
    "memory": "Peak memory, each in a process of its own",
    "energy": "Energy",
}

_MIB = 1 << 20


@dataclass(frozen=True)
class TextTable:
    """A table of strings.

    Attributes:
        title: What it is of.
        head: A name per column.
        rows: Cells.
        left: How many first columns are words and not numbers.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def tables(results: Results) -> Iterator[TextTable]:
    """The tables of a report, empty ones left out."""
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
        yield TextTable(TITLES["stages"], head, tuple(cells))
    limits = results.of("limit")
    if limits:
        yield TextTable(
            TITLES["limit"], ("what", "by", "fastest ms", "rate"), tuple(map(_limit_cells, limits)), left=2
        )
    yield from _memory_table(results)
    yield from _energy_table(results)


def csv_text(results: Results) -> str:
    """A row per arm, every configuration's value and every number in a column of its own."""
    keys = list(dict.fromkeys(key for row in results.rows for key in row.configuration))
    numbers = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "least_ms", "per_second")
    parts = list(dict.fromkeys(name for row in results.rows for name in row.summary.parts_ms))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    spread = ("p25_ms", "p75_ms", "baseline", "times_as_fast", "times_as_fast_low", "times_as_fast_high", "warm")
    writer.writerow(["arm", *keys, "samples", "items", *numbers, *parts, *spread])
    for row in results.rows:
        summary, ratio = row.summary, row.ratio
        writer.writerow(
            [
                row.arm,
                *(_plain(row.configuration.get(key)) for key in keys),
                summary.count,
                summary.items,
                *(f"{getattr(summary, name):.6g}" for name in numbers),
                *(f"{summary.parts_ms[name]:.6g}" if name in summary.parts_ms else "" for name in parts),
                *(f"{value:.6g}" for value in summary.quartiles_ms),
                row.baseline,
                *(["", "", ""] if ratio is None else [f"{v:.4g}" for v in (ratio.median, *ratio.interval)]),
                "" if row.warm_up is None else str(row.warm_up.stable).lower(),
            ]
        )
    return stream.getvalue()


def markdown_text(results: Results) -> str:
    """Where and how, then every table."""
    lines = [*(f"- {line}" for line in environment_lines(results)), ""]
    for table in tables(results):
        lines += [f"### {table.title}", "", *markdown_table(table), ""]
    absent = absent_lines(results)
    if absent:
        lines += ["### Not measured", "", *(f"- {line}" for line in absent), ""]
    return "\n".join(lines)


def markdown_table(table: TextTable) -> list[str]:
    """Lines of a Markdown table, numbers to the right."""
    rule = ["---" if place < table.left else "---:" for place in range(len(table.head))]
    return ["| " + " | ".join(cells) + " |" for cells in (table.head, rule, *table.rows)]


def environment_lines(results: Results) -> list[str]:
    """What was measured on what, by which command."""
    held = results.samples
    stable: Mapping[str, Any] = held.environment.stable
    quota = stable.get("quota_cores")
    cores = f"{stable.get('usable_cores')} usable cores"
    cores += f" (quota {quota:g})" if quota is not None else ""
    memory = f"{stable['memory_bytes'] / 2**30:.1f} GiB" if stable.get("memory_bytes") else "unknown memory"
    flags = " ".join(stable.get("cpu_flags") or ())
    lines = [
        f"CPU: {stable.get('cpu') or 'unknown'}, {cores}, {memory}" + (f", {flags}" if flags else ""),
        f"System: {stable.get('system')}, Python {stable.get('python')}",
        "Packages: " + ", ".join(f"{name} {version}" for name, version in stable.get("packages", {}).items()),
    ]
    if stable.get("board"):
        lines.append(f"Board: {stable['board']}, power mode {stable.get('power_mode') or 'unknown'}")
    governor, most = stable.get("governor"), stable.get("most_cpu_mhz")
    if governor or most:
        lines.append(f"CPU clock: governor {governor or 'unknown'}, at most {most or 'unknown'} MHz")
    for gpu in stable.get("gpus", ()):
        lines.append("GPU: " + ", ".join(f"{name} {value}" for name, value in gpu.items()))
    threads = stable.get("threads")
    if threads:
        lines.append("Threads: " + ", ".join(f"{name}={value}" for name, value in threads.items()))
    loads = [run["conditions"]["load"][0] for run in held.runs if run["conditions"].get("load")]
    if loads:
        lines.append(f"Load when started: {', '.join(f'{load:g}' for load in loads)}")
    lines += [f"Command: `{run['command']}`" for run in held.runs[-1:]]
    unstable = [arm for arm, warm in held.warm_ups.items() if not warm.stable]
    if unstable:
        lines.append(
            f"{len(unstable)} of {len(held.warm_ups)} arms were still changing by more than the tolerance when their "
            "warm-up was cut off (marked ~)"
        )
    return lines


def absent_lines(results: Results) -> list[str]:
    """What could not be had here, and why: one line per reason."""
    reasons: dict[str, list[str]] = {}
    for label, reason in results.note("absent").items():
        reasons.setdefault(str(reason), []).append(label)
    lines = [f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()]
    return lines + [str(reason) for reason in results.note("limits not measured").values()]


def _model_table(what: str, rows: Sequence[Row]) -> TextTable:
    stages = any(row.summary.parts_ms for row in rows)
    sizes = [name for name in ("length", "batch") if what in BRANCHES and any(row.number(name) for row in rows)]
    head = ["backend", "device", "precision", *(["CUDA graphs"] if _has_graphs(rows) else []), *sizes]
    left = len(head) - len(sizes)
    head += ["p50 ms", "p90 ms", "p95 ms", "p99 ms"]
    head += ["host→device", "compute", "device→host"] if stages else []
    head += ["items/s", f"× {_baseline(rows)}", "95 % interval", "samples"]
    return TextTable(
        TITLES[what], tuple(head), tuple(_model_cells(row, sizes, stages, _has_graphs(rows)) for row in rows), left
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
        yield TextTable(TITLES["memory"], head, tuple(cells))


def _energy_table(results: Results) -> Iterator[TextTable]:
    notes = results.note("energy")
    if notes:
        head = ("arm", "J/item", "mean W", "rails")
        rows = (
            (n, f"{e['joules_per_item']:.4g}", f"{e['watts']:.2f}", " + ".join(e["rails"])) for n, e in notes.items()
        )
        yield TextTable(TITLES["energy"], head, tuple(rows))


def _number(value: float) -> str:
    """Three or four digits that count."""
    if value >= 1000:
        return f"{value:.0f}"
    if value >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _plain(value: object) -> object:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value
