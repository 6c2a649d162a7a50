"""The metrics of two models on the same queries, and how sure their difference is.

The interval is a paired bootstrap (`tbps_infer.verification.bootstrap`): queries are drawn with replacement, and both
models judged on the same draw. Captions of one person are not independent, so it is rather too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import VerificationError
from tbps_infer.evaluation.metrics import QueryMetrics, query_metrics
from tbps_infer.verification.agreement import Embedded
from tbps_infer.verification.bootstrap import bootstrap_interval

__all__ = ["Labels", "MetricDifference", "metric_differences", "text_to_image"]


@dataclass(frozen=True)
class Labels:
    """Who is on the pictures, and whom the captions describe.

    Attributes:
        image_ids: int64 ``[n]``, the identity of each picture.
        text_ids: int64 ``[m]``, the identity of each caption.
    """

    image_ids: NDArray[np.int64]
    text_ids: NDArray[np.int64]


@dataclass(frozen=True)
class MetricDifference:
    """One metric of a reference and a candidate, captions as queries, ties lost; in percent and points.

    Attributes:
        name: ``R@1`` …, ``mAP``, ``mAP (trapezoid)``, ``mINP``.
        reference: The reference's.
        candidate: The candidate's.
        low: The lower end of the 95 % interval of ``candidate − reference``.
        high: Its upper end.
    """

    name: str
    reference: float
    candidate: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The candidate's less the reference's: negative is a loss."""
        return self.candidate - self.reference

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "difference": self.difference,
            "interval": [self.low, self.high],
        }


def text_to_image(embedded: Embedded, labels: Labels) -> QueryMetrics:
    """The metrics of every caption that has a picture of its person.

    Raises:
        UsageError: There is not one label per item.
        VerificationError: No caption has such a picture.
    """
    measured = query_metrics(embedded.texts, embedded.images, labels.text_ids, labels.image_ids)
    if not len(measured.values):
        raise VerificationError(
            "No caption has a picture of the person that it describes.",
            "Give a data set whose captions and pictures share identities, or pictures alone.",
        )
    return measured


def metric_differences(reference: QueryMetrics, candidate: QueryMetrics) -> tuple[MetricDifference, ...]:
    """Compare two models' metrics, one entry per metric, on the same queries.

    Args:
        reference: From `text_to_image`, or `query_metrics`.
        candidate: Of the same queries and labels.

    Raises:
        VerificationError: They are not of the same queries.
    """
    if reference.names != candidate.names or not np.array_equal(reference.indices, candidate.indices):
        raise VerificationError("Reference and candidate were measured on different queries.")
    intervals = bootstrap_interval(candidate.values - reference.values)
    means = reference.values.mean(axis=0), candidate.values.mean(axis=0)
    return tuple(
        MetricDifference(name, float(means[0][i]), float(means[1][i]), float(intervals[i, 0]), float(intervals[i, 1]))
        for i, name in enumerate(reference.names)
    )
