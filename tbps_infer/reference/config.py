"""The reference model's configuration: every choice that the paper leaves open is a key here.

Nothing in this module needs torch, so a bundle's configuration can be read on the edge device.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tbps_infer.errors import CheckpointError
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import Preprocessing, json_values

__all__ = ["ModelConfig", "ResNetConfig", "TextConfig", "ViTConfig", "base_config", "tiny_config", "with_local_parts"]


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet whose last stage keeps its stride at 1 (the default is ResNet-50)."""

    kind: Literal["resnet"] = "resnet"
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.hidden_sizes[-1]

    @property
    def stride(self) -> int:
        """Pixels of the crop per cell of the feature map: 4 in the stem, 2 per stage between first and last."""
        return 4 << max(len(self.hidden_sizes) - 2, 0)


@dataclass(frozen=True)
class ViTConfig:
    """A plain vision transformer (the default is ViT-B/16)."""

    kind: Literal["vit"] = "vit"
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    mlp_size: int = 3072
    patch: int = 16

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.hidden_size

    @property
    def stride(self) -> int:
        """Pixels of the crop per cell of the feature map."""
        return self.patch


@dataclass(frozen=True)
class TextConfig:
    """A BERT encoder (the default is BERT-base-uncased)."""

    vocab_size: int = 30522
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    mlp_size: int = 3072
    max_positions: int = 512
    max_length: int = 100
    dropout: float = 0.1
    frozen: bool = True


