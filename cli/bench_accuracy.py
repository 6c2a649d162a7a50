"""`tbps bench accuracy`: every engine of a bundle beside the checkpoint that it came from."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.verification.references import Reference

__all__ = ["accuracy"]


@click.command()
@click.argument("bundle", type=EXISTING)
@click.option("--data", type=EXISTING, metavar="DATASET", required=True, help="Data set to measure on.")
@dataset_options
@reference_option
@selection_options(("onnxruntime", *FLAVOURS))
@report_options
@batch_size_option
@family_options
@verbosity_options
def accuracy(
    bundle: Path,
    data: Path,
    split: str,
    kind: str | None,
    reference: Path | None,
    selection: Selection,
    files: ReportFiles,
    batch_size: int,
    load: LoadOptions,
) -> None:
    """Measure the accuracy of every engine of BUNDLE on a data set.

    Reports retrieval metrics, their differences from the reference with confidence intervals, cosines by branch and
    part, and ranking agreement. The reference is the checkpoint, or without --reference the bundle's FP32 graphs.
    Combinations that this machine cannot run are listed with the reason.

    \b
    tbps bench accuracy bundle --data CUHK-PEDES --reference checkpoint --html accuracy.html
    """
    from tbps_infer.benchmarks.accuracy import list_engines, measure_accuracy
    from tbps_infer.benchmarks.accuracy_report import accuracy_csv, accuracy_document, accuracy_page
    from tbps_infer.bundle import Bundle
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.verification.evaluation_set import labelled_set

    opened = Bundle.open(bundle)
    people = read_dataset(data, split, kind=kind)
    against = _reference(opened, reference, load, selection.threads)
    runs = list(
        list_engines(selection.backends, selection.devices, selection.precisions, selection.threads, selection.memory)
    )
    with progress_bar("Embedding", "items") as progress:
        results = measure_accuracy(
            opened,
            against,
            runs,
            labelled_set(people),
            " ".join(["tbps", *sys.argv[1:]]),
            batch_size=batch_size,
            on_step=lambda step: say(f"{step} ..."),
            on_progress=progress,
        )
    written = Report(
        document=accuracy_document(results),
        json=results.to_json(),
        csv=partial(accuracy_csv, results),
        html=partial(accuracy_page, results, people.caption_picture),
    )
    write_report(written, files)


def _reference(bundle: Bundle, checkpoint: Path | None, load: LoadOptions, threads: int | None) -> Reference:
    from tbps_infer.verification.references import checkpoint_reference, graphs_reference

    if checkpoint is None:
        load.refuse_all(bundle.path, "bundle")
        return graphs_reference(bundle, threads)
    from tbps_infer.families.table import load_source

    return checkpoint_reference(bundle, load_source(None, checkpoint, load), threads)
