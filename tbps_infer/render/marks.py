"""Whether a hit is the person wanted, for every way of showing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["Verdict", "verdict"]

Verdict = Literal["right", "wrong", "unknown"]
"""``unknown`` where nobody says who is wanted, or who the hit is."""


def verdict(metadata: Mapping[str, object], wanted: str | None) -> Verdict:
    """Whether a hit is the person wanted; a picture of nobody known is neither right nor wrong."""
    person = metadata.get("id")
    if wanted is None or person is None:
        return "unknown"
    return "right" if str(person) == wanted else "wrong"
