"""`tbps eval`: Rank-k, mAP and mINP of a bundle or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.family_options import family_options
from tbps_infer.cli.shared.options import EXISTING, dataset_options, encoder_options, json_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import NewFile
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.data.dataset import Split
    from tbps_infer.evaluation.cases import Case
    from tbps_infer.evaluation.evaluate import EvaluationReport
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.layout import VectorLayout
    from tbps_infer.runners.options import RunOptions

__all__ = ["evaluate"]

_PICTURES = 8
"""Pictures per caption on the sheet."""


@click.command("eval")
@click.argument("model", type=EXISTING)
@click.argument("dataset", type=EXISTING)
@dataset_options
@json_option
@click.option("--sheet", type=NewFile(), help="Also draw the best pictures of some captions as PNG or JPEG.")
@click.option("--cases", type=click.IntRange(1), default=8, help="Captions on the sheet, half of them failures.")
@encoder_options
@family_options
@verbosity_options
def evaluate(
    model: Path,
    dataset: Path,
    split: str,
    kind: str | None,
    as_json: bool,
    sheet: Path | None,
    cases: int,
    batch_size: int,
    run: RunOptions,
    load: LoadOptions,
) -> None:
    """Measure Rank-k, mAP and mINP of MODEL on DATASET.

    MODEL is a bundle, or a checkpoint with --backend torch. Every caption is a query and every picture is in the
    gallery, including the caption's own. Ties count as lost.

    \b
    tbps eval bundle CUHK-PEDES
    tbps eval bundle CUHK-PEDES --sheet cases.png
    """
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.encoder import Encoder
    from tbps_infer.evaluation.evaluate import embed_split, evaluate_embeddings
    from tbps_infer.render.sheet import picture_format

    if sheet is not None:
        picture_format(sheet)  # refused before the work
    people = read_dataset(dataset, split, kind=kind)
    if not people.labelled:
        say(f"{people.dataset} has no id for every picture: each picture without one counts as a person of its own.")
    with Encoder.open(model, run, batch_size=batch_size, load=load) as encoder:
        say(f"Embedding {len(people.captions)} captions and {len(people.pictures)} pictures ...")
        with progress_bar("Embedding", "items") as progress:
            texts, images = embed_split(encoder.encode_texts, encoder.encode_images, people, progress)
    report = evaluate_embeddings(texts, images, people)
    if sheet is not None:
        from tbps_infer.evaluation.cases import pick_cases

        pages = _draw(sheet, pick_cases(texts, images, people, cases, k=_PICTURES), people, encoder.facts.layout)
        say(f"Wrote {', '.join(map(str, pages))}")
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else _table(report))


def _draw(sheet: Path, cases: Sequence[Case], people: Split, layout: VectorLayout) -> list[Path]:
    """Draw cases onto pages, and return the pages."""
    from tbps_infer.render.sheet import STRIPS_PER_PAGE, page_path, write_sheet
    from tbps_infer.render.strip import Shown, Strip

    def strip_of(case: Case) -> Strip:
        hits = tuple(
            Shown(people.pictures[picture].path, rank, float(score), "right" if right else "wrong", {})
            for rank, (picture, score, right) in enumerate(
                zip(case.pictures, case.scores, case.right, strict=True), 1
            )
        )
        missed = Shown(
            people.pictures[case.best_right].path, case.best_right_rank, case.best_right_score, "right", {}
        )
        return Strip(people.captions[case.caption], hits, None if case.right.any() else missed)

    write_sheet(sheet, map(strip_of, cases), layout, _PICTURES)
    return [page_path(sheet, page + 1) for page in range(-(-len(cases) // STRIPS_PER_PAGE))]


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
            lines.append(f"{'':15s}  ties: up to {spread:.2f} points higher if all are won")
        if metrics.unmatched:
            lines.append(f"{'':15s}  {metrics.unmatched} queries have no match and do not count")
    return "\n".join(lines)
