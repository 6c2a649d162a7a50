"""Which layers stay in FP32: as few as the gate lets, found in few trials."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Islands", "find_islands"]

Layer = TypeVar("Layer", bound=Hashable)


@dataclass(frozen=True)
class Islands(Generic[Layer]):
    """What a search found.

    Attributes:
        kept: The layers that stay in FP32; None when the gate did not pass with as many as are allowed.
        harm: What quantising each layer alone does; empty when that was not needed.
        trials: How many sets of layers the gate was asked about.
    """

    kept: frozenset[Layer] | None
    harm: Mapping[Layer, float]
    trials: int


def find_islands(
    layers: Sequence[Layer],
    measure_harm: Callable[[], Mapping[Layer, float]],
    passes: Callable[[frozenset[Layer]], bool],
    *,
    most: int,
) -> Islands[Layer]:
    """Keep layers in FP32 until the gate passes.

    The gate is tried with none. If it fails, each layer's harm is measured, and the 1, 2, 4, 8, … most harmful ones
    are kept until it passes; then the count is halved between the last that failed and the first that passed. That
    is the fewest where keeping more of them never fails what keeping fewer passed, and passes in any case.

    Args:
        layers: All of them.
        measure_harm: The harm of quantising each layer alone, larger is worse; called at most once.
        passes: Whether the gate passes with these layers in FP32.
        most: How many may be kept.
    """
    trials = 1
    if passes(frozenset()):
        return Islands(frozenset(), {}, trials)
    if most < 1:
        return Islands(None, {}, trials)
    harm = measure_harm()
    worst = sorted(layers, key=lambda layer: -harm[layer])
    failed, count = 0, 1
    while failed < most:
        trials += 1
        if passes(frozenset(worst[:count])):
            break
        failed, count = count, min(2 * count, most)
    else:
        return Islands(None, harm, trials)
    while count - failed > 1:
        middle = (failed + count) // 2
        trials += 1
        if passes(frozenset(worst[:middle])):
            count = middle
        else:
            failed = middle
    return Islands(frozenset(worst[:count]), harm, trials)
