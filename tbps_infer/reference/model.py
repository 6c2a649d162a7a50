"""The reference model: part-level cross-modal correspondence (Park et al., arXiv 2501.00318), as we read it.

What the paper states and what is this project's reading is listed in the README; every such choice is a key of
`tbps_infer.reference.config.ModelConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tbps_infer.reference.attention import DecoderLayer, EncoderLayer, l2_normalize
from tbps_infer.reference.backbones import (
    MASK_FLOOR,
    PartBranch,
    ResNetBackbone,
    TextBackbone,
    additive_mask,
    image_backbone,
)
from tbps_infer.reference.config import ModelConfig

__all__ = ["Embeddings", "PartModel", "SlotLinear"]


@dataclass(frozen=True)
class Embeddings:
    """The raw (un-normalised) embedding slots of a batch.

    Attributes:
        global_: ``[batch, d]``.
        coarse: ``[batch, N_c, d]``.
        fine: ``[batch, K, d]``.
    """

    global_: Tensor
    coarse: Tensor
    fine: Tensor

    def compose(self, fine_weight: float = 1.0) -> Tensor:
        """The composite z = [ĝ ; ĉ ; √(λ/K)·f̂_1 ; … ; √(λ/K)·f̂_K], float ``[batch, (1 + N_c + K)·d]``.

        S(i,t) = cos(g_v, g_t) + cos(concat c_v, concat c_t) + (λ/K) Σ_k cos(f_v^k, f_t^k) is the inner product
        of two such vectors.
        """
        parts = self.fine.shape[1]
        fine = l2_normalize(self.fine) * (fine_weight / parts) ** 0.5
        return torch.cat((l2_normalize(self.global_), l2_normalize(self.coarse.flatten(1)), fine.flatten(1)), dim=1)

    def float(self) -> Embeddings:
        """The same slots in FP32."""
        return Embeddings(self.global_.float(), self.coarse.float(), self.fine.float())


class SlotLinear(nn.Module):
    """One linear layer per slot: slot k of the input goes through the k-th weight."""

    def __init__(self, slots: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(slots, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(slots, outputs))

    def forward(self, slots: Tensor) -> Tensor:
        """``[batch, slots, inputs]`` to ``[batch, slots, outputs]``."""
        return (slots.transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias


class PartModel(nn.Module):
    """The dual encoder: pictures and sentences to composite embeddings, compared by one inner product."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        block = (config.dim, config.heads, config.ffn, config.dropout)
        rows, columns = config.map_size
        self.image_backbone = image_backbone(config.image, config.preprocessing.image_size)
        self.text_backbone = TextBackbone(config.text)
        self.global_image = nn.Linear(config.image.channels, config.dim)
        self.global_text = nn.Linear(config.text.hidden_size, config.dim)
        self.memory_image = nn.Linear(config.image.channels, config.dim)
        self.memory_text = nn.Linear(config.text.hidden_size, config.dim)
        self.image_position = nn.Parameter(torch.randn(1, rows * columns, config.dim) * config.token_std)
        self.image_encoder = nn.ModuleList(EncoderLayer(*block) for _ in range(config.encoder_layers))
        self.text_encoder = nn.ModuleList(EncoderLayer(*block) for _ in range(config.encoder_layers))
        self.memory_norm = nn.ModuleDict({"image": nn.LayerNorm(config.dim), "text": nn.LayerNorm(config.dim)})
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(config.dim)
        self.coarse_tokens = nn.Parameter(torch.randn(1, config.coarse_tokens, config.dim) * config.token_std)
        self.part_tokens = nn.Parameter(torch.randn(1, config.parts, config.dim) * config.token_std)
        self.coarse_head = SlotLinear(config.coarse_tokens, config.dim, config.dim)
        self.fine_image = SlotLinear(config.parts, config.part_channels, config.dim)
        self.fine_text = SlotLinear(config.parts, config.dim, config.dim)
        if config.part_stage is not None:
            backbone = cast("ResNetBackbone", self.image_backbone)  # the configuration's check
            self.part_branch = PartBranch(backbone, config.part_stage, config.part_stages, config.parts)
        mean, std = torch.tensor(config.preprocessing.mean), torch.tensor(config.preprocessing.std)
        self.register_buffer("pixel_scale", (1 / (255 * std))[:, None, None], persistent=False)
        self.register_buffer("pixel_shift", (-mean / std)[:, None, None], persistent=False)

    def repeat_stages(self) -> None:
        """Give the branch of the parts, where there is one, the backbone's weights of the stages that it repeats."""
        if self.config.part_stage is not None:
            self.part_branch.copy_from(cast("ResNetBackbone", self.image_backbone), self.config.part_stage)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """RGB crops, uint8 ``[batch, height, width, 3]``, to z, float ``[batch, dim]``."""
        return self.image_embeddings(pixels).compose(self.config.fine_weight)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, integer ``[batch, length]``, to z, float ``[batch, dim]``."""
        features = self.text_backbone(input_ids, attention_mask)
        return self.text_embeddings(features, attention_mask).compose(self.config.fine_weight)

    def image_embeddings(self, pixels: Tensor) -> Embeddings:
        """RGB crops, uint8 ``[batch, height, width, 3]``, to the raw embedding slots."""
        features, parts = self.features_and_stripes(pixels)
        memory = self.image_memory(features)
        if self.config.parts_from == "tokens":
            parts = self.decode(self.part_tokens, memory, None)[0]
        return Embeddings(
            global_=self.global_image(features.amax(dim=(2, 3))),
            coarse=self.coarse_head(self.decode(self.coarse_tokens, memory, None)[0]),
            fine=self.fine_image(parts),
        )

    def text_embeddings(self, features: Tensor, attention_mask: Tensor) -> Embeddings:
        """Token features of the text backbone ``[batch, length, hidden]`` and their mask to the raw slots.

        The text tokens attend in a call of their own: were they beside the coarse tokens, texts would run
        another decoder than images and the sharing would be broken.
        """
        memory = self.text_memory(features, attention_mask)
        mask = additive_mask(attention_mask, features)
        padded = attention_mask[:, :, None] == 0
        return Embeddings(
            global_=self.global_text(features.masked_fill(padded, MASK_FLOOR).amax(dim=1)),
            coarse=self.coarse_head(self.decode(self.coarse_tokens, memory, mask)[0]),
            fine=self.fine_text(self.decode(self.part_tokens, memory, mask)[0]),
        )

    def stripes(self, features: Tensor) -> Tensor:
        """The maximum over each of K horizontal stripes of a feature map: ``[batch, K, channels]``."""
        batch, channels, rows, columns = features.shape
        grouped = features.reshape(batch, channels, self.config.parts, rows // self.config.parts * columns)
        return grouped.amax(dim=3).transpose(1, 2)

    def image_features(self, pixels: Tensor) -> Tensor:
        """RGB crops, uint8 ``[batch, height, width, 3]``, to a map ``[batch, channels, rows, columns]``."""
        features: Tensor = self.image_backbone(self._normalised(pixels))
        return features

    def features_and_stripes(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Crops to the feature map, and to its or the branch's maxima of stripes, ``[batch, K, channels]``."""
        if self.config.part_stage is None:
            features = self.image_features(pixels)
            return features, self.stripes(features)
        backbone = cast("ResNetBackbone", self.image_backbone)
        features, early = backbone.with_early(self._normalised(pixels), self.config.part_stage)
        return features, self.part_branch(early)

    def _normalised(self, pixels: Tensor) -> Tensor:
        # The cast comes first: TensorRT takes uint8 as a network's input and nothing but a cast may follow.
        return pixels.to(self.pixel_scale.dtype).permute(0, 3, 1, 2) * self.pixel_scale + self.pixel_shift

    def image_memory(self, features: Tensor) -> Tensor:
        """A feature map to the decoder's memory ``[batch, rows·columns, d]``."""
        memory = self.memory_image(features.flatten(2).transpose(1, 2)) + self.image_position
        for layer in self.image_encoder:
            memory = layer(memory)
        normed: Tensor = self.memory_norm["image"](memory)
        return normed

    def text_memory(self, features: Tensor, attention_mask: Tensor) -> Tensor:
        """Token features to the decoder's memory ``[batch, length, d]``."""
        memory = self.memory_text(features)
        for layer in self.text_encoder:
            memory = layer(memory, additive_mask(attention_mask, features))
        normed: Tensor = self.memory_norm["text"](memory)
        return normed

    def decode(self, tokens: Tensor, memory: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the shared decoder.

        Args:
            tokens: Learnable queries ``[1, q, d]``.
            memory: ``[batch, m, d]``.
            mask: Additive, ``[batch, 1, 1, m]``; None when every memory cell is real.

        Returns:
            The decoded tokens ``[batch, q, d]`` and the last layer's cross-attention ``[batch, heads, q, m]``.
        """
        # Until it meets the memory a token is the same in every item. In training each item still draws its own
        # dropout; without dropout one row serves all, and in an exported graph that part becomes a constant.
        decoded = tokens.expand(memory.shape[0], -1, -1) if self.training else tokens
        weights = decoded
        for layer in self.decoder:
            decoded, weights = layer(decoded, memory, mask)
        return self.decoder_norm(decoded), weights
