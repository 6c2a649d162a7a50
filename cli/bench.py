"""`tbps bench`: how fast and how accurate a bundle is on this machine."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.build import Lengths
from tbps_infer.cli.shared.bench_options import FILE, Asked, asked_options, table_options
from tbps_infer.cli.shared.options import EXISTING, verbosity_options
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.benchmarks.results import Results

__all__ = ["bench"]

_WAYS = ("torch", "torch-compile", "onnxruntime", "tensorrt", "tensorrt-rtx")
_ELSEWHERE = {"accuracy": "tbps_infer.cli.bench_accuracy"}
"""Commands of their own modules, imported when they are asked for."""


class BenchGroup(click.Group):
    """A group some of whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted({*super().list_commands(ctx), *(n for n, module in _ELSEWHERE.items() if find_spec(module))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of that name."""
        module = _ELSEWHERE.get(cmd_name)
        if module is not None and find_spec(module):
            command: click.Command = getattr(import_module(module), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=BenchGroup)
def bench() -> None:
    """Measure a bundle on this machine.

    \b
    tbps bench latency bundle --reference checkpoint --html latency.html
    """


@bench.command()
@click.argument("bundle", type=EXISTING)
@click.option(
    "--reference", type=EXISTING, help="The checkpoint it was exported from: adds PyTorch, eager and compiled."
)
@click.option("--raw", type=FILE, default=Path("latency.jsonl"), help="Raw samples; a run continues from its file.")
@asked_options(_WAYS)
@click.option(
    "--batches", type=Lengths(), default=(1, 2, 4, 8, 16, 32), show_default="1,2,4,8,16,32", help="Items per run."
)
@click.option(
    "--text-lengths", type=Lengths(), default=(), help="Tokens per caption.  [default: 16,32,64… to the greatest]"
)
@click.option("--samples", type=click.IntRange(2), default=30, help="Of each arm at most.")
@click.option("--least-samples", type=click.IntRange(2), default=5, help="Of each arm, however slow.")
@click.option(
    "--arm-seconds", type=click.FloatRange(0), default=5.0, help="Enough of a slow arm, after its least samples."
)
@click.option("--warm-up-seconds", type=click.FloatRange(0), default=10.0, help="Give up waiting for stable times.")
@click.option("--seed", type=int, default=0, help="Of the order within rounds.")
@click.option("--gallery", type=EXISTING, help="Searched end to end.  [default: one of random unit vectors]")
@click.option("--rows", type=click.IntRange(1), default=10_000, help="Of the gallery that is made.")
@click.option("--captions", type=click.IntRange(1), default=64, help="In the mix of captions of their own lengths.")
@click.option("--stages/--no-stages", default=True, help="Decode, resize, tokenise, search, and end to end.")
@click.option("--memory/--no-memory", default=True, help="Peak memory, in processes of their own.")
@click.option("--accuracy", type=FILE, help="What tbps bench accuracy --json wrote, for the plot.")
@table_options(everything="the summary", row="arm")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Write PNG plots into this folder.")
@click.option("--html", "html_file", type=FILE, help="Write one self-contained page with tables and plots.")
@verbosity_options
def latency(
    bundle: Path,
    reference: Path | None,
    raw: Path,
    asked: Asked,
    batches: tuple[int, ...],
    text_lengths: tuple[int, ...],
    samples: int,
    least_samples: int,
    arm_seconds: float,
    warm_up_seconds: float,
    seed: int,
    gallery: Path | None,
    rows: int,
    captions: int,
    stages: bool,
    memory: bool,
    accuracy: Path | None,
    json_file: Path | None,
    csv_file: Path | None,
    markdown_file: Path | None,
    plots: Path | None,
    html_file: Path | None,
) -> None:
    """Time BUNDLE on every backend, precision, batch and text length that this machine has.

    Rounds run every arm once in shuffled order; raw samples are kept, and a run that was interrupted continues from
    them. What cannot be had here is listed with the reason.

    \b
    tbps bench latency bundle --reference checkpoint --html latency.html
    """
    from tbps_infer.benchmarks.document import markdown_text
    from tbps_infer.benchmarks.latency import LatencyOptions, run_latency
    from tbps_infer.benchmarks.latency_report import latency_csv, latency_document
    from tbps_infer.benchmarks.measure import Plan, SystemClock, WarmUpRule
    from tbps_infer.benchmarks.plots import require_matplotlib
    from tbps_infer.benchmarks.results import collect_results
    from tbps_infer.cli.shared.bench_output import write_report

    if plots is not None or html_file is not None:
        require_matplotlib()  # said before the measuring, not after it
    rule = WarmUpRule(most_seconds=warm_up_seconds)
    plan = Plan(samples, min(least_samples, samples), arm_seconds, seed, warm_up=rule)
    options = LatencyOptions(
        devices=asked.devices,
        ways=asked.backends,
        precisions=asked.precisions,
        batches=tuple(sorted(set(batches))),
        lengths=text_lengths,
        threads=asked.threads,
        gallery=gallery,
        rows=rows,
        captions=captions,
        stages=stages,
        memory=memory,
        plan=plan,
    )
    command = ["tbps", *sys.argv[1:]]
    with progress_bar("Sampling", "samples") as progress:
        held = run_latency(bundle, reference, raw, options, command, SystemClock(), say, progress)
    results = collect_results(held)
    document = latency_document(results)
    texts = {csv_file: lambda: latency_csv(results), markdown_file: lambda: markdown_text(document)}
    write_report(document, results.to_json(), json_file, texts)
    if plots is not None or html_file is not None:
        _draw(results, plots, html_file, accuracy)


def _draw(results: Results, folder: Path | None, page: Path | None, accuracy: Path | None) -> None:
    from tbps_infer.benchmarks.latency_report import latency_page
    from tbps_infer.benchmarks.plots import draw_plots, read_accuracy
    from tbps_infer.cli.shared.bench_output import write_file

    plots = draw_plots(results, None if accuracy is None else read_accuracy(accuracy))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in plots:
            (folder / f"{plot.name}.png").write_bytes(plot.png)
        say(f"{folder}: {', '.join(f'{plot.name}.png' for plot in plots)}")
    if page is not None:
        write_file(page, latency_page(results, plots))
