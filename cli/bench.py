"""`tbps bench`: how fast and how accurate a bundle is on this machine."""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.atomic import write_bytes
from tbps_infer.cli.bench_accuracy import accuracy
from tbps_infer.cli.shared.bench_options import FILE, Selection, report_options, selection_options
from tbps_infer.cli.shared.bench_output import Report, ReportFiles, write_report
from tbps_infer.cli.shared.options import EXISTING, reference_option, seed_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import Finite, Numbers
from tbps_infer.cli.shared.progress import progress_bar, say
from tbps_infer.errors import UsageError
from tbps_infer.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from tbps_infer.benchmarks.plots import Plot

__all__ = ["bench"]

_BACKENDS = ("torch", "torch-compile", "onnxruntime", *FLAVOURS)


@click.group()
def bench() -> None:
    """Measure the speed and accuracy of a bundle on this machine.

    \b
    tbps bench latency bundle --reference checkpoint --html latency.html
    tbps bench accuracy bundle --data CUHK-PEDES --html accuracy.html
    """


bench.add_command(accuracy)


@bench.command()
@click.argument("bundle", type=EXISTING)
@reference_option
@click.option("--raw", type=FILE, default=Path("latency.jsonl"), help="File of raw samples; a run continues from it.")
@selection_options(_BACKENDS)
@click.option("--batches", type=Numbers(), default="1,2,4,8,16,32", help="Batch sizes.")
@click.option("--text-lengths", type=Numbers(), default=(), show_default="16,32,64…", help="Tokens per caption.")
@click.option("--samples", type=click.IntRange(2), default=30, help="Maximum samples per configuration.")
@click.option("--least-samples", type=click.IntRange(2), default=5, help="Minimum samples per configuration.")
@click.option(
    "--arm-seconds",
    type=Finite(0),
    default=5.0,
    help="Time limit per configuration, after --least-samples.",
)
@click.option("--warm-up-seconds", type=Finite(0), default=10.0, help="Maximum warm-up time per configuration.")
@seed_option()
@click.option("--gallery", type=EXISTING, help="Gallery to search.", show_default="random unit vectors")
@click.option("--rows", type=click.IntRange(1), default=10_000, help="Size of the random gallery.")
@click.option("--captions", type=click.IntRange(1), default=64, help="Captions in the mix of caption lengths.")
@click.option("--stages/--no-stages", default=True, help="Also time the stages around the model.")
@click.option("--peak-memory/--no-peak-memory", default=True, help="Also measure peak memory, in separate processes.")
@click.option("--accuracy", "accuracy_file", type=FILE, help="JSON file of tbps bench accuracy, for the plots.")
@report_options
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Write the plots as PNG files.")
@verbosity_options
def latency(
    bundle: Path,
    reference: Path | None,
    raw: Path,
    selection: Selection,
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
    peak_memory: bool,
    accuracy_file: Path | None,
    files: ReportFiles,
    plots: Path | None,
) -> None:
    """Time BUNDLE in every configuration that this machine can run.

    A configuration is a backend, device, precision, batch size and text length. Every round runs each configuration
    once, in random order. Raw samples are kept, and an interrupted run continues from them. Configurations that
    cannot run are listed with the reason. With --reference, PyTorch is measured too. Where the board has power
    sensors (INA3221, on a Jetson), the energy per picture and sentence is measured as well.

    \b
    tbps bench latency bundle --reference checkpoint --html latency.html
    """
    from tbps_infer.benchmarks.latency import LatencyOptions, run_latency
    from tbps_infer.benchmarks.latency_report import latency_csv, latency_document, latency_page
    from tbps_infer.benchmarks.measure import Plan, SystemClock, WarmUpRule
    from tbps_infer.benchmarks.plots import draw_plots, read_accuracy, require_matplotlib
    from tbps_infer.benchmarks.results import collect_results

    if plots is not None or files.html is not None:
        require_matplotlib()  # before the minutes that measuring takes
    rule = WarmUpRule(most_seconds=warm_up_seconds)
    options = LatencyOptions(
        devices=selection.devices,
        ways=selection.backends,
        precisions=selection.precisions,
        batches=tuple(sorted(set(batches))),
        lengths=text_lengths,
        threads=selection.threads,
        memory_kind=selection.memory,
        gallery=gallery,
        rows=rows,
        captions=captions,
        stages=stages,
        peak_memory=peak_memory,
        plan=Plan(samples, min(least_samples, samples), arm_seconds, seed, warm_up=rule),
    )
    command = ["tbps", *sys.argv[1:]]
    with progress_bar("Sampling", "samples") as progress:
        results = collect_results(run_latency(bundle, reference, raw, options, command, SystemClock(), say, progress))

    @cache
    def drawn() -> list[Plot]:
        return draw_plots(results, None if accuracy_file is None else read_accuracy(accuracy_file))

    written = Report(
        document=latency_document(results),
        json=results.to_json(),
        csv=partial(latency_csv, results),
        html=lambda: latency_page(results, drawn()),
    )
    write_report(written, files)
    if plots is not None:
        _write_plots(plots, drawn())


def _write_plots(folder: Path, plots: list[Plot]) -> None:
    for plot in plots:
        write_bytes(folder / f"{plot.name}.png", plot.png, UsageError, parents=True)
    say(f"{folder}: {', '.join(f'{plot.name}.png' for plot in plots)}")
