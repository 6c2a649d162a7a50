"""Writes docs/performance.md from raw samples: what was measured, on what, how, and how far from the machine's limit.

::

    python -m tbps_infer.benchmarks.studies.performance latency.jsonl peers.jsonl -o docs/performance.md

Nothing is measured here, and no number is written by hand: the page is a function of its files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tbps_infer.atomic import write_text
from tbps_infer.benchmarks.document import TextTable, markdown_text
from tbps_infer.benchmarks.latency_report import latency_document
from tbps_infer.benchmarks.results import Results, Row, collect_results
from tbps_infer.benchmarks.samples import read_samples
from tbps_infer.errors import TbpsError

__all__ = ["Limits", "limit_table", "main", "performance_page", "way_table"]

_INTRODUCTION = """# Performance

Written by `python -m tbps_infer.benchmarks.studies.performance` from the raw samples named below. Every number was
measured on the machine described beside it.

Each arm is warmed up until the medians of consecutive windows agree (`~` marks arms whose warm-up was cut off
before). The arms then run in rounds, in a new random order each round. Times are medians and percentiles with linear
interpolation. "× baseline" is the median of the ratios within rounds, which a drifting machine does not change, with
its 95 % bootstrap interval. Before any timing, each arm's embeddings are compared with the reference's.
"""

_LIMIT_TEXT = """Operations are counted from the shapes of the FP32 graph: matrix products, convolutions and
attention. The compute limit is the fastest measured product of two large matrices in the same precision, or in FP32
where that was not measured (`*`; INT8 may exceed it). The bandwidth limit is the fastest measured copy, reads and
writes counted. A model at batch 1 has to read its weights once, a search its rows. The table compares medians with
these limits."""

_INT8_FLAGS = frozenset({"amx_int8", "asimddp", "i8mm"})
"""Beside VNNI's, the processors' names of instructions that multiply INT8 at several times FP32's rate."""

_WEIGHT_SIZE = {"fp32": 1.0, "fp16": 0.5}
"""Of the FP32 graph's; how much of an INT8 graph is INT8 its file does not say here."""


@dataclass(frozen=True)
class Limits:
    """The greatest rates of one device that were measured.

    Attributes:
        flops: Operations per second by precision.
        bytes: Per second, copied within its memory, reads and writes counted; 0 when it was not measured.
    """

    flops: dict[str, float]
    bytes: float

    @classmethod
    def of(cls, results: Results, device: str) -> Limits:
        """From the samples' own limit arms, their fastest samples: what was possible once is possible."""
        flops, moved = dict[str, float](), 0.0
        for row in results.of("limit"):
            if row.configuration["device"] == device:
                rate = float(row.number("work")) / (row.summary.least_ms / 1e3)
                if row.configuration["kind"] == "matmul":
                    flops[str(row.configuration["precision"])] = rate
                elif row.configuration["kind"] == "copy":
                    moved = rate
        return cls(flops, moved)


def performance_page(files: Sequence[tuple[str, Results]]) -> str:
    """The page's text.

    Args:
        files: Names of files of raw samples, as Markdown, and what they hold.
    """
    lines = [_INTRODUCTION]
    for name, results in files:
        document = latency_document(results)
        added = filter(None, (way_table(results), limit_table(results)))
        document = replace(document, tables=(*document.tables, *added), note="")
        lines += [f"## {_title(results)}", "", f"Raw samples: {name}.", "", markdown_text(document)]
    return "\n".join(lines).rstrip("\n") + "\n"


def limit_table(results: Results) -> TextTable | None:
    """How close each model arm comes to the machine; None when operations or limits are not known."""
    cells = [*_product_rows(results), *_search_rows(results)]
    if not cells:
        return None
    head = ("what", "p50 ms", "GFLOP/s", "of a matmul", "GB/s read", "of a copy")
    return TextTable("How far from the machine's limit", head, tuple(cells), text=_LIMIT_TEXT)


