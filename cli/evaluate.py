"""`tbps eval`: Rank-k, mAP and mINP of a bundle or a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.options import EXISTING, batch_size_option, run_options, verbosity_options
from tbps_infer.cli.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.evaluation.evaluate import EvaluationReport
    from tbps_infer.runners.options import RunOptions

__all__ = ["evaluate"]


@click.command("eval")
@click.argument("model", type=EXISTING)
@click.argument("dataset", type=EXISTING)
@click.option("--split", default="test", help="Which split.")
@click.option("--kind", help="The annotation format, when its file has another name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, tie bounds included.")
@batch_size_option(32)
@run_options
@verbosity_options
def evaluate(
    model: Path, dataset: Path, split: str, kind: str | None, as_json: bool, batch_size: int, run: RunOptions
) -> None:
    """Measure MODEL (a bundle; a checkpoint with --backend torch) on DATASET by the field's protocol.

    Every caption is a query, every picture in the gallery, the caption's own included. Ties count as lost.

    \b
    tbps eval bundle CUHK-PEDES
    """
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.encoder import Encoder
    from tbps_infer.evaluation.evaluate import evaluate as run_evaluation

    people = read_dataset(dataset, split, kind=kind)
    with Encoder.open(model, run, batch_size=batch_size) as encoder:
        say(f"Embedding {len(people.captions)} captions and {len(people.pictures)} pictures ...")
        with progress_bar("Embedding", "items") as progress:
            report = run_evaluation(encoder.encode_texts, encoder.encode_images, people, on_progress=progress)
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else _table(report))


def _table(report: EvaluationReport) -> str:
    """One row per direction; a metric whose tie bounds differ shows both."""
    head = (
        f"{report.dataset} {report.split}: {report.identities} identities, "
        f"{report.text_to_image.gallery} pictures, {report.image_to_text.gallery} captions"
    )
    names = list(report.text_to_image.headline())
    lines = [head, " " * 15 + "".join(name.rjust(max(len(name), 6) + 2) for name in names)]
    for label, metrics in (("text to image", report.text_to_image), ("image to text", report.image_to_text)):
        lost, won = metrics.pessimistic.named(), metrics.optimistic.named()
        cells = "".join(f"{lost[name]:.2f}".rjust(max(len(name), 6) + 2) for name in names)
        lines.append(f"{label:15s}{cells}")
        spread = max(won[name] - lost[name] for name in names)
        if spread > 0:
            lines.append(f"{'':15s}  ties: up to {spread:.2f} points better were they all won")
        if metrics.unmatched:
            lines.append(f"{'':15s}  {metrics.unmatched} queries have no match and do not count")
    return "\n".join(lines)
