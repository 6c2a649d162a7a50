"""The metrics of two models on the same queries, and how sure their difference is.

The interval is a paired percentile bootstrap (B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13): queries are drawn with replacement, both models judged on the same draw, and the 2.5th and 97.5th
percentiles of the differences' means taken. Captions of one person are not independent, so it is rather too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import VerificationError
from tbps_infer.evaluation.metrics import QueryMetrics, query_metrics
from tbps_infer.verification.agreement import Embedded

__all__ = ["BOOTSTRAPS", "Labels", "MetricDifference", "bootstrap_interval", "metric_differences", "text_to_image"]

BOOTSTRAPS = 2000
SEED = 0
_PERCENTILES = (2.5, 97.5)


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


def metric_differences(
    reference: QueryMetrics, candidate: QueryMetrics, *, bootstraps: int = BOOTSTRAPS, seed: int = SEED
) -> tuple[MetricDifference, ...]:
    """Compare two models' metrics, one entry per metric, on the same queries.

    Args:
        reference: From `text_to_image`, or `query_metrics`.
        candidate: Of the same queries and labels.
        bootstraps: Draws of the queries.
        seed: Of the draws.

    Raises:
        VerificationError: They are not of the same queries.
    """
    if reference.names != candidate.names or not np.array_equal(reference.indices, candidate.indices):
        raise VerificationError("Reference and candidate were measured on different queries.")
    intervals = bootstrap_interval(candidate.values - reference.values, bootstraps=bootstraps, seed=seed)
    means = reference.values.mean(axis=0), candidate.values.mean(axis=0)
    return tuple(
        MetricDifference(name, float(means[0][i]), float(means[1][i]), float(intervals[i, 0]), float(intervals[i, 1]))
        for i, name in enumerate(reference.names)
    )


def bootstrap_interval(
    differences: NDArray[np.float64], *, bootstraps: int = BOOTSTRAPS, seed: int = SEED
) -> NDArray[np.float64]:
    """The 95 % interval of the mean of paired differences, by drawing queries with replacement.

    Args:
        differences: float64 ``[queries, metrics]``.
        bootstraps: How many draws.
        seed: Of the draws, which are ``integers(0, queries, size=queries)`` of NumPy's default generator.

    Returns:
        float64 ``[metrics, 2]``.
    """
    generator = np.random.default_rng(seed)
    queries = len(differences)
    means = np.empty((bootstraps, differences.shape[1]))
    for draw in range(bootstraps):
        # How often each query was drawn is all that a mean needs, and a product with it is faster than a gather.
        often = np.bincount(generator.integers(0, queries, size=queries), minlength=queries)
        means[draw] = often @ differences / queries
    interval: NDArray[np.float64] = np.percentile(means, _PERCENTILES, axis=0).T
    return interval
