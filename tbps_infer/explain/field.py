"""How much of a picture a stripe's features see: the theoretical and the effective receptive field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbps_infer.reference.config import ModelConfig, ResNetConfig

if TYPE_CHECKING:
    from tbps_infer.reference.model import PartModel

__all__ = ["Field", "stripe_field", "theoretical_rows"]


@dataclass(frozen=True)
class Field:
    """The rows of pixels that stripes depend on, averaged over stripes and crops.

    Attributes:
        stripe: Height of a stripe, in pixels.
        theoretical: Rows that a stripe's features can depend on, on a picture without end.
        inside: The share of the squared gradient that lies in the stripe's own rows.
        rows: The least number of rows around the stripe's middle that hold nine tenths of it.
    """

    stripe: int
    theoretical: int | None
    inside: float
    rows: float


def stripe_field(model: PartModel, crops: NDArray[np.uint8]) -> Field:
    """The effective field (Luo et al. 2016): the gradient of a stripe's features with respect to pixels.

    Args:
        model: A part model whose parts are stripes, in eval mode.
        crops: uint8 ``[n, height, width, 3]``.
    """
    import torch

    config = model.config
    device = model.pixel_scale.device
    pixels = torch.from_numpy(crops).to(device).float().requires_grad_(True)
    parts = model.features_and_stripes(pixels)[1]
    height, stripe = crops.shape[1], crops.shape[1] // config.parts
    middles = np.arange(height) + 0.5
    inside, rows = [], []
    for k in range(config.parts):
        (gradient,) = torch.autograd.grad(parts[:, k].sum(), pixels, retain_graph=True)
        energy = gradient.square().sum(dim=(0, 2, 3)).double().cpu().numpy()
        energy /= energy.sum()
        inside.append(energy[k * stripe : (k + 1) * stripe].sum())
        distance = np.abs(middles - (k + 0.5) * stripe)
        order = np.argsort(distance, kind="stable")
        enough = int(np.searchsorted(np.cumsum(energy[order]), 0.9))
        rows.append(2 * distance[order[min(enough, height - 1)]] + 1)
    return Field(stripe, theoretical_rows(config), float(np.mean(inside)), float(np.mean(rows)))


def theoretical_rows(config: ModelConfig) -> int | None:
    """Rows of pixels that a stripe's features can depend on; None for a transformer, where it is all of them."""
    if not isinstance(config.image, ResNetConfig):
        return None
    stripe = config.preprocessing.image_size[0] // config.parts
    own = config.part_stage is not None
    stages = config.part_stage if config.part_stage is not None else len(config.image.depths)
    field, jump = 11, 4  # a 7x7 convolution of stride 2, and pooling over 3x3 of stride 2
    for number, depth in enumerate(config.image.depths[:stages]):
        stride = 2 if 0 < number < len(config.image.depths) - 1 else 1
        for layer in range(depth):
            convolutions = 2 if config.image.layer_type == "basic" else 1
            for place in range(convolutions):
                field += 2 * jump
                jump *= stride if layer == 0 and place == 0 else 1
    return field + stripe - (4 if own else jump)
