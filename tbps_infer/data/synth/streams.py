"""Random streams that depend on what they are for, never on who asks or when."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

__all__ = ["pick", "pixel_stream", "stream"]


def stream(seed: int, purpose: str, *numbers: int) -> random.Random:
    """A generator for one purpose, e.g. `stream(7, "shot", identity, picture)`; equal arguments, equal draws."""
    return random.Random("/".join([str(seed), purpose, *map(str, numbers)]))


def pixel_stream(rng: random.Random) -> np.random.Generator:
    """A generator of arrays, for noise over pixels, fed by one draw of `rng`."""
    return np.random.Generator(np.random.SFC64(rng.getrandbits(64)))


def pick(rng: random.Random, weights: Mapping[str, float]) -> str:
    """Draw one key with probability proportional to its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]
