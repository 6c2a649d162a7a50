"""`tbps bench accuracy`: every engine of a bundle beside the checkpoint that it came from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.bench_options import FILE, Asked, asked_options, table_options
from tbps_infer.cli.shared.family_options import family_options
from tbps_infer.cli.shared.options import EXISTING, batch_size_option, verbosity_options
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.bundle import Bundle
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.verification.references import Reference

__all__ = ["accuracy"]

_BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
_STDOUT = Path("-")


@click.command()
@click.argument("bundle", type=EXISTING)
@click.option("--data", type=EXISTING, required=True, help="The data set.")
@click.option("--split", default="test", help="Which split of it.")
@click.option("--kind", help="The annotation format, when its file has another name.")
@click.option(
    "--reference", type=EXISTING, help="The checkpoint it was exported from.  [default: the bundle's FP32 graphs]"
)
@asked_options(_BACKENDS)
@table_options(everything="everything", row="engine")
@click.option("--html", "html_file", type=FILE, help="Write one self-contained page, the worst items pictured.")
@batch_size_option(32)
@family_options
@verbosity_options
def accuracy(
    bundle: Path,
    data: Path,
    split: str,
    kind: str | None,
    reference: Path | None,
    asked: Asked,
    json_file: Path | None,
    csv_file: Path | None,
    markdown_file: Path | None,
    html_file: Path | None,
    batch_size: int,
    load: LoadOptions,
) -> None:
    """Measure how much accuracy each engine of BUNDLE costs, on the captions and pictures of a data set.

    Metrics, their differences from the reference with intervals, cosines by branch and part, and rankings. What
    cannot be had on this machine is listed with the reason.

    \b
    tbps bench accuracy bundle --data CUHK-PEDES --reference checkpoint --html accuracy.html
    """
    from tbps_infer.benchmarks.accuracy import list_engines, measure_accuracy
    from tbps_infer.benchmarks.accuracy_report import accuracy_csv, accuracy_document, accuracy_page
    from tbps_infer.benchmarks.document import markdown_text
    from tbps_infer.bundle import Bundle
    from tbps_infer.cli.shared.bench_output import write_report
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.verification.evaluation_set import labelled_set

    opened = Bundle.open(bundle)
    people = read_dataset(data, split, kind=kind)
    against = _reference(opened, reference, load, asked.threads)
    runs = list(list_engines(asked.backends, asked.devices, asked.precisions, asked.threads))
    command = " ".join(["tbps", *sys.argv[1:]])
    with progress_bar("Embedding", "items") as progress:
        results = measure_accuracy(
            opened,
            against,
            runs,
            labelled_set(people),
            command,
            batch_size=batch_size,
            on_step=lambda step: say(f"{step} ..."),
            on_progress=progress,
        )
    document = accuracy_document(results)
    texts: dict[Path | None, Callable[[], str]] = {
        csv_file: lambda: accuracy_csv(results),
        markdown_file: lambda: markdown_text(document),
        html_file: lambda: accuracy_page(results, people.caption_picture),
    }
    write_report(document, results.to_json(), json_file, texts)


def _reference(bundle: Bundle, checkpoint: Path | None, load: LoadOptions, threads: int | None) -> Reference:
    from tbps_infer.verification.references import checkpoint_reference, graphs_reference

    if checkpoint is None:
        return graphs_reference(bundle, threads)
    from tbps_infer.families.table import load_source

    return checkpoint_reference(bundle, load_source(None, checkpoint, load), threads)
