"""How sure a mean or a median is.

The interval is Efron's percentile bootstrap (B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13): values are drawn with replacement, and the 2.5th and 97.5th percentiles of the draws' means, or medians,
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "bootstrap_interval"]

DRAWS = 2000
_PERCENTILES = (2.5, 97.5)
# Values drawn at once.
_BLOCK = 2_000_000


def bootstrap_interval(
    values: NDArray[np.floating[Any]],
    statistic: Callable[..., NDArray[np.floating[Any]]] = np.mean,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The 95 % interval of a statistic of values, at least one of them; the same every time.

    Args:
        values: Floating-point ``[n, ...]``. Of paired values give the differences: both are then judged on the same
            draw.
        statistic: ``np.mean`` or ``np.median``, or what else takes an axis.
        draws: How many draws of n values.
        seed: Of the draws, which are ``integers(0, n, size=n)`` of NumPy's default generator.

    Returns:
        float64 ``[..., 2]``: the lower and the upper end.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    step = max(1, _BLOCK // values.size)
    found = [
        statistic(values[generator.integers(0, count, size=(min(step, draws - start), count))], axis=1)
        for start in range(0, draws, step)
    ]
    interval: NDArray[np.float64] = np.moveaxis(np.percentile(np.concatenate(found), _PERCENTILES, axis=0), 0, -1)
    return interval
