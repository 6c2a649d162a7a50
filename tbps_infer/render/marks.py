"""What every way of showing hits says: whether one is the person wanted, and that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["NOTHING_FOUND", "Verdict", "verdict"]

NOTHING_FOUND = "No picture passes the filter."
"""What is shown of a query without hits that does not say why."""

Verdict = Literal["right", "wrong", "unknown"]
"""``unknown`` where nobody says who is wanted, or who the hit is."""


def verdict(metadata: Mapping[str, object], wanted: str | None) -> Verdict:
    """Whether a hit is the person wanted; a picture of nobody known is neither right nor wrong."""
    person = metadata.get("id")
    if wanted is None or person is None:
        return "unknown"
    return "right" if str(person) == wanted else "wrong"
