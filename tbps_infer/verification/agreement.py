"""How far two sets of embeddings of the same pictures and captions agree, without needing to know who is on them.

By the formulas of `tbps_infer.verification.similarity`: the cosine of each item's two embeddings, whole and part by
part; the overlap of each caption's first k pictures, where the candidate ranks equal scores in the order of the
pictures; and Kendall's tau-b between the two scores of the pictures that are among the first k of either.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import top_k
from tbps_infer.gallery.vectors import StoredVectors, inner_products
from tbps_infer.layout import VectorLayout
from tbps_infer.model_facts import Branch
from tbps_infer.verification.similarity import CosineSummary, cosines, kendall_tau, overlaps
from tbps_infer.verification.tolerances import DISTINCT_COSINE, refuse_failures

__all__ = [
    "Agreement",
    "BranchAgreement",
    "Embedded",
    "WorstItem",
    "agreement",
    "merged_items",
    "top_pictures",
    "unusable",
]

WORST = 10
"""Items per branch that are named."""

# Captions ranked at once.
_CHUNK = 256


@dataclass(frozen=True)
class Embedded:
    """What one engine made of a set of pictures and captions.

    Attributes:
        images: float32 ``[n, dim]``.
        texts: float32 ``[m, dim]``.
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]

    def branches(self) -> Iterator[tuple[Branch, NDArray[np.float32]]]:
        """Both arrays with the name of the branch that made them."""
        yield "image", self.images
        yield "text", self.texts


@dataclass(frozen=True)
class WorstItem:
    """A picture or caption by its index, and its embedding's cosine with the reference's."""

    index: int
    cosine: float


@dataclass(frozen=True)
class BranchAgreement:
    """The agreement of one branch's embeddings.

    Attributes:
        branch: ``image`` or ``text``.
        items: How many were compared.
        whole: Of whole embeddings.
        parts: Of each segment of the layout.
        worst: The items with the least cosines, the worst first.
    """

    branch: Branch
    items: int
    whole: CosineSummary
    parts: Mapping[str, CosineSummary]
    worst: tuple[WorstItem, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "items": self.items,
            "cosine": self.whole.to_json(),
            "parts": {name: part.to_json() for name, part in self.parts.items()},
            "worst": [{"index": item.index, "cosine": item.cosine} for item in self.worst],
        }


@dataclass(frozen=True)
class Agreement:
    """The agreement of a candidate's embeddings with a reference's.

    Attributes:
        image: Of pictures.
        text: Of captions.
        k: How many first pictures of each caption were compared.
        overlap: The mean share of them in common, 0 to 1.
        kendall_tau: Mean of tau-b over captions, -1 to 1; NaN when every caption's scores are all equal.
    """

    image: BranchAgreement
    text: BranchAgreement
    k: int
    overlap: float
    kendall_tau: float

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "image": self.image.to_json(),
            "text": self.text.to_json(),
            "top_k": self.k,
            "overlap": self.overlap,
            "kendall_tau": None if math.isnan(self.kendall_tau) else self.kendall_tau,
        }


def agreement(reference: Embedded, candidate: Embedded, layout: VectorLayout, *, k: int = 10) -> Agreement:
    """Compare the embeddings of the same items.

    Args:
        reference: What is taken as right.
        candidate: Its rows are those of the same pictures and captions.
        layout: The division of the embeddings.
        k: How many first pictures of each caption to compare; all, when there are fewer.

    Raises:
        VerificationError: Embeddings are missing, of another shape, not finite, or zero.
    """
    refuse_failures(tuple(unusable(reference, candidate, layout)))
    k = min(k, len(reference.images))
    overlap, tau = _rankings(reference, candidate, k)
    return Agreement(
        image=_branch("image", reference.images, candidate.images, layout),
        text=_branch("text", reference.texts, candidate.texts, layout),
        k=k,
        overlap=overlap,
        kendall_tau=tau,
    )


def unusable(reference: Embedded, candidate: Embedded, layout: VectorLayout) -> Iterator[str]:
    """What keeps two sets of embeddings from being compared, a sentence each."""
    for who, embedded in (("reference", reference), ("candidate", candidate)):
        for branch, vectors in embedded.branches():
            problem = _problem(vectors, layout)
            if problem:
                yield f"The {who}'s {branch} embeddings {problem}."
    for (branch, wanted), (_, found) in zip(reference.branches(), candidate.branches(), strict=True):
        if len(wanted) != len(found):
            yield f"The candidate has {len(found)} {branch} embeddings, and the reference {len(wanted)}."


