"""The gate's limits as options, and its verdict as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import EXISTING, combined
from tbps_infer.cli.shared.parameter_types import Finite
from tbps_infer.verification.tolerances import Thresholds

if TYPE_CHECKING:
    from tbps_infer.verification.gate import GateResult, Verdict

__all__ = ["result_lines", "threshold_options", "verify_data_option"]

_USUAL = Thresholds()

threshold_options = combined(
    "thresholds",
    Thresholds,
    *(
        click.option(f"--{name}", type=kind, default=getattr(_USUAL, name.replace("-", "_")), help=text)
        for name, kind, text in (
            ("max-rank1-drop", Finite(), "With labels: R@1 may drop by at most this many points."),
            ("max-map-drop", Finite(), "With labels: mAP may drop by at most this many points."),
            ("min-overlap", Finite(0, 1), "Without labels: lowest top-10 overlap allowed."),
            ("min-cosine", Finite(-1, 1), "Without labels: lowest cosine allowed for any item."),
        )
    ),
)
"""``--max-rank1-drop`` and the other limits; passes ``thresholds``, `Thresholds`."""


def _evaluation_set(verify_data: Path | None) -> Any:
    if verify_data is None:
        return None
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.verification.evaluation_set import labelled_set, refuse_few

    data = labelled_set(read_dataset(verify_data, "test"))
    refuse_few(data)  # before the minutes that an export or a build takes
    return data


verify_data_option = combined(
    "gate_on",
    _evaluation_set,
    click.option(
        "--verify-data",
        type=EXISTING,
        metavar="DATASET",
        help="Keep the result only if it passes tbps verify on the test split of this data set.",
    ),
)
"""``--verify-data``; passes ``gate_on``, an `EvaluationSet` or None."""


def result_lines(result: GateResult) -> Iterator[str]:
    """What was compared with what, on what, and how it came out."""
    yield f"{result.run.label} against {result.reference.description}"
    yield f"on {result.data}"
    yield from _verdict_lines(result.verdict)
    found = result.verdict.agreement
    if found is not None:
        picture, caption = found.image.worst[0], found.text.worst[0]
        yield f"least alike: {result.data.pictures[picture.index].name} ({picture.cosine:.6f})"
        yield f'             "{result.data.captions[caption.index]}" ({caption.cosine:.6f})'
    yield "passed" if result.verdict.passed else "FAILED"


def _verdict_lines(verdict: Verdict) -> Iterator[str]:
    if verdict.differences:
        yield f"{'':17}reference  candidate  change  95 % interval"
    for each in verdict.differences:
        yield (
            f"{each.name:17}{each.reference:9.2f}{each.candidate:11.2f}{each.difference:+8.2f}"
            f"  {each.low:+.2f} to {each.high:+.2f}"
        )
    found = verdict.agreement
    if found is not None:
        for branch in (found.image, found.text):
            whole = branch.whole
            weakest = min(branch.parts, key=lambda name: branch.parts[name].minimum)
            yield (
                f"{branch.branch + ' cosine':17}min {whole.minimum:.7f}, p1 {whole.p1:.7f}, mean {whole.mean:.7f}"
                f"; {weakest} min {branch.parts[weakest].minimum:.7f}"
            )
        yield f"{'ranking':17}top-{found.k} overlap {found.overlap:.2%}, Kendall's tau {found.kendall_tau:.5f}"
