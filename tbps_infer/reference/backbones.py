"""Image and text backbones from `transformers`, reduced to what the reference model reads from them."""

from __future__ import annotations

import copy

import transformers
from torch import Tensor, nn

from tbps_infer.reference.config import ResNetConfig, TextConfig, ViTConfig

__all__ = [
    "MASK_FLOOR",
    "PartBranch",
    "ResNetBackbone",
    "TextBackbone",
    "ViTBackbone",
    "additive_mask",
    "bert_config",
    "image_backbone",
]

MASK_FLOOR = -3e4
"""Added to masked attention scores: far below any score, and still a number in FP16 (whose least is -65504)."""


class ResNetBackbone(nn.Module):
    """A ResNet without its classifier, its last stage at stride 1 so that the map keeps 24 rows for 384 pixels."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        model = transformers.ResNetModel(
            transformers.ResNetConfig(
                embedding_size=config.embedding_size,
                hidden_sizes=list(config.hidden_sizes),
                depths=list(config.depths),
                layer_type=config.layer_type,
            )
        )
        self.embedder = model.embedder
        self.encoder = model.encoder
        if len(config.hidden_sizes) > 1:
            for module in self.encoder.stages[-1].modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float ``[batch, 3, height, width]`` to a map ``[batch, channels, rows, columns]``."""
        return self.with_early(images, 0)[0]

    def with_early(self, images: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """The map, and beside it the one after an earlier stage; stage 0 is the stem."""
        features: Tensor = self.embedder(images)
        maps = [features]
        for layer in self.encoder.stages:
            maps.append(layer(maps[-1]))
        return maps[-1], maps[stage]


class PartBranch(nn.Module):
    """Later stages of a ResNet once more, with weights and statistics of their own, on each stripe alone.

    Convolutions do not cross the stripes' borders, so a part sees its stripe and what the shared early stages saw
    around it.
    """

    def __init__(self, backbone: ResNetBackbone, first: int, stages: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.stages = nn.ModuleList(copy.deepcopy(backbone.encoder.stages[first + k]) for k in range(stages))

    def copy_from(self, backbone: ResNetBackbone, first: int) -> None:
        """Take over the weights and statistics of a backbone's stages."""
        for number, stage in enumerate(self.stages):
            stage.load_state_dict(backbone.encoder.stages[first + number].state_dict())

    def forward(self, early: Tensor) -> Tensor:
        """An early map ``[batch, c, rows, columns]`` to the stripes' maxima ``[batch, K, channels]``."""
        batch, channels, rows, columns = early.shape
        strips = early.reshape(batch, channels, self.parts, rows // self.parts, columns).transpose(1, 2)
        features = strips.reshape(-1, channels, rows // self.parts, columns)
        for stage in self.stages:
            features = stage(features)
        return features.amax(dim=(2, 3)).reshape(-1, self.parts, features.shape[1])


class ViTBackbone(nn.Module):
    """A vision transformer whose patch tokens, after the last LayerNorm, are laid out as a map; CLS is dropped."""

    def __init__(self, config: ViTConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.map_size = (image_size[0] // config.patch, image_size[1] // config.patch)
        self.model = transformers.ViTModel(
            transformers.ViTConfig(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_size,
                patch_size=config.patch,
                image_size=image_size,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.model.set_attn_implementation("eager")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float ``[batch, 3, height, width]`` to a map ``[batch, channels, rows, columns]``."""
        tokens: Tensor = self.model(images).last_hidden_state[:, 1:]
        return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *self.map_size)


class TextBackbone(nn.Module):
    """BERT without its pooler, run with this project's own additive mask."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        model = transformers.BertModel(bert_config(config), add_pooling_layer=False)
        # Eager attention exports to plain MatMul and Softmax, which TensorRT fuses; its own mask of -3.4e38
        # would become -inf in FP16, so the mask is made here and only the layers are used.
        model.set_attn_implementation("eager")
        self.embeddings = model.embeddings
        self.encoder = model.encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask ``[batch, length]`` to token features ``[batch, length, hidden]``."""
        words = self.embeddings.word_embeddings(input_ids)
        # A caption is one segment, so type 0 and the positions add up to one constant table in an exported graph.
        table = self.embeddings.position_embeddings.weight + self.embeddings.token_type_embeddings.weight[0]
        normed = self.embeddings.LayerNorm(words + table[: input_ids.shape[1]])
        hidden: Tensor = self.embeddings.dropout(normed)
        mask = additive_mask(attention_mask, hidden)
        for layer in self.encoder.layer:
            output = layer(hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden


def bert_config(config: TextConfig) -> transformers.BertConfig:
    """The text backbone's sizes, as transformers takes them."""
    return transformers.BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_size,
        max_position_embeddings=config.max_positions,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
    )


def additive_mask(attention_mask: Tensor, like: Tensor) -> Tensor:
    """0 where a token is real and `MASK_FLOOR` where it is padding: ``[batch, 1, 1, length]``."""
    return (1 - attention_mask[:, None, None, :].to(like.dtype)) * MASK_FLOOR


def image_backbone(config: ResNetConfig | ViTConfig, image_size: tuple[int, int]) -> ResNetBackbone | ViTBackbone:
    """The image backbone of a configuration, with random weights."""
    if isinstance(config, ViTConfig):
        return ViTBackbone(config, image_size)
    return ResNetBackbone(config)
