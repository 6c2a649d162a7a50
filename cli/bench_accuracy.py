"""`tbps bench accuracy`: every engine of a bundle beside the checkpoint that it came from, or two models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from tbps_infer.cli.shared.bench_options import Selection, report_options, selection_options
from tbps_infer.cli.shared.bench_output import Report, ReportFiles, write_report
from tbps_infer.cli.shared.family_options import family_options
from tbps_infer.cli.shared.options import (
    EXISTING,
    batch_size_option,
    dataset_options,
    reference_option,
    verbosity_options,
)
from tbps_infer.cli.shared.progress import progress_bar, say
from tbps_infer.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from tbps_infer.bundle import Bundle
    from tbps_infer.data.dataset import Split
    from tbps_infer.encoder import Encoder
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.runners import RunOptions
    from tbps_infer.verification.references import Reference

__all__ = ["accuracy"]

_DEFAULT = ParameterSource.DEFAULT


@click.command()
@click.argument("model", type=EXISTING, metavar="BUNDLE")
@click.argument("other", type=EXISTING, required=False, metavar="[MODEL]")
@click.option(
    "--data", type=EXISTING, metavar="DATASET", help="Data set to measure on.", show_default="the golden vectors"
)
@dataset_options
@reference_option
@selection_options(("onnxruntime", *FLAVOURS))
@report_options
@batch_size_option
@family_options
@verbosity_options
def accuracy(
    model: Path,
    other: Path | None,
    data: Path | None,
    split: str,
    kind: str | None,
    reference: Path | None,
    selection: Selection,
    files: ReportFiles,
    batch_size: int,
    load: LoadOptions,
) -> None:
    """Measure the accuracy of every engine of BUNDLE on a data set, or compare two models.

    Reports retrieval metrics, their differences from the reference with confidence intervals, cosines by branch and
    part, and ranking agreement. The reference is the checkpoint, or without --reference the bundle's FP32 graphs;
    without --data, the bundle's golden vectors. Combinations that this machine cannot run are listed with the reason.

    With two models (bundles, checkpoints or training runs), reports the metrics of both and a paired test of their
    differences, on the CPU in FP32 unless one --device and one --precision are given.

    \b
    tbps bench accuracy bundle --data CUHK-PEDES --reference checkpoint --html accuracy.html
    tbps bench accuracy runs/a runs/b --data CUHK-PEDES --latex table.tex
    """
    from tbps_infer.bundle import Bundle

    if other is not None:
        if data is None or reference is not None:
            raise click.UsageError("Two models are compared with each other: give --data DATASET and no --reference.")
        opener = _opener((model, other), _one_run(selection), batch_size, load)
        report = _comparison((model, other), _people(data, split, kind), opener)
    else:
        people = None if data is None else _people(data, split, kind)
        report = _engines(Bundle.open(model), people, partial(_reference, reference, load), selection, batch_size)
    write_report(report, files)


def _people(data: Path, split: str, kind: str | None) -> Split:
    from tbps_infer.data.readers import read_dataset

    return read_dataset(data, split, kind=kind)


def _opener(
    models: tuple[Path, Path], run: RunOptions, batch_size: int, load: LoadOptions
) -> Callable[[Path], Encoder]:
    """Opens a bundle in the backend chosen, and a checkpoint in PyTorch."""
    from tbps_infer.bundle import is_bundle
    from tbps_infer.encoder import Encoder

    if all(map(is_bundle, models)):
        load.refuse_all(models[0], "bundle")

    def opened(path: Path) -> Encoder:
        if is_bundle(path):
            return Encoder.open(path, run, batch_size=batch_size)
        return Encoder.open(path, replace(run, backend="torch", memory=None), batch_size=batch_size, load=load)

    return opened


def _comparison(models: tuple[Path, Path], people: Split, opener: Callable[[Path], Encoder]) -> Report:
    from tbps_infer.benchmarks.comparison import compare_models, comparison_csv, comparison_document
    from tbps_infer.benchmarks.document import page_text
    from tbps_infer.verification.evaluation_set import labelled_set

    with progress_bar("Embedding", "items") as progress:
        found = compare_models(
            models,
            labelled_set(people),
            opener,
            _command(),
            on_step=lambda step: say(f"{step} ..."),
            on_progress=progress,
        )
    document = comparison_document(found)
    html = partial(page_text, document, "tbps bench accuracy")
    return Report(document, found.to_json(), partial(comparison_csv, found), html)


def _one_run(selection: Selection) -> RunOptions:
    """How both of two models run: what was chosen, once at most."""
    from tbps_infer.runners import RunOptions

    context = click.get_current_context()
    chosen = {}
    for name, values in vars(selection).items():
        if name in ("backends", "devices", "precisions") and context.get_parameter_source(name) is not _DEFAULT:
            if len(values) > 1:
                raise click.UsageError(f"Two models run in the same way: give one --{name.removesuffix('s')}.")
            chosen[name.removesuffix("s")] = values[0]
    return RunOptions(threads=selection.threads, memory=selection.memory, **chosen)


def _engines(
    bundle: Bundle,
    people: Split | None,
    reference: Callable[[Bundle, bool, int | None], Reference],
    selection: Selection,
    batch_size: int,
) -> Report:
    from tbps_infer.benchmarks.accuracy import list_engines, measure_accuracy
    from tbps_infer.benchmarks.accuracy_report import accuracy_csv, accuracy_document, accuracy_page
    from tbps_infer.verification.evaluation_set import golden_set, labelled_set

    against = reference(bundle, people is None, selection.threads)
    runs = list(
        list_engines(selection.backends, selection.devices, selection.precisions, selection.threads, selection.memory)
    )
    with progress_bar("Embedding", "items") as progress:
        results = measure_accuracy(
            bundle,
            against,
            runs,
            golden_set(bundle) if people is None else labelled_set(people),
            _command(),
            batch_size=batch_size,
            on_step=lambda step: say(f"{step} ..."),
            on_progress=progress,
        )
    return Report(
        document=accuracy_document(results),
        json=results.to_json(),
        csv=partial(accuracy_csv, results),
        html=partial(accuracy_page, results, None if people is None else people.caption_picture),
    )


def _command() -> str:
    return " ".join(["tbps", *sys.argv[1:]])


def _reference(
    checkpoint: Path | None, load: LoadOptions, bundle: Bundle, is_golden: bool, threads: int | None
) -> Reference:
    from tbps_infer.verification.references import checkpoint_reference, golden_reference, graphs_reference

    if checkpoint is None:
        load.refuse_all(bundle.path, "bundle")
        return golden_reference(bundle) if is_golden else graphs_reference(bundle, threads)
    from tbps_infer.families.table import load_source

    return checkpoint_reference(bundle, load_source(None, checkpoint, load), threads)