def merged_items(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> int:
    """How many items the candidate gives exactly the embedding of an earlier one that the reference sets apart.

    A branch that ignores its input does so to all but the first. Items whose embeddings are about equal in the
    reference too (the same picture twice, say) do not count: their cosine is `DISTINCT_COSINE` or more.

    Args:
        reference: float32 ``[n, dim]``.
        candidate: float32 ``[n, dim]``.
    """
    first: dict[bytes, int] = {}
    owners = [first.setdefault(hashlib.sha256(row.tobytes()).digest(), index) for index, row in enumerate(candidate)]
    again = np.array([index for index, owner in enumerate(owners) if owner != index], dtype=np.int64)
    apart = cosines(reference[again], reference[np.array(owners, dtype=np.int64)[again]]) < DISTINCT_COSINE
    return int(np.count_nonzero(apart))


def top_pictures(embedded: Embedded, k: int) -> NDArray[np.int64]:
    """The k pictures with the largest inner product with each caption, ``[m, k]``, best first, ties in order."""
    images = StoredVectors(np.ascontiguousarray(embedded.images, dtype=np.float32))
    rows = Rows.of(np.arange(len(embedded.images)))
    longest = float(np.linalg.norm(embedded.images, axis=1).max(initial=0)) * (1 + 1e-5)
    parts = [
        top_k(images, rows, embedded.texts[start : start + _CHUNK], k, max_norm=longest).indices
        for start in range(0, len(embedded.texts), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty((0, min(k, len(rows))), dtype=np.int64)


def _rankings(reference: Embedded, candidate: Embedded, k: int) -> tuple[float, float]:
    """The mean overlap and Kendall's tau."""
    wanted, found = top_pictures(reference, k), top_pictures(candidate, k)
    shares, taus = [], []
    for start in range(0, len(wanted), _CHUNK):
        one, other = wanted[start : start + _CHUNK], found[start : start + _CHUNK]
        pictures = np.concatenate([one, other], axis=1)
        counted = np.ones(pictures.shape, dtype=bool)
        counted[:, k:] = ~(other[:, :, None] == one[:, None, :]).any(axis=2)
        ours, theirs = (_scores(embedded, pictures, start) for embedded in (reference, candidate))
        shares.append(overlaps(ours[:, :k], ours[:, k:]))
        taus.append(kendall_tau(ours, theirs, counted))
    tau = np.concatenate(taus)
    return float(np.concatenate(shares).mean()), float("nan") if np.isnan(tau).all() else float(np.nanmean(tau))


def _scores(embedded: Embedded, pictures: NDArray[np.int64], start: int) -> NDArray[np.float32]:
    """Inner products, float32 ``[c, p]``, of c captions from one on with p pictures each, ``[c, p]``."""
    owners = np.repeat(np.arange(start, start + len(pictures)), pictures.shape[1])
    flat = inner_products(StoredVectors(embedded.images), pictures.reshape(-1), embedded.texts, owners)
    return flat.reshape(pictures.shape)


def _branch(
    branch: Branch, reference: NDArray[np.float32], candidate: NDArray[np.float32], layout: VectorLayout
) -> BranchAgreement:
    whole = cosines(reference, candidate)
    parts = {name: CosineSummary.of(cosines(reference, candidate, piece)) for name, piece in layout.slices.items()}
    worst = np.argsort(whole, kind="stable")[:WORST]
    return BranchAgreement(
        branch=branch,
        items=len(whole),
        whole=CosineSummary.of(whole),
        parts=parts,
        worst=tuple(WorstItem(int(index), float(whole[index])) for index in worst),
    )


def _problem(vectors: NDArray[np.float32], layout: VectorLayout) -> str:
    """What keeps an array from being embeddings that have cosines; empty when nothing does."""
    if vectors.ndim != 2 or vectors.shape[1] != layout.dim:
        return f"have the shape {list(vectors.shape)}, want [items, {layout.dim}]"
    if not len(vectors):
        return "are none: give at least one item"
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        return f"hold NaN or infinite numbers for {np.count_nonzero(broken)} of {len(vectors)} items"
    for name, piece in layout.slices.items():
        zero = ~vectors[:, piece].any(axis=1)
        if zero.any():
            return f"are zero in {name} for {np.count_nonzero(zero)} of {len(vectors)} items"
    return ""
