"""CLIP's two transformers (Radford et al., arXiv 2103.00020), their parameters named as in its published files.

Written for retrieval: the last layer is computed for the tokens alone that an embedding is made of, which changes no
number of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_infer.families.files import CheckpointFile
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.attention import split_heads
from tbps_infer.reference.backbones import MASK_FLOOR

__all__ = [
    "Block",
    "ClipImage",
    "ClipText",
    "ImageSizes",
    "PixelScale",
    "Style",
    "TextSizes",
    "end_positions",
    "image_sizes",
    "rows_of",
    "text_sizes",
]


@dataclass(frozen=True)
class Style:
    """What no tensor of a transformer tells; OpenAI's are like this at every size.

    Attributes:
        head: Width of an attention head.
        activation: Of the MLP.
        eps: Of every LayerNorm.
    """

    head: int = 64
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    eps: float = 1e-5


@dataclass(frozen=True)
class ImageSizes:
    """The numbers that define an image transformer, all but the stride and grid readable from its tensors.

    Attributes:
        patch: Pixels along a patch's side; ``stride`` pixels from one patch to the next.
        grid: (rows, columns) of patches.
        hidden: Width inside the MLP.
        dim: Length of the embedding.
    """

    width: int
    layers: int
    patch: int
    stride: int
    grid: tuple[int, int]
    hidden: int
    dim: int
    style: Style = Style()


@dataclass(frozen=True)
class TextSizes:
    """The numbers that define a text transformer.

    Attributes:
        positions: Its greatest number of tokens.
        end: The id of the token that ends a caption; the last of the vocabulary when not given.
    """

    vocab: int
    positions: int
    width: int
    layers: int
    hidden: int
    dim: int
    style: Style = Style()
    end: int | None = None


def image_sizes(file: CheckpointFile, prefix: str, stride: int | None, grid: tuple[int, int]) -> ImageSizes:
    """Read an image transformer's sizes from its tensors. Raises CheckpointError when one is missing."""
    width, _, patch, _ = file.shape(f"{prefix}conv1.weight", 4)
    return ImageSizes(
        width=width,
        layers=file.layers(f"{prefix}transformer.resblocks."),
        patch=patch,
        stride=stride or patch,
        grid=grid,
        hidden=file.shape(f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        dim=file.shape(f"{prefix}proj", 2)[1],
    )


def text_sizes(file: CheckpointFile, prefix: str) -> TextSizes:
    """Read a text transformer's sizes from its tensors. Raises CheckpointError when one is missing."""
    vocab, width = file.shape(f"{prefix}token_embedding.weight", 2)
    return TextSizes(
        vocab=vocab,
        positions=file.shape(f"{prefix}positional_embedding", 2)[0],
        width=width,
        layers=file.layers(f"{prefix}transformer.resblocks."),
        hidden=file.shape(f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        dim=file.shape(f"{prefix}text_projection", 2)[1],
    )


class PixelScale(nn.Module):
    """uint8 ``[batch, height, width, 3]`` to normalised float32 ``[batch, 3, height, width]``."""

    scale: Tensor
    shift: Tensor

    def __init__(self, facts: Preprocessing) -> None:
        super().__init__()
        mean, std = torch.tensor(facts.mean), torch.tensor(facts.std)
        self.register_buffer("scale", (1 / (255 * std))[:, None, None], persistent=False)
        self.register_buffer("shift", (-mean / std)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """The cast comes first: TensorRT takes uint8 as a network's input and nothing but a cast may follow."""
        scaled: Tensor = pixels.to(self.scale.dtype).permute(0, 3, 1, 2) * self.scale + self.shift
        return scaled


class _Attention(nn.Module):
    """Multi-head attention with query, key and value stacked in one weight, as torch's own has them."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.width = width
        self.head = head
        self.heads = width // head
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def query(self, tokens: Tensor) -> Tensor:
        projected = F.linear(tokens, self.in_proj_weight[: self.width], self.in_proj_bias[: self.width])
        scale: float = self.head**-0.5
        return split_heads(projected, self.heads) * scale

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        projected = F.linear(tokens, self.in_proj_weight[self.width :], self.in_proj_bias[self.width :])
        keys, values = projected.chunk(2, dim=-1)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def join(self, weights: Tensor, values: Tensor) -> Tensor:
        merged: Tensor = self.out_proj((weights @ values).transpose(1, 2).flatten(2))
        return merged


class Block(nn.Module):
    """Self-attention and an MLP, each on normalised input and added back."""

    def __init__(self, width: int, hidden: int, style: Style) -> None:
        super().__init__()
        self.activation = style.activation
        self.attn = _Attention(width, style.head)
        self.ln_1 = nn.LayerNorm(width, style.eps)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, hidden), "c_proj": nn.Linear(hidden, width)})
        self.ln_2 = nn.LayerNorm(width, style.eps)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Refine tokens, or some of them.

        Args:
            tokens: ``[batch, length, width]``.
            mask: Added to the scores, broadcast to ``[batch, heads, queries, length]``.
            rows: Integer ``[batch, n]``, the tokens wanted; all when not given. ``mask`` has these rows alone then.
        """
        normed = self.ln_1(tokens)
        keys, values = self.attn.keys_values(normed)
        asked = normed if rows is None else rows_of(normed, rows)
        weights = _softmax(self.attn.query(asked) @ keys.transpose(2, 3), mask)
        kept = tokens if rows is None else rows_of(tokens, rows)
        return self._refine(kept + self.attn.join(weights, values))

    def first(self, tokens: Tensor) -> Tensor:
        """The refined first token alone, ``[batch, 1, width]``."""
        normed = self.ln_1(tokens)
        keys, values = self.attn.keys_values(normed)
        weights = (self.attn.query(normed[:, :1]) @ keys.transpose(2, 3)).softmax(dim=-1)
        return self._refine(tokens[:, :1] + self.attn.join(weights, values))

    def attention_of(self, tokens: Tensor, rows: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much the tokens ``rows [batch, n]`` attend to each, the mean of the heads: ``[batch, n, length]``."""
        normed = self.ln_1(tokens)
        keys, _ = self.attn.keys_values(normed)
        return _softmax(self.attn.query(rows_of(normed, rows)) @ keys.transpose(2, 3), mask).mean(dim=1)

    def _refine(self, tokens: Tensor) -> Tensor:
        inner = self.mlp["c_fc"](self.ln_2(tokens))
        active = inner * torch.sigmoid(1.702 * inner) if self.activation == "quick_gelu" else F.gelu(inner)
        refined: Tensor = tokens + self.mlp["c_proj"](active)
        return refined


class _Transformer(nn.Module):
    def __init__(self, sizes: ImageSizes | TextSizes) -> None:
        super().__init__()
        blocks = (Block(sizes.width, sizes.hidden, sizes.style) for _ in range(sizes.layers))
        self.resblocks = nn.ModuleList(blocks)

    def all_but_last(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks[:-1]:
            tokens = block(tokens, mask)
        return tokens

    @property
    def last(self) -> Block:
        block = self.resblocks[-1]
        assert isinstance(block, Block)
        return block


class ClipImage(nn.Module):
    """The image transformer."""

    def __init__(self, sizes: ImageSizes) -> None:
        super().__init__()
        positions = sizes.grid[0] * sizes.grid[1] + 1
        self.conv1 = nn.Conv2d(3, sizes.width, sizes.patch, sizes.stride, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(sizes.width))
        self.positional_embedding = nn.Parameter(torch.empty(positions, sizes.width))
        self.ln_pre = nn.LayerNorm(sizes.width, sizes.style.eps)
        self.transformer = _Transformer(sizes)
        self.ln_post = nn.LayerNorm(sizes.width, sizes.style.eps)
        self.proj = nn.Parameter(torch.empty(sizes.width, sizes.dim))

    def tokens(self, images: Tensor) -> Tensor:
        """Normalised ``[batch, 3, height, width]`` to the last layer's input ``[batch, positions, width]``."""
        patches = self.conv1(images).flatten(2).transpose(1, 2) + self.positional_embedding[1:]
        first = (self.class_embedding + self.positional_embedding[0]).expand(patches.shape[0], 1, -1)
        return self.transformer.all_but_last(self.ln_pre(torch.cat((first, patches), dim=1)))

    def project(self, tokens: Tensor) -> Tensor:
        """The last layer's output to embeddings, ``[..., dim]``."""
        projected: Tensor = self.ln_post(tokens) @ self.proj
        return projected

    def forward(self, images: Tensor) -> Tensor:
        """Normalised ``[batch, 3, height, width]`` to ``[batch, dim]``, not L2-normalised."""
        return self.project(self.transformer.last.first(self.tokens(images)))[:, 0]


class ClipText(nn.Module):
    """The text transformer: causal, so that what follows a caption's end changes nothing before it."""

    causal: Tensor

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.end_id = sizes.vocab - 1 if sizes.end is None else sizes.end
        self.token_embedding = nn.Embedding(sizes.vocab, sizes.width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.positions, sizes.width))
        self.transformer = _Transformer(sizes)
        self.ln_final = nn.LayerNorm(sizes.width, sizes.style.eps)
        self.text_projection = nn.Parameter(torch.empty(sizes.width, sizes.dim))
        later = torch.ones(sizes.positions, sizes.positions).triu(1)
        self.register_buffer("causal", later * MASK_FLOOR, persistent=False)

    def tokens(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids ``[batch, length]`` to the last layer's input ``[batch, length, width]`` and the mask of its scores."""
        length = input_ids.shape[1]
        mask = self.causal[:length, :length]
        embedded = self.token_embedding(input_ids) + self.positional_embedding[:length]
        return self.transformer.all_but_last(embedded, mask), mask

    def project(self, tokens: Tensor) -> Tensor:
        """The last layer's output to embeddings, ``[..., dim]``."""
        projected: Tensor = self.ln_final(tokens) @ self.text_projection
        return projected

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask, integer ``[batch, length]``, to ``[batch, dim]``, not L2-normalised."""
        tokens, mask = self.tokens(input_ids)
        ends = end_positions(input_ids, attention_mask, self.end_id)
        return self.project(self.transformer.last(tokens, mask[ends][:, None], ends))[:, 0]


def end_positions(input_ids: Tensor, attention_mask: Tensor, end_id: int) -> Tensor:
    """Where each caption ends: int64 ``[batch, 1]``, found among integers, since 49407 is no FP16 number."""
    ends = (input_ids == end_id).to(torch.int32) * attention_mask
    return ends.argmax(dim=1, keepdim=True)


def rows_of(tokens: Tensor, rows: Tensor) -> Tensor:
    """The tokens ``[batch, n, width]`` at the positions ``[batch, n]``."""
    return tokens.gather(1, rows[:, :, None].expand(-1, -1, tokens.shape[2]))


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    return (scores if mask is None else scores + mask).softmax(dim=-1)
