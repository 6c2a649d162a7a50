"""How alike two sets of embeddings are: the formulas behind every report, gate and benchmark.

- cosine of each item's two embeddings, in float64, whole or of some columns;
- overlap: the share of the candidate's first k pictures that are among the reference's first k too, which is
  |{p ∈ B : s(p) ≥ s₍ₖ₎ − tie}| / k, where B are the candidate's first k, s the reference's similarities and s₍ₖ₎ the
  k-th largest of them. With ``tie`` 0 only pictures of exactly equal similarity may take each other's places;
- Kendall's tau-b (M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945): with P pairs in
  the same order, Q in the opposite one, T pairs tied in the reference alone and U in the candidate alone,
  τ = (P − Q) / √((P + Q + T)(P + Q + U)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CosineSummary", "cosines", "kendall_tau", "largest_difference", "overlaps"]

_Floats = NDArray[np.floating[Any]]

# Rows turned to float64 at once.
_CHUNK = 256
_ALL = slice(None)


@dataclass(frozen=True)
class CosineSummary:
    """The cosines of many items: the least, the first percentile and the mean; all NaN when one of them is."""

    minimum: float
    p1: float
    mean: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> CosineSummary:
        """The summary of at least one cosine."""
        return cls(float(values.min()), float(np.percentile(values, 1)), float(values.mean()))

    def to_json(self) -> dict[str, float]:
        """The three numbers by name."""
        return {"min": self.minimum, "p1": self.p1, "mean": self.mean}


def cosines(left: _Floats, right: _Floats, columns: slice = _ALL) -> NDArray[np.float64]:
    """The cosine of each row of an array with the same row of another.

    Args:
        left: Floating-point ``[n, dim]``.
        right: Floating-point ``[n, dim]``.
        columns: The columns that count.

    Returns:
        float64 ``[n]``; NaN where a row is zero or not finite.
    """
    found = np.empty(len(left))
    for start in range(0, len(left), _CHUNK):
        rows = slice(start, start + _CHUNK)
        a, b = left[rows, columns].astype(np.float64), right[rows, columns].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[rows] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return found


def overlaps(best: _Floats, given: _Floats, tie: float = 0.0) -> NDArray[np.float64]:
    """The top-k overlap of each query, by the formula above.

    Args:
        best: The reference's k largest similarities of each query, ``[queries, k]``, in any order.
        given: The reference's similarities of the k different pictures that the candidate ranks first.
        tie: By how much a similarity may fall short of the k-th.

    Returns:
        float64 ``[queries]``, 0 to 1.
    """
    shares: NDArray[np.float64] = (given >= best.min(axis=1, keepdims=True) - tie).mean(axis=1)
    return shares


def kendall_tau(left: _Floats, right: _Floats, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Kendall's tau-b between two scores of the same items, a row at a time.

    Args:
        left: Floating-point ``[rows, items]``.
        right: Floating-point ``[rows, items]``.
        valid: bool ``[rows, items]``: which of them count.

    Returns:
        float64 ``[rows]``; NaN where all scores of a side are equal.
    """
    one, other = np.triu_indices(left.shape[1], 1)
    counted = valid[:, one] & valid[:, other]
    signs = [np.sign(scores[:, one] - scores[:, other]) * counted for scores in (left, right)]
    agreeing = (signs[0] * signs[1]).sum(axis=1, dtype=np.float64)  # P − Q
    ordered = [np.count_nonzero(sign, axis=1).astype(np.float64) for sign in signs]  # P + Q + U, P + Q + T
    with np.errstate(invalid="ignore"):
        tau: NDArray[np.float64] = agreeing / np.sqrt(ordered[0] * ordered[1])
    return tau


def largest_difference(left: ArrayLike, right: ArrayLike) -> float:
    """The largest absolute difference of any two numbers at the same place; NaN when either array has one."""
    return float(np.max(np.abs(np.asarray(left, np.float64) - np.asarray(right, np.float64))))
