"""The model with its identity classifiers, and the sum of losses that a step minimises."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbps_infer.reference.model import Embeddings, PartModel, SlotLinear
from tbps_infer.training import losses
from tbps_infer.training.options import TrainOptions

__all__ = ["Objective", "compile_blocks", "parameter_groups"]


class Objective(nn.Module):
    """A `PartModel` and one identity classifier per embedding slot, shared by image and text."""

    def __init__(self, model: PartModel, identities: int, options: TrainOptions) -> None:
        super().__init__()
        self.model = model
        self.options = options
        config = model.config
        self.global_classifier = SlotLinear(1, config.dim, identities)
        self.coarse_classifier = SlotLinear(config.coarse_tokens, config.dim, identities)
        self.fine_classifier = SlotLinear(config.parts, config.dim, identities)

    def forward(
        self,
        pixels: Tensor,
        text: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Every term of the loss, a scalar each; their sum is minimised, all weights 1.

        Args:
            pixels: uint8 ``[batch, height, width, 3]``.
            text: Integer ids ``[batch, length]``, or float features ``[batch, length, hidden]`` of a frozen backbone.
            attention_mask: Integer ``[batch, length]``.
            labels: int64 ``[batch]``, class indices.
            generator: Draws the negatives.
        """
        image = self.model.image_embeddings(pixels)
        features = text if text.is_floating_point() else self.model.text_backbone(text, attention_mask)
        sentence = self.model.text_embeddings(features, attention_mask)
        # Margins of 0.2 drown in the rounding of half-precision cosines: the losses are always FP32.
        with torch.autocast(pixels.device.type, enabled=False):
            return self._terms(image.float(), sentence.float(), labels, generator)

    def _terms(
        self, image: Embeddings, sentence: Embeddings, labels: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if "global" in self.options.terms:
            slots = (image.global_[:, None], sentence.global_[:, None])
            terms["global_identity"] = self._identity(self._logits(self.global_classifier, slots), labels)
            terms["global_ranking"] = self._ranking(slots, labels, generator)
        if "coarse" in self.options.terms:
            slots = (image.coarse, sentence.coarse)
            whole = (image.coarse.flatten(1)[:, None], sentence.coarse.flatten(1)[:, None])
            terms["coarse_identity"] = self._identity(self._logits(self.coarse_classifier, slots), labels)
            terms["coarse_ranking"] = self._ranking(whole, labels, generator)
        if "fine" in self.options.terms:
            terms |= self._fine(image, sentence, labels, generator)
        return terms

    def _fine(
        self, image: Embeddings, sentence: Embeddings, labels: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        pair = (image.fine, sentence.fine)
        logits = self._logits(self.fine_classifier, pair)
        similarity = losses.part_similarity(*pair)
        kappas = self._commonality(logits, similarity, labels)
        margins: tuple[Tensor | float, Tensor | float] = (self.options.base_margin,) * 2
        if kappas is not None:
            margins = (self._margin(kappas[0]), self._margin(kappas[1]))
        terms: dict[str, Tensor] = {}
        if self.options.part_identity == "even":
            terms["fine_identity"] = self._identity(logits, labels)
        elif self.options.part_identity == "together":
            pooled = (logits[0].mean(1, keepdim=True), logits[1].mean(1, keepdim=True))
            terms["fine_identity"] = self._identity(pooled, labels)
        elif self.options.part_identity == "distinctive" and kappas is not None:
            weights = (losses.distinctiveness(kappa) for kappa in kappas)
            weighted = (losses.identity_loss(side, labels, w) for side, w in zip(logits, weights, strict=True))
            terms["fine_identity"] = torch.stack(tuple(weighted)).mean()
        of_negative = self.options.margin_of == "negative"
        terms["fine_cmr"] = losses.cmr_loss(
            similarity, labels, *margins, generator, self.options.base_margin, of_negative=of_negative
        )
        return terms

    def _commonality(
        self, logits: tuple[Tensor, Tensor], similarity: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """κ of the pictures' and the sentences' parts, ``[parts, batch]`` each; None where CMR is off."""
        if self.options.commonality == "id_prob":
            return losses.id_prob_commonality(logits[0], labels), losses.id_prob_commonality(logits[1], labels)
        if self.options.commonality == "entropy":
            return losses.entropy_commonality(similarity), losses.entropy_commonality(similarity.transpose(1, 2))
        return None

    def _margin(self, kappa: Tensor) -> Tensor:
        alpha = self.options.base_margin
        if self.options.margin == "relative":
            return (alpha * losses.distinctiveness(kappa)).clamp(losses.LEAST_MARGIN, 2 * alpha)
        return losses.commonality_margin(kappa, alpha)

    def _ranking(self, pair: tuple[Tensor, Tensor], labels: Tensor, generator: torch.Generator | None) -> Tensor:
        similarity = losses.part_similarity(*pair)[0]
        return losses.ranking_loss(similarity, labels, generator, self.options.base_margin)

    @staticmethod
    def _logits(classifier: SlotLinear, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return classifier(pair[0]), classifier(pair[1])

    @staticmethod
    def _identity(logits: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return (losses.identity_loss(logits[0], labels) + losses.identity_loss(logits[1], labels)) / 2


_BACKBONES = ("image_backbone", "text_backbone", "image_encoder", "text_encoder", "decoder", "part_branch")


def parameter_groups(objective: Objective, options: TrainOptions) -> list[dict[str, object]]:
    """Adam's two groups: backbones, encoders and decoder at one rate, everything else at another.

    A frozen text backbone is in neither.
    """
    model = objective.model
    if model.config.text.frozen:
        model.text_backbone.requires_grad_(False)
    backbone: list[nn.Parameter] = []
    heads: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            slow = name.removeprefix("model.").split(".")[0] in _BACKBONES
            (backbone if slow else heads).append(parameter)
    return [
        {"params": heads, "lr": options.head_lr, "base_lr": options.head_lr},
        {"params": backbone, "lr": options.backbone_lr, "base_lr": options.backbone_lr},
    ]


def compile_blocks(model: PartModel) -> None:
    """Compile the repeated blocks of `_BACKBONES` in place: names of tensors stay, and equal blocks share code."""
    for name in _BACKBONES:
        for module in getattr(model, name, nn.Module()).modules():
            if isinstance(module, nn.ModuleList):
                for block in module:
                    block.compile(dynamic=True)  # captions differ in length
