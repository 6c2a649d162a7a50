"""The losses of the reference model, each its own function of tensors.

Which loss goes on which embedding is stated by the paper (arXiv 2501.00318): identity and ranking on the global and
coarse embeddings, identity and commonality-based margin ranking (CMR) on the fine ones. The form of CMR is ours.
Every loss is a mean over the batch, so that the balance of the terms does not move with the batch size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BASE_MARGIN",
    "LEAST_MARGIN",
    "choose_negatives",
    "cmr_loss",
    "commonality_margin",
    "distinctiveness",
    "entropy_commonality",
    "id_prob_commonality",
    "identity_loss",
    "part_similarity",
    "ranking_loss",
]

BASE_MARGIN = 0.2
LEAST_MARGIN = 0.05
ENTROPY_TEMPERATURE = 0.05


def identity_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy of each embedding slot against the identity, averaged over slots and batch.

    Args:
        logits: Float ``[batch, slots, identities]``: slot s through its own linear classifier.
        labels: int64 ``[batch]``, class indices.
        weights: Float ``[slots, batch]``, of mean 1: how much is asked of each slot; None asks all the same.

    Returns:
        A scalar.
    """
    targets = labels.repeat_interleave(logits.shape[1])
    if weights is None:
        return F.cross_entropy(logits.flatten(0, 1), targets)
    return (F.cross_entropy(logits.flatten(0, 1), targets, reduction="none") * weights.T.flatten()).mean()


def ranking_loss(
    similarity: Tensor, identities: Tensor, generator: torch.Generator | None, margin: float = BASE_MARGIN
) -> Tensor:
    """Bidirectional hinge on cosines with one semi-hard negative of another identity per anchor.

    mean_i [α − s_ii + s_i,n(i)]₊ + [α − s_ii + s_n'(i),i]₊

    Args:
        similarity: Float ``[batch, batch]``: image i against text j; the matched pairs lie on the diagonal.
        identities: int64 ``[batch]``.
        generator: Draws among the semi-hard negatives (on the similarity's device); None for the global one.
        margin: α.

    Returns:
        A scalar; 0 when the batch holds a single identity.
    """
    images = _hinge(similarity, identities, generator, margin, margin)
    texts = _hinge(similarity.transpose(-1, -2), identities, generator, margin, margin)
    return images.mean() + texts.mean()


def cmr_loss(
    similarity: Tensor,
    identities: Tensor,
    image_margin: Tensor | float,
    text_margin: Tensor | float,
    generator: torch.Generator | None,
    base_margin: float = BASE_MARGIN,
    *,
    of_negative: bool = False,
) -> Tensor:
    """Commonality-based margin ranking: the ranking loss per part, each anchor and part with its own margin.

    mean_k mean_i [m_v^k(i) − s_ii^k + s_i,n(i)^k]₊ + [m_t^k(i) − s_ii^k + s_n'(i),i^k]₊

    Negatives are chosen per part at the base margin, so that a part's commonality changes how hard it is pushed
    and not what it is compared with.

    Args:
        similarity: Float ``[parts, batch, batch]``, cosines of part k of image i and text j.
        identities: int64 ``[batch]``.
        image_margin: Float ``[parts, batch]`` for the image anchors; a number gives the plain ranking loss.
        text_margin: The same for the text anchors.
        generator: Draws among the semi-hard negatives; None for the global one.
        base_margin: α.
        of_negative: The margin is that of the negative's part rather than the anchor's.

    Returns:
        A scalar.
    """
    if of_negative:
        image_margin, text_margin = text_margin, image_margin
    images = _hinge(similarity, identities, generator, base_margin, image_margin, of_negative)
    texts = _hinge(similarity.transpose(-1, -2), identities, generator, base_margin, text_margin, of_negative)
    return images.mean() + texts.mean()


