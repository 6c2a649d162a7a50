"""`tbps verify`: the gate that a bundle's engine passes or does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.family_options import family_options
from tbps_infer.cli.shared.gate_options import result_lines, threshold_options
from tbps_infer.cli.shared.options import (
    EXISTING,
    dataset_options,
    encoder_options,
    json_option,
    reference_option,
    verbosity_options,
)
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.bundle import Bundle
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.runners import RunOptions
    from tbps_infer.verification.evaluation_set import EvaluationSet
    from tbps_infer.verification.tolerances import Thresholds

__all__ = ["verify"]


@click.command()
@click.argument("bundle", type=EXISTING)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--data", type=EXISTING, metavar="DATASET", help="Labelled data set to compare on.")
@dataset_options
@reference_option
@threshold_options
@json_option
@click.option("--record/--no-record", default=True, help="Record the result in the bundle.")
@encoder_options
@family_options
@verbosity_options
def verify(
    bundle: Path,
    sources: tuple[str, ...],
    data: Path | None,
    split: str,
    kind: str | None,
    reference: Path | None,
    thresholds: Thresholds,
    as_json: bool,
    record: bool,
    batch_size: int,
    run: RunOptions,
    load: LoadOptions,
) -> None:
    """Compare an engine of BUNDLE with its reference, and exit with status 1 if it differs too much.

    With --data, the drop of R@1 and mAP is limited. With a SOURCE (a folder, picture, glob pattern or list), the
    changes of the top 10 and of every embedding are limited. Without either, the golden vectors of the bundle are
    compared.

    The reference is the checkpoint in PyTorch with --reference, otherwise the bundle's FP32 graphs or golden vectors.
    The result is recorded in the bundle, and tbps info shows it.

    \b
    tbps verify bundle --data CUHK-PEDES --reference checkpoint
    tbps verify bundle pictures/ --precision int8 --min-overlap 0.9 --min-cosine 0.99
    """
    from tbps_infer.encoder import Encoder
    from tbps_infer.verification.gate import hold_to_gate, record_verdict
    from tbps_infer.verification.references import choose_reference
    from tbps_infer.verification.tolerances import refuse_failures

    opened = _open(bundle, run)
    source = None
    chosen = _data(opened, sources, data, split, kind)
    if reference is None:
        load.refuse_all(bundle, "bundle")
    else:
        from tbps_infer.families.table import load_source

        source = load_source(None, reference, load)
    against, compared = choose_reference(opened, run, source, chosen)
    say(f"Comparing with {against.description} on {compared} ...")
    with (
        Encoder.of_model(opened, run, batch_size=batch_size) as candidate,
        progress_bar("Embedding", "items") as progress,
    ):
        result = hold_to_gate(candidate, run, against, compared, thresholds, progress)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else "\n".join(result_lines(result)))
    if record:
        record_verdict(bundle, result)
    refuse_failures(result.verdict.failures, "Do not use this engine for galleries and queries of the reference.")


def _open(path: Path, run: RunOptions) -> Bundle:
    from tbps_infer.bundle import Bundle
    from tbps_infer.errors import UsageError
    from tbps_infer.runners import open_model

    model = open_model(path, run)
    if not isinstance(model, Bundle):
        raise UsageError(f"{path} is a checkpoint, want a bundle.", "Name the checkpoint with --reference.")
    return model


def _data(
    bundle: Bundle, sources: tuple[str, ...], data: Path | None, split: str, kind: str | None
) -> EvaluationSet | None:
    from tbps_infer.verification.evaluation_set import labelled_set, picture_set

    if data is not None and sources:
        raise click.UsageError("--data and SOURCE exclude each other.")
    if sources:
        return picture_set(bundle, sources)
    if data is None:
        return None
    from tbps_infer.data.readers import read_dataset

    return labelled_set(read_dataset(data, split, kind=kind))