def way_table(results: Results) -> TextTable | None:
    """Where a sentence's time goes, stage by stage, as far as the stages were timed apart."""
    stages = {row.what: row.summary.p50_ms for row in results.rows if row.what in ("tokenise", "search")}
    wholes = results.of("sentence to top 10")
    if len(stages) < 2 or not wholes:
        return None
    cells = []
    for row in wholes:
        model = _nearest_text(results, row)
        if model is not None:
            parts = (stages["tokenise"], model.summary.p50_ms, stages["search"])
            cells.append((row.label, *(f"{ms:.2f}" for ms in (*parts, sum(parts), row.summary.p50_ms))))
    head = ("backend", "tokenise ms", "text branch ms", "search ms", "sum ms", "measured whole ms")
    tokens = wholes[0].number("tokens")
    return TextTable(f"Where the time of a sentence ({tokens} tokens) goes", head, tuple(cells)) if cells else None


def _nearest_text(results: Results, whole: Row) -> Row | None:
    """The text branch at batch 1, at the shortest length that holds the sentence."""
    fitting = [
        row
        for row in results.of("text")
        if row.label == whole.label and row.number("batch") == 1 and row.number("length") >= whole.number("tokens")
    ]
    return min(fitting, key=lambda row: row.number("length"), default=None)


def _product_rows(results: Results) -> Iterator[tuple[str, ...]]:
    costs = results.note("costs")
    limits: dict[str, Limits] = {}
    for row in (*results.of("image"), *results.of("text")):
        cost = costs.get("image" if row.what == "image" else f"text {row.number('length')}")
        device, precision = str(row.configuration["device"]), str(row.configuration["precision"])
        limit = limits.setdefault(device, Limits.of(results, device))
        most = limit.flops.get(precision, limit.flops.get("fp32"))
        if cost is None or most is None:
            continue
        seconds = row.summary.p50_ms / 1e3
        rate = cost["flops"] * row.summary.items / seconds
        mark = "" if precision in limit.flops else "*"
        read = ("", "")
        if row.number("batch") == 1 and precision in _WEIGHT_SIZE and limit.bytes:
            moved = cost["weight_bytes"] * _WEIGHT_SIZE[precision] / seconds
            read = (f"{moved / 1e9:.1f}", f"{100 * moved / limit.bytes:.0f} %")
        name = row.arm.replace(" length ", ", length ").replace(" batch ", ", batch ")
        yield (name, f"{row.summary.p50_ms:.2f}", f"{rate / 1e9:.1f}", f"{100 * rate / most:.0f} %{mark}", *read)


def _search_rows(results: Results) -> Iterator[tuple[str, ...]]:
    limit = Limits.of(results, "cpu")
    for row in results.of("search"):
        if limit.bytes and row.number("row_bytes"):
            moved = row.number("rows") * row.number("row_bytes") / (row.summary.p50_ms / 1e3)
            name = f"search, {row.number('rows')} rows of {row.number('row_bytes')} bytes"
            cells = ("", "", f"{moved / 1e9:.1f}", f"{100 * moved / limit.bytes:.0f} %")
            yield (name, f"{row.summary.p50_ms:.2f}", *cells)


def _title(results: Results) -> str:
    stable = results.samples.environment.stable
    machine = stable.get("board") or stable.get("cpu") or "an unknown machine"
    gpus = ", ".join(str(gpu["name"]) for gpu in stable.get("gpus", ()))
    kind = "Peers" if any("peer" in row.configuration for row in results.rows) else "Latency"
    cores = f"{stable.get('usable_cores')} cores"
    if flags := stable.get("cpu_flags"):
        integers = any("vnni" in flag or flag in _INT8_FLAGS for flag in flags)
        cores += f" {'with' if integers else 'without'} INT8 instructions"
    title = f"{kind} on {machine}, {cores}" + (f", and {gpus}" if gpus else "")
    model = results.samples.notes.get("model")
    return f"{title}: {model}" if isinstance(model, str) else title


def _link(raw: Path, page: Path) -> str:
    """A file of raw samples, linked where it lies below the page's folder."""
    folder = page.resolve().parent
    if not raw.resolve().is_relative_to(folder):
        return f"`{raw.name}`"
    place = raw.resolve().relative_to(folder).as_posix()
    return f"[{place}]({place})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the files and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tbps_infer.benchmarks.studies.performance", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("raw", nargs="+", type=Path, help="files of raw samples")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page")
    given = parser.parse_args(arguments)
    try:
        files = [(_link(path, given.output), collect_results(read_samples(path))) for path in given.raw]
    except TbpsError as error:
        print(f"Error: {error.message} {error.hint}", file=sys.stderr)
        return 1
    write_text(given.output, performance_page(files), parents=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