_CHOICES = {
    "token_attention": ("before", "after", "none"),
    "attention_over": ("memory", "tokens"),
    "parts_from": ("stripes", "tokens"),
}
_LATER = frozenset({*_CHOICES, "sharpness", "part_stage", "part_stages", "fine_weight"})


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the reference model's shapes and preprocessing.

    Attributes:
        image: The image backbone.
        text: The text backbone; ``max_length`` counts [CLS] and [SEP].
        preprocessing: How a picture becomes the network's input.
        dim: Size of every embedding slot, d.
        heads: Attention heads of encoders and decoder.
        ffn: Hidden width of their feed-forward blocks.
        dropout: Dropout rate in encoders and decoder, used in training only.
        encoder_layers: Self-attention layers per modality.
        decoder_layers: Layers of the one shared decoder.
        coarse_tokens: N_c, the learnable tokens shared by both modalities.
        parts: K, the horizontal stripes of the image and, paired with them, the text tokens.
        token_std: Standard deviation of the tokens' initial values.
        token_attention: When in a decoder layer the tokens attend to each other: before the memory, after it or not.
        attention_over: What the cross-attention's softmax runs over: each token's weights over the memory, or each
            memory cell's over the tokens, normalised over the memory afterwards (slot attention).
        sharpness: Factor on the cross-attention's scores; above 1, tokens read few cells from the start.
        parts_from: What a picture's parts are: horizontal stripes, or what the text tokens read of its memory.
        part_stage: The ResNet stage (0: the stem) after which the stripes have a branch of their own, each one alone;
            None takes them from the last map.
        part_stages: How many of the stages that follow are repeated in that branch.
        fine_weight: λ, what the mean of the parts' cosines counts beside the other two.
    """

    image: ResNetConfig | ViTConfig = field(default_factory=ResNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    dim: int = 512
    heads: int = 8
    ffn: int = 2048
    dropout: float = 0.1
    encoder_layers: int = 1
    decoder_layers: int = 1
    coarse_tokens: int = 6
    parts: int = 6
    token_std: float = 0.02
    token_attention: Literal["before", "after", "none"] = "before"
    attention_over: Literal["memory", "tokens"] = "memory"
    sharpness: float = 1.0
    parts_from: Literal["stripes", "tokens"] = "stripes"
    part_stage: int | None = None
    part_stages: int = 1
    fine_weight: float = 1.0

    def __post_init__(self) -> None:
        height, width = self.preprocessing.image_size
        if height % self.image.stride or width % self.image.stride:
            raise CheckpointError(
                f"The image size {height}x{width} is not a multiple of the backbone's stride {self.image.stride}.",
                "Choose an image_size whose height and width are multiples of it.",
            )
        if (height // self.image.stride) % self.parts:
            raise CheckpointError(
                f"The feature map has {height // self.image.stride} rows, which {self.parts} stripes do not divide.",
                "Choose an image height or a number of parts so that every stripe has the same number of rows.",
            )
        if self.text.max_length > self.text.max_positions:
            raise CheckpointError(
                f"text.max_length is {self.text.max_length}, and there are {self.text.max_positions} positions.",
                "Choose a max_length of at most max_positions.",
            )
        if self.dim % self.heads:
            raise CheckpointError(f"dim {self.dim} is not a multiple of heads {self.heads}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise CheckpointError(f"{name} is {getattr(self, name)!r}, want {' or '.join(known)}.")
        if self.part_stage is not None:
            self._check_part_branch(self.part_stage)

    def _check_part_branch(self, stage: int) -> None:
        if not isinstance(self.image, ResNetConfig) or self.parts_from != "stripes":
            raise CheckpointError("part_stage needs a ResNet and parts_from stripes.", "Leave part_stage out.")
        stages = len(self.image.hidden_sizes)
        if not 0 <= stage < stages or not 1 <= self.part_stages <= stages - stage:
            raise CheckpointError(
                f"The branch of the parts repeats {self.part_stages} stages after stage {stage}, of {stages} in all.",
                "Choose a smaller part_stage or part_stages.",
            )

    @property
    def map_size(self) -> tuple[int, int]:
        """(rows, columns) of the image feature map."""
        height, width = self.preprocessing.image_size
        return height // self.image.stride, width // self.image.stride

    @property
    def part_channels(self) -> int:
        """Channels of the map that stripes are pooled from, or of what image tokens read."""
        if self.parts_from == "tokens":
            return self.dim
        if self.part_stage is None or not isinstance(self.image, ResNetConfig):
            return self.image.channels
        return self.image.hidden_sizes[self.part_stage + self.part_stages - 1]

    @property
    def layout(self) -> VectorLayout:
        """The composite z = [ĝ ; ĉ ; √(λ/K)·f̂_1 ; …]: one inner product is the weighted sum of the three cosines."""
        parts = tuple(Segment(f"fine.{k}", self.dim, self.fine_weight / self.parts) for k in range(self.parts))
        coarse = Segment("coarse", self.dim * self.coarse_tokens)
        return VectorLayout((Segment("global", self.dim), coarse, *parts))

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values.

        Keys that came later are left out at their defaults: the fingerprint of a model that is older stays the same.
        """
        values = json_values(dataclasses.asdict(self))
        later = {key.name: key.default for key in dataclasses.fields(self) if key.name in _LATER}
        return {name: value for name, value in values.items() if name not in later or value != later[name]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """Read what `to_json` wrote; missing keys take their defaults, unknown ones are an error.

        Raises:
            CheckpointError: A key is unknown or a value does not fit.
        """
        try:
            fields = dict(values)
            image = dict(fields.pop("image", {}))
            kind = image.get("kind", "resnet")
            if kind not in ("resnet", "vit"):
                raise ValueError(f'image.kind is {kind!r}, want "resnet" or "vit"')
            if kind == "resnet":
                for key in ("hidden_sizes", "depths"):
                    if key in image:
                        image[key] = tuple(int(n) for n in image[key])
            backbone = ViTConfig(**image) if kind == "vit" else ResNetConfig(**image)
            text = TextConfig(**fields.pop("text", {}))
            preprocessing = Preprocessing.from_json(fields.pop("preprocessing", {}))
            return cls(image=backbone, text=text, preprocessing=preprocessing, **fields)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"The model configuration is not valid: {error}.",
                "Compare it with the keys of tbps_infer.reference.config.ModelConfig.",
            ) from error


def with_local_parts(config: ModelConfig) -> ModelConfig:
    """A configuration with stripes, tokens and weights as chosen by measurement (docs/training.md).

    `ModelConfig`'s own defaults are those of the first checkpoints, whose configurations do not name these keys.
    """
    branch = isinstance(config.image, ResNetConfig)
    return replace(
        config,
        token_attention="none",
        sharpness=4.0,
        part_stage=1 if branch else None,
        part_stages=2 if branch else 1,
        fine_weight=0.5,
    )


def base_config() -> ModelConfig:
    """ResNet-50 and BERT-base at 384x128: the paper's backbones with this project's defaults."""
    return ModelConfig()


def tiny_config(vocab_size: int) -> ModelConfig:
    """A small configuration of the same architecture, for the demo and the tests."""
    small = ModelConfig(
        image=ResNetConfig(embedding_size=32, hidden_sizes=(32, 64, 128), depths=(2, 2, 2), layer_type="basic"),
        text=TextConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            layers=2,
            heads=4,
            mlp_size=256,
            max_positions=128,
            max_length=100,
            dropout=0.0,
            frozen=False,
        ),
        preprocessing=Preprocessing(image_size=(96, 32)),
        dim=64,
        heads=4,
        ffn=256,
    )
    return with_local_parts(small)
