"""Single queries of an evaluation to look at: some that found their person first, and some that did not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_infer.data.dataset import Split

__all__ = ["Case", "pick_cases"]


@dataclass(frozen=True)
class Case:
    """One caption with its best pictures.

    Attributes:
        caption: Its index in the split.
        pictures: int64 ``[k]``, indices of the best pictures, equal scores in the split's order.
        scores: float32 ``[k]``.
        right: bool ``[k]``: whether they show the person described.
        best_right: Index of the person's best picture.
        best_right_rank: Its rank among all pictures, from 1; ties count as lost.
        best_right_score: Its score.
    """

    caption: int
    pictures: NDArray[np.int64]
    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    best_right: int
    best_right_rank: int
    best_right_score: float


def pick_cases(
    texts: NDArray[np.float32], images: NDArray[np.float32], split: Split, count: int, *, k: int = 10
) -> list[Case]:
    """Captions by chance, half of them with the right person first and half without, as far as there are such.

    Args:
        texts: float32 ``[captions, dim]``, embeddings of the split's captions.
        images: float32 ``[pictures, dim]``, of its pictures.
        split: The evaluated split.
        count: How many.
        k: Pictures per case.

    Returns:
        Successes before failures, each by its caption's place in the split.
    """
    found: dict[bool, list[Case]] = {True: [], False: []}
    wanted = {True: count - count // 2, False: count // 2}
    left: list[Case] = []
    for caption in np.random.default_rng(0).permutation(len(texts)).tolist():
        case = _case(caption, texts, images, split, k)
        group = found[bool(case.right[0])]
        (group if len(group) < wanted[bool(case.right[0])] else left).append(case)
        if sum(map(len, found.values())) == count:
            break
    spare = left[: count - sum(map(len, found.values()))]
    chosen = [*found[True], *found[False], *spare]
    return sorted(chosen, key=lambda case: (not case.right[0], case.caption))


def _case(caption: int, texts: NDArray[np.float32], images: NDArray[np.float32], split: Split, k: int) -> Case:
    scores = images @ texts[caption]
    right = split.identities == split.caption_identities[caption]
    order = np.argsort(-scores, kind="stable")[:k]
    best = int(np.flatnonzero(right)[np.argmax(scores[right])])
    return Case(
        caption=caption,
        pictures=order,
        scores=scores[order],
        right=right[order],
        best_right=best,
        best_right_rank=1 + int((scores[~right] >= scores[best]).sum()),
        best_right_score=float(scores[best]),
    )
