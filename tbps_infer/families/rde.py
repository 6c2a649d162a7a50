"""RDE (Qin et al., arXiv 2308.09911) and ITSELF (WACV 2026): the IRRA format with a second embedding.

It is made of the most attended tokens. The similarity is a weighted mean of two cosines, here one inner product. The
published evaluations run each backbone once per embedding; one run gives both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_infer.errors import CheckpointError, UsageError
from tbps_infer.families.clip import ClipImage, ClipText, PixelScale, end_positions
from tbps_infer.families.family import DualEncoder, Family, Plan, prefixed, settle, sizes_json
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.irra import DROPPABLE, OPTIONS, IrraSizes, irra_sizes
from tbps_infer.families.options import LoadOptions
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.reference.attention import l2_normalize
from tbps_infer.reference.backbones import MASK_FLOOR

__all__ = ["ITSELF", "RDE"]

_NEVER = -1.0  # below every attention weight
# Made by the published code and not used by it.
_UNUSED = ("visul_emb_layer.linear.", "visul_emb_layer.mlp.bns.1.", "texual_emb_layer.mlp.bns.1.")
# ITSELF's identity losses.
_HEADS = (
    "classifier_global.",
    "classifier_id_global.",
    "mlp_global.",
    "classifier_grab.",
    "classifier_id_grab.",
    "mlp_grab.",
)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(width, hidden), nn.Linear(hidden, dim)))
        self.bns = nn.ModuleList((nn.BatchNorm1d(hidden),))

    def forward(self, tokens: Tensor) -> Tensor:
        inner = self.layers[0](tokens)
        norm = self.bns[0]
        assert isinstance(norm, nn.BatchNorm1d) and norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        refined: Tensor = self.layers[1](torch.relu((inner - norm.running_mean) * gain + norm.bias))
        return refined


class _Head(nn.Module):
    """Selected tokens ``[batch, k, width]``, each to ``dim`` numbers, the largest of each number kept."""

    def __init__(self, width: int, hidden: int, dim: int, linear: str) -> None:
        super().__init__()
        self.linear_name = linear
        self.add_module(linear, nn.Linear(width, dim))
        self.mlp = _Mlp(width, hidden, dim)

    def forward(self, tokens: Tensor, absent: Tensor | None = None) -> Tensor:
        normed = l2_normalize(tokens)
        scores = self.get_submodule(self.linear_name)(normed) + self.mlp(normed)
        pooled: Tensor = (scores if absent is None else scores.masked_fill(absent, MASK_FLOOR)).amax(dim=1)
        return pooled


class _Rde(DualEncoder):
    places: Tensor

    def __init__(self, sizes: IrraSizes, head: tuple[int, int], ratio: float, weight: float) -> None:
        super().__init__()
        self.shares = weight**0.5, (1 - weight) ** 0.5
        self.pixels = PixelScale(sizes.preprocessing)
        self.image = ClipImage(sizes.image)
        self.text = ClipText(sizes.text)
        self.image_head = _Head(sizes.image.dim, *head, "fc")
        self.text_head = _Head(sizes.text.dim, *head, "linear")
        # Of all positions the network has, also where a batch is shorter: the count is part of the model.
        self.image_tokens = int(sizes.image.grid[0] * sizes.image.grid[1] * ratio)
        self.text_tokens = int((sizes.text.positions - 2) * ratio)
        self.register_buffer("places", torch.arange(sizes.text.positions), persistent=False)

    def encode_image(self, pixels: Tensor) -> Tensor:
        tokens = self.image.tokens(self.pixels(pixels))
        last = self.image.transformer.last
        first = torch.zeros_like(tokens[:, :1, 0], dtype=torch.int64)
        attention = last.attention_of(tokens, first)[:, 0, 1:]
        chosen = attention.topk(self.image_tokens, dim=1).indices + 1
        # Neither embedding needs the tokens that were not chosen: the last layer is computed for these alone.
        projected = self.image.project(last(tokens, None, torch.cat((first, chosen), dim=1)))
        return self._join(projected[:, 0], self.image_head(projected[:, 1:]))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens, mask = self.text.tokens(input_ids)
        last = self.text.transformer.last
        ends = end_positions(input_ids, attention_mask, self.text.end_id)
        attention = last.attention_of(tokens, ends, mask[ends][:, None])[:, 0]
        places = self.places[: input_ids.shape[1]]
        # Id 0 is both padding and the exclamation mark, and the published code takes neither.
        eligible = (places > 0) & (places < ends) & (input_ids != 0)
        # Filled up, so that a batch shorter than the count has as many.
        scores = F.pad(torch.where(eligible, attention, _NEVER), (0, self.text_tokens), value=_NEVER)
        best = scores.topk(self.text_tokens, dim=1)
        absent = best.values < 0
        rows = torch.cat((ends, best.indices.masked_fill(absent, 0)), dim=1)
        projected = self.text.project(last(tokens, mask[rows][:, None], rows))
        return self._join(projected[:, 0], self.text_head(projected[:, 1:], absent[:, :, None]))

    def _join(self, whole: Tensor, selected: Tensor) -> Tensor:
        """w·cos a + (1 - w)·cos b is the inner product of two vectors [√w·â ; √(1 - w)·b̂]."""
        first, second = self.shares
        return torch.cat((l2_normalize(whole) * first, l2_normalize(selected) * second), dim=1)


@dataclass(frozen=True)
class _Kind:
    """What tells the families of this layout apart.

    Attributes:
        ratio: The share of tokens chosen where nobody says it.
        segment: What the second embedding is called.
    """

    ratio: float
    segment: str


def _plan(kind: _Kind, file: CheckpointFile, options: LoadOptions) -> Plan:
    sizes = irra_sizes(file, options)
    assumed = sizes.assumed
    hidden, _ = file.shape("visul_emb_layer.mlp.layers.0.weight", 2)
    dim, _ = file.shape("visul_emb_layer.fc.weight", 2)
    said = options.select_ratio, file.settings.number("select_ratio")
    ratio = settle(assumed, "select_ratio", *said, default=kind.ratio)
    weight = 0.5
    if kind is _ITSELF:  # RDE's similarity is the mean
        weight = settle(assumed, "global_weight", options.global_weight, default=weight)
        if not 0 < weight < 1:
            raise UsageError(f"--global-weight is {weight}, want a share between 0 and 1.")
    network = _Rde(sizes, (hidden, dim), ratio, weight)
    cells = sizes.image.grid[0] * sizes.image.grid[1]
    if not 0 < network.image_tokens <= cells or not 0 < network.text_tokens <= sizes.text.positions:
        raise CheckpointError(
            f"{file.settings.source or file.path}: a select_ratio of {ratio} chooses "
            f"{network.image_tokens} of {cells} patches and {network.text_tokens} of {sizes.text.positions} tokens.",
            "Use the settings that the checkpoint was trained with.",
        )
    prefixes = {
        "image": "base_model.visual.",
        "text": "base_model.",
        "image_head": "visul_emb_layer.",
        "text_head": "texual_emb_layer.",
    }
    counts = {"image_tokens": network.image_tokens, "text_tokens": network.text_tokens}
    return Plan(
        network=network,
        table=prefixed(network, prefixes),
        droppable=(*DROPPABLE, *_UNUSED, *_HEADS),
        config={**sizes_json(sizes.image, sizes.text), **counts},
        preprocessing=sizes.preprocessing,
        caption_rule="clip",
        max_length=sizes.max_length,
        layout=VectorLayout((Segment("global", sizes.image.dim, weight), Segment(kind.segment, dim, 1 - weight))),
        tokenizer="clip",
        vocab=sizes.text.vocab,
        assumed=assumed,
    )


_RDE, _ITSELF = _Kind(0.3, "tse"), _Kind(0.4, "grab")
_MARKERS = ("base_model.visual.class_embedding", "visul_emb_layer.fc.weight")

RDE = Family("rde", _MARKERS, partial(_plan, _RDE), (*OPTIONS, "select_ratio"))

ITSELF = Family(
    "itself",
    _MARKERS,
    partial(_plan, _ITSELF),
    (*OPTIONS, "select_ratio", "global_weight"),
    rows={"visul_emb_layer.fc.weight": 4096},
)
"""Stands before RDE in the table: the length of its second embedding tells them apart."""
