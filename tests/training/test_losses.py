"""The vectorised losses against loops written from the formulas."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from tbps_infer.training import losses
from tbps_infer.training.options import Commonality

BATCHES = [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], [7, 7, 7], [3], [0, 1, 1, 1, 0, 2, 5, 5]]


def _slots(count: int, seed: int, slots: int = 3, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, slots, dim, generator=generator, dtype=torch.float64)
    return image, image + 0.8 * torch.randn(count, slots, dim, generator=generator, dtype=torch.float64)


def _loop_negative(scores: list[list[float]], i: int, ids: list[int], draw: Tensor, margin: float) -> int | None:
    others = [j for j in range(len(ids)) if ids[j] != ids[i]]
    semi_hard = [j for j in others if 0 < margin - scores[i][i] + scores[i][j] < margin]
    if semi_hard:
        return max(semi_hard, key=lambda j: float(draw[i, j]))
    return max(others, key=lambda j: scores[i][j]) if others else None


def _loop_hinge(scores: list[list[float]], ids: list[int], draw: Tensor, margins: list[float]) -> float:
    total = 0.0
    for i in range(len(ids)):
        negative = _loop_negative(scores, i, ids, draw, losses.BASE_MARGIN)
        if negative is not None:
            total += max(0.0, margins[i] - scores[i][i] + scores[i][negative])
    return total / len(ids)


def _transpose(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("ids", BATCHES)
def test_ranking_equals_the_loop(ids: list[int]) -> None:
    image, text = _slots(len(ids), seed=1, slots=1)
    similarity = losses.part_similarity(image, text)[0]
    got = losses.ranking_loss(similarity, torch.tensor(ids), torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    draws = [torch.rand(similarity.shape, generator=generator) for _ in range(2)]
    rows: list[list[float]] = similarity.tolist()
    margins = [losses.BASE_MARGIN] * len(ids)
    want = _loop_hinge(rows, ids, draws[0], margins) + _loop_hinge(_transpose(rows), ids, draws[1], margins)
    assert got.item() == pytest.approx(want, abs=1e-12)
    if len(set(ids)) == 1:
        assert got.item() == 0


@pytest.mark.parametrize("commonality", get_args(Commonality))
@pytest.mark.parametrize("ids", BATCHES)
def test_cmr_equals_the_loop(ids: list[int], commonality: Commonality) -> None:
    count, parts = len(ids), 3
    image, text = _slots(count, seed=2, slots=parts)
    similarity = losses.part_similarity(image, text)
    labels = torch.tensor(ids)
    logits = torch.randn(2, count, parts, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    image_margin, text_margin = _margins(commonality, similarity, logits, labels)
    got = losses.cmr_loss(similarity, labels, image_margin, text_margin, torch.Generator().manual_seed(5))

    generator = torch.Generator().manual_seed(5)
    draws = [torch.rand(similarity.shape, generator=generator) for _ in range(2)]
    want = 0.0
    for k in range(parts):
        rows: list[list[float]] = similarity[k].tolist()
        for side, scores in enumerate((rows, _transpose(rows))):
            margins = [_loop_margin(commonality, scores[i], logits[side, i, k], ids[i]) for i in range(count)]
            want += _loop_hinge(scores, ids, draws[side][k], margins) / parts
    assert got.item() == pytest.approx(want, abs=1e-12)


def _margins(
    commonality: Commonality, similarity: Tensor, logits: Tensor, labels: Tensor
) -> tuple[Tensor | float, Tensor | float]:
    if commonality == "id_prob":
        kappas = [losses.id_prob_commonality(logits[side], labels) for side in (0, 1)]
    elif commonality == "entropy":
        kappas = [losses.entropy_commonality(s) for s in (similarity, similarity.transpose(1, 2))]
    else:
        return losses.BASE_MARGIN, losses.BASE_MARGIN
    return losses.commonality_margin(kappas[0]), losses.commonality_margin(kappas[1])


def _loop_margin(commonality: str, scores: list[float], logits: Tensor, label: int) -> float:
    if commonality == "off":
        return losses.BASE_MARGIN
    if commonality == "id_prob":
        exponentials = [math.exp(value) for value in logits.tolist()]
        kappa = 1 - exponentials[label] / sum(exponentials)
    elif len(scores) == 1:
        kappa = 0.0
    else:
        weights = [math.exp(score / 0.05) for score in scores]
        shares = [weight / sum(weights) for weight in weights]
        kappa = -sum(p * math.log(p) for p in shares if p > 0) / math.log(len(scores))
    return max(losses.BASE_MARGIN * (1 - kappa), losses.LEAST_MARGIN)


def test_off_is_the_plain_ranking_loss_per_part() -> None:
    image, text = _slots(6, seed=4, slots=1)
    similarity = losses.part_similarity(image, text)
    ids = torch.arange(6)
    plain = losses.ranking_loss(similarity[0], ids, torch.Generator().manual_seed(0))
    off = losses.cmr_loss(similarity, ids, losses.BASE_MARGIN, losses.BASE_MARGIN, torch.Generator().manual_seed(0))
    assert off.item() == pytest.approx(plain.item(), abs=1e-12)


def test_a_common_part_is_pushed_less() -> None:
    similarity = torch.tensor([[[0.5, 0.45], [0.45, 0.5]]], dtype=torch.float64)
    ids = torch.tensor([0, 1])
    rare, common = (torch.full((1, 2), margin, dtype=torch.float64) for margin in (0.2, 0.05))
    assert losses.cmr_loss(similarity, ids, rare, rare, None).item() == pytest.approx(2 * 0.15)
    assert losses.cmr_loss(similarity, ids, common, common, None).item() == pytest.approx(0.0)


def test_identity_equals_the_loop() -> None:
    logits = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([5, 0, 0, 2])
    want = 0.0
    for i, label in enumerate(labels.tolist()):
        for slot in range(3):
            values = logits[i, slot].tolist()
            want += math.log(sum(math.exp(v) for v in values)) - values[label]
    assert losses.identity_loss(logits, labels).item() == pytest.approx(want / 12, abs=1e-12)


@pytest.mark.parametrize("commonality", get_args(Commonality))
def test_gradients_are_those_of_finite_differences(commonality: Commonality) -> None:
    ids = torch.tensor([0, 1, 1, 2])
    image, text = (slots.requires_grad_() for slots in _slots(4, seed=7, slots=2))
    weight = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)

    # The commonality is a stop-gradient: margins are fixed where the derivative is taken.
    with torch.no_grad():
        logits = torch.stack([torch.einsum("bkd,kdc->bkc", slots, weight) for slots in (image, text)])
        margins = _margins(commonality, losses.part_similarity(image, text), logits, ids)

    def loss(image: Tensor, text: Tensor) -> Tensor:
        similarity = losses.part_similarity(image, text)
        generator = torch.Generator().manual_seed(0)
        return losses.cmr_loss(similarity, ids, *margins, generator) + losses.ranking_loss(
            similarity[0], ids, generator
        )

    assert torch.autograd.gradcheck(loss, (image, text), atol=1e-6)


def test_commonality_carries_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    similarity = torch.randn(3, 2, 2, requires_grad=True)
    assert not losses.id_prob_commonality(logits, torch.tensor([0, 1])).requires_grad
    assert not losses.entropy_commonality(similarity).requires_grad


def test_the_same_generator_gives_the_same_loss() -> None:
    image, text = _slots(16, seed=9, slots=2)
    similarity = losses.part_similarity(image, text)
    ids = torch.arange(16) // 2

    def draw(seed: int) -> Tensor:
        return losses.choose_negatives(similarity, ids, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert (ids[draw(1)] != ids).all()


def test_doubling_a_batch_keeps_the_scale() -> None:
    """Two copies of a batch, far from each other, have the loss of one: it is a mean, not a sum."""
    pair = torch.tensor([[[0.5, 0.4], [0.45, 0.5]]], dtype=torch.float64)
    alone = losses.cmr_loss(pair, torch.arange(2), 0.2, 0.2, None)
    apart = torch.full((1, 4, 4), -1.0, dtype=torch.float64)
    apart[:, :2, :2] = apart[:, 2:, 2:] = pair
    twice = losses.cmr_loss(apart, torch.arange(4), 0.2, 0.2, None)
    assert alone.item() == pytest.approx(2 * (0.1 + 0.15) / 2)
    assert twice.item() == pytest.approx(alone.item())


def test_distinctiveness_has_mean_one_per_part() -> None:
    kappa = torch.tensor([[0.0, 0.5, 1.0], [0.9, 0.9, 0.9], [1.0, 1.0, 1.0]])
    found = losses.distinctiveness(kappa)
    torch.testing.assert_close(found[0], torch.tensor([2.0, 1.0, 0.0]))
    torch.testing.assert_close(found[1], torch.ones(3))
    assert not found[2].any()


def test_weights_of_one_are_no_weights() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(4, 3, 7, generator=generator), torch.tensor([0, 2, 6, 2])
    even = losses.identity_loss(logits, labels)
    torch.testing.assert_close(losses.identity_loss(logits, labels, torch.ones(3, 4)), even)
    only = torch.zeros(3, 4)
    only[1, 2] = 12.0  # slot 1 of item 2, of mean 1
    torch.testing.assert_close(
        losses.identity_loss(logits, labels, only), torch.nn.functional.cross_entropy(logits[2, 1], labels[2])
    )


def test_the_margin_may_be_the_negatives() -> None:
    """Two people: each anchor's negative is the other one, whose margin counts."""
    similarity = torch.tensor([[[0.5, 0.4], [0.4, 0.5]]])
    identities = torch.tensor([1, 2])
    margin = torch.tensor([[0.2, 0.3]])
    anchor = losses.cmr_loss(similarity, identities, margin, 0.0, None)
    torch.testing.assert_close(anchor, torch.tensor(((0.2 - 0.1) + (0.3 - 0.1)) / 2))
    text = torch.tensor([[0.15, 0.45]])
    negative = losses.cmr_loss(similarity, identities, margin, text, None, of_negative=True)
    pictures = ((0.45 - 0.1) + (0.15 - 0.1)) / 2  # picture 0 is held against sentence 1
    sentences = ((0.3 - 0.1) + (0.2 - 0.1)) / 2
    torch.testing.assert_close(negative, torch.tensor(pictures + sentences))
