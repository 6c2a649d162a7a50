"""What a training run is asked to do; written beside its results and compared when it is resumed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from tbps_infer.errors import UsageError
from tbps_infer.preprocessing import json_values

__all__ = ["TERMS", "Commonality", "MixedPrecision", "Term", "TrainOptions"]

Term = Literal["global", "coarse", "fine"]
TERMS: tuple[Term, ...] = ("global", "coarse", "fine")
Commonality = Literal["id_prob", "entropy", "off"]
MixedPrecision = Literal["32-true", "16-mixed", "bf16-mixed"]

_RANGES = (
    "Learning rates are above 0; warm-up, weight decay, margin and padding at least 0; a probability is at most 1; "
    "a seed is from 0 to 2³² - 1."
)


@dataclass(frozen=True)
class TrainOptions:
    """The recipe; the defaults are this project's reading of the model's nearest published relatives.

    Attributes:
        epochs: Passes over the training pairs.
        batch_size: Pairs per step and device.
        head_lr: Adam's learning rate of the projection heads and identity classifiers.
        backbone_lr: Of both backbones, encoders and the decoder.
        warmup_epochs: Epochs of linear warm-up from a tenth.
        milestones: Epochs at which the learning rate is multiplied by 0.1.
        weight_decay: Adam's L2 penalty.
        terms: Which embeddings are trained and compared; fewer than all three for an ablation.
        commonality: How CMR measures that a part is common; ``off`` ranks the parts plainly.
        margin: How a part's margin follows from its commonality κ: ``absolute`` max(α(1 − κ), 0.05), or ``relative``
            to the part's mean, α(1 − κ)/mean(1 − κ), bounded to 0.05 and 2α.
        margin_of: Whose part κ is of, the anchor's or the negative's.
        part_identity: The identity loss on the parts: of each, ``even`` or weighted by ``distinctive``
            (1 − κ)/mean(1 − κ); of all ``together``, by the mean of their logits; or ``off``.
        base_margin: α of both ranking losses.
        pad: Pixels of padding before the random crop, at the model's image size.
        flip: Probability of a horizontal flip where the caption names neither left nor right.
        seed: Of the weights, order, augmentation and dropout.
        precision: Mixed precision, as Lightning Fabric names it.
        accumulate: Batches per update. Negatives come from one batch all the same.
        compile: Compile the repeated blocks of backbones, encoders and decoder with `torch.compile`.
        validation_identities: Training identities held out to choose the best epoch when the data set has no
            validation split. The test split never chooses.
    """

    epochs: int = 60
    batch_size: int = 64
    head_lr: float = 1e-3
    backbone_lr: float = 1e-4
    warmup_epochs: float = 5
    milestones: tuple[int, ...] = (20, 40)
    weight_decay: float = 0.0
    terms: tuple[Term, ...] = TERMS
    commonality: Commonality = "entropy"
    margin: Literal["absolute", "relative"] = "relative"
    margin_of: Literal["anchor", "negative"] = "anchor"
    part_identity: Literal["even", "distinctive", "together", "off"] = "together"
    base_margin: float = 0.2
    pad: int = 10
    flip: float = 0.5
    seed: int = 0
    precision: MixedPrecision = "32-true"
    accumulate: int = 1
    compile: bool = False
    validation_identities: int = 100

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.accumulate < 1:
            raise UsageError(
                f"epochs is {self.epochs}, batch_size {self.batch_size} and accumulate {self.accumulate}; "
                "want at least 1, 2 and 1."
            )
        limits = {
            "head_lr": self.head_lr > 0,
            "backbone_lr": self.backbone_lr > 0,
            "warmup_epochs": self.warmup_epochs >= 0,
            "weight_decay": self.weight_decay >= 0,
            "base_margin": self.base_margin >= 0,
            "flip": 0 <= self.flip <= 1,
            "pad": self.pad >= 0,
            "seed": 0 <= self.seed < 2**32,
        }
        for name, right in limits.items():
            if not (right and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} is {getattr(self, name)}, which is not in its range.", _RANGES)
        if any(milestone < 1 for milestone in self.milestones):
            raise UsageError(f"milestones is {self.milestones}; want epochs from 1 on.")
        if not self.terms or set(self.terms) - set(TERMS):
            raise UsageError(f"terms is {self.terms!r}; want some of {', '.join(TERMS)}.")

    def to_json(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return json_values(dataclasses.asdict(self))

    def lr_factor(self, epoch: float) -> float:
        """The learning rate's factor at a point of the run, in epochs since its start."""
        warmup = min(1.0, 0.1 + 0.9 * epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return warmup * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
