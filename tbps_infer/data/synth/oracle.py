"""The bound on search in a synthetic data set: a searcher who reads and sees without error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.synth.attributes import Person
from tbps_infer.data.synth.captions import Caption
from tbps_infer.data.synth.phrases import Claim, agrees

__all__ = ["caption_agreement", "oracle_rank1"]


def caption_agreement(captions: Sequence[Caption], people: Sequence[Person]) -> NDArray[np.int16]:
    """How many of each caption's claims are true of each person: int16 [captions, people]."""
    truth: dict[Claim, NDArray[np.bool_]] = {}
    counts = np.zeros((len(captions), len(people)), dtype=np.int16)
    for row, caption in enumerate(captions):
        for claim in caption.claims:
            if claim not in truth:
                truth[claim] = np.fromiter((agrees(claim, person) for person in people), np.bool_, len(people))
            counts[row] += truth[claim]
    return counts


def oracle_rank1(captions: Iterable[tuple[Caption, int]], people: Sequence[Person]) -> float:
    """Rank-1 of ranking people by agreeing claims, ties counted as lost.

    Args:
        captions: Pairs of a caption and the index of its person in `people`. All pictures of one person agree
            with a caption equally, so a gallery with several pictures each has the same Rank-1.
        people: The gallery's identities.

    Returns:
        The share of captions whose own person agrees with strictly more claims than anybody else.
    """
    pairs = list(captions)
    if not pairs:
        return 0.0
    counts = caption_agreement([caption for caption, _ in pairs], people)
    own = np.array([index for _, index in pairs])
    rows = np.arange(len(pairs))
    best = counts[rows, own].copy()
    counts[rows, own] = -1
    return float(np.mean(best > counts.max(axis=1)))
