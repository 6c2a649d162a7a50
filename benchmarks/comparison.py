"""Two models on one labelled set: their metrics, and a paired test of the differences.

Their embeddings are in different spaces, so nothing but the metrics is compared: each model embeds the pictures and
the captions with its own preprocessing and tokenizer, and both are judged on the same queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_infer.benchmarks.document import Document, TextTable, csv_text
from tbps_infer.benchmarks.environment import Environment, record_environment
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BenchmarkError
from tbps_infer.model_facts import BRANCHES
from tbps_infer.training.run_folder import BEST, is_run
from tbps_infer.verification.bootstrap import DRAWS
from tbps_infer.verification.differences import MetricDifference, metric_differences, text_to_image
from tbps_infer.verification.evaluation_set import EvaluationSet, OnProgress, embed_set

__all__ = ["Comparison", "compare_models", "comparison_csv", "comparison_document"]

_NOTE = (
    "Captions are the queries; the gallery is all pictures, the caption's own included; ties count as misses. "
    f"Intervals: 95 %, percentiles of a paired bootstrap over captions ({DRAWS} draws): both models are judged on "
    "the same draws. An interval without 0 is a difference at the 5 % level, for one metric. Captions of one person "
    "are not independent, so the intervals are rather too narrow."
)


@dataclass(frozen=True)
class Comparison:
    """Two models, measured on the same queries.

    Attributes:
        data: What was embedded, with labels.
        models: The folder or file of each.
        descriptions: How each was run.
        differences: One per metric, the first model as the reference.
        environment: Of the machine.
        command: What was typed.
    """

    data: EvaluationSet
    models: tuple[Path, Path]
    descriptions: tuple[str, str]
    differences: tuple[MetricDifference, ...]
    environment: Environment
    command: str

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "data": self.data.to_json(),
            "models": [
                {"path": str(path), "description": description}
                for path, description in zip(self.models, self.descriptions, strict=True)
            ],
            "differences": {each.name: each.to_json() for each in self.differences},
            "environment": dict(self.environment.stable),
            "command": self.command,
        }


def compare_models(
    models: tuple[Path, Path],
    data: EvaluationSet,
    open_encoder: Callable[[Path], Encoder],
    command: str,
    *,
    on_step: Callable[[str], None] = lambda _step: None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Comparison:
    """Embed a labelled set with each of two models, and compare their metrics.

    Args:
        models: Bundles, checkpoints, or training runs, of which the best checkpoint is taken; the first is the
            reference.
        data: With labels.
        open_encoder: Opens the encoder of a bundle or a checkpoint.
        command: What was typed, for the report.
        on_step: Called with a sentence when a model begins.
        on_progress: Called with the items embedded by the model at work.

    Raises:
        BenchmarkError: The set has no labels.
        BackendError: A model cannot be had like this.
        VerificationError: No caption has a picture of its person.
        ImageError, UsageError: A picture or a caption cannot be embedded.
    """
    if data.labels is None:
        raise BenchmarkError(
            "Two models are compared by their metrics, which need labels, and the set has none.",
            "Give a data set, or a list with the column id.",
        )
    measured, descriptions = [], []
    for model in models:
        on_step(f"Embedding with {model}")
        path = model / BEST if is_run(model) else model
        with open_encoder(path) as encoder:
            described = dict.fromkeys(encoder.runner(branch).description for branch in BRANCHES)
            measured.append(text_to_image(embed_set(encoder, data, on_progress), data.labels))
        descriptions.append("; ".join(described))
    differences = metric_differences(measured[0], measured[1])
    return Comparison(data, models, (descriptions[0], descriptions[1]), differences, record_environment(), command)


def comparison_document(found: Comparison) -> Document:
    """The metrics of both, their differences and the intervals."""
    facts = (
        f"Data: {found.data}",
        *(f"{name}: {path}, {how}" for name, path, how in zip("AB", found.models, found.descriptions, strict=True)),
        *found.environment.describe(),
        f"Command: `{found.command}`",
    )
    rows = tuple(
        (
            *(each.name, f"{each.reference:.2f}", f"{each.candidate:.2f}", f"{each.difference:+.2f}"),
            f"{each.low:+.2f} to {each.high:+.2f}",
        )
        for each in found.differences
    )
    table = TextTable("Text to image, %", ("metric", "A", "B", "B - A, points", "95 % interval"), rows)
    return Document("Two models side by side", facts, (table,), "", (), _NOTE)


def comparison_csv(found: Comparison) -> str:
    """A row per metric."""
    rows = [(e.name, e.reference, e.candidate, e.difference, e.low, e.high) for e in found.differences]
    return csv_text([("metric", "A", "B", "difference", "low", "high"), *rows])