def part_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Cosines per part: float ``[batch, parts, d]`` twice to ``[parts, batch, batch]``, image by text."""
    return F.normalize(image, dim=-1).transpose(0, 1) @ F.normalize(text, dim=-1).permute(1, 2, 0)


def id_prob_commonality(logits: Tensor, labels: Tensor) -> Tensor:
    """κ = 1 − softmax(W_k f_i^k)[y_i]: a part that does not give its owner away is common. No gradient.

    Args:
        logits: Float ``[batch, parts, identities]``.
        labels: int64 ``[batch]``.

    Returns:
        Float ``[parts, batch]`` in [0, 1].
    """
    probability = logits.detach().softmax(dim=-1)
    own = probability.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
    return 1 - own.transpose(0, 1)


def entropy_commonality(similarity: Tensor, temperature: float = ENTROPY_TEMPERATURE) -> Tensor:
    """κ = normalised entropy of softmax_j(s_ij^k / τ) over the batch: a part like many others is common. No gradient.

    Args:
        similarity: Float ``[parts, batch, batch]``, the anchor's modality first.
        temperature: τ.

    Returns:
        Float ``[parts, batch]`` in [0, 1]; 0 for a batch of one, where nothing is shared.
    """
    count = similarity.shape[-1]
    if count == 1:
        return torch.zeros_like(similarity[..., 0])
    log_share = (similarity.detach() / temperature).log_softmax(dim=-1)
    return -(log_share.exp() * log_share).sum(dim=-1) / math.log(count)


def commonality_margin(commonality: Tensor, base_margin: float = BASE_MARGIN, least: float = LEAST_MARGIN) -> Tensor:
    """The margin m = max(α (1 − κ), least)."""
    return (base_margin * (1 - commonality)).clamp(min=least)


def distinctiveness(commonality: Tensor) -> Tensor:
    """(1 − κ) divided by its mean over the batch, per part: what a part weighs beside others of its kind.

    Args:
        commonality: Float ``[parts, batch]`` in [0, 1].

    Returns:
        Float ``[parts, batch]`` of mean 1 per part (0 where every κ is 1).
    """
    distinct = 1 - commonality
    return distinct / distinct.mean(dim=-1, keepdim=True).clamp(min=1e-6)


def choose_negatives(
    similarity: Tensor, identities: Tensor, generator: torch.Generator | None, margin: float = BASE_MARGIN
) -> Tensor:
    """One negative of another identity per anchor.

    A semi-hard negative lies inside the margin but below the positive: 0 < α − s_ii + s_ij < α. One of them is drawn
    uniformly; where there is none, the hardest negative stands in (its hinge is 0 when every negative is easy).

    Args:
        similarity: Float ``[..., batch, batch]``, anchors first, positives on the diagonal.
        identities: int64 ``[batch]``.
        generator: Draws the negatives; the global one when None.
        margin: α.

    Returns:
        int64 ``[..., batch]``; an anchor without any negative gets itself.
    """
    scores = similarity.detach()
    other = (identities[:, None] != identities[None, :]).expand_as(scores)
    hinge = margin - scores.diagonal(dim1=-2, dim2=-1)[..., None] + scores
    semi_hard = other & (hinge > 0) & (hinge < margin)
    draw = torch.rand(scores.shape, generator=generator, device=scores.device)
    drawn = draw.masked_fill(~semi_hard, -1).argmax(dim=-1)
    hardest = scores.masked_fill(~other, -torch.inf).argmax(dim=-1)
    chosen = torch.where(semi_hard.any(dim=-1), drawn, hardest)
    itself = torch.arange(len(identities), device=scores.device)
    return torch.where(other.any(dim=-1), chosen, itself.expand_as(chosen))


def _hinge(
    similarity: Tensor,
    identities: Tensor,
    generator: torch.Generator | None,
    base_margin: float,
    margin: Tensor | float,
    of_negative: bool = False,
) -> Tensor:
    """[m − s_ii + s_i,n(i)]₊ per anchor, ``[..., batch]``; 0 for an anchor without a negative."""
    chosen = choose_negatives(similarity, identities, generator, base_margin)
    negative = similarity.gather(-1, chosen[..., None])[..., 0]
    if of_negative and isinstance(margin, Tensor):
        margin = margin.gather(-1, chosen)
    hinge = (margin - similarity.diagonal(dim1=-2, dim2=-1) + negative).clamp(min=0)
    has_negative = (identities[:, None] != identities[None, :]).any(dim=-1)
    return hinge * has_negative
