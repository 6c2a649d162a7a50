"""PLIP (Zuo et al., arXiv 2305.11474): CLIP's ResNet with attention pooling, and BERT's pooled output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_infer.errors import CheckpointError
from tbps_infer.families.clip import PixelScale
from tbps_infer.families.family import (
    DualEncoder,
    Family,
    Plan,
    image_grid,
    prefixed,
    settle,
    sizes_json,
    text_length,
)
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.options import LoadOptions
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.attention import l2_normalize, split_heads
from tbps_infer.reference.backbones import additive_mask

__all__ = ["PLIP"]

_IMAGE, _TEXT = "ImgEncoder_state_dict.", "TxtEncoder_state_dict.encoder."
_DROPPABLE = (
    *("ImgEncoder_state_dict.classifier.", "ImgEncoder_state_dict.fc.", "TxtEncoder_state_dict.classifier."),
    f"{_TEXT}embeddings.position_ids",
)
_MEAN, _STD = (0.357, 0.323, 0.328), (0.252, 0.242, 0.239)
_POOL_HEADS = 8
_BERT_HEAD = 64
_STRIDE = 32  # pixels a cell of the last map
_MAX_LENGTH = 64


@dataclass(frozen=True)
class _ImageSizes:
    width: int
    layers: tuple[int, ...]
    grid: tuple[int, int]
    dim: int


@dataclass(frozen=True)
class _TextSizes:
    vocab: int
    positions: int
    types: int
    width: int
    layers: int
    hidden: int


class _Bottleneck(nn.Module):
    """Where it shrinks the map it averages, before a convolution of stride 1."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.downsample: nn.ModuleDict | None = None
        if stride > 1 or inputs != 4 * planes:
            shortcut = nn.Conv2d(inputs, 4 * planes, 1, bias=False)
            self.downsample = nn.ModuleDict({"0": shortcut, "1": nn.BatchNorm2d(4 * planes)})

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(maps)))
        inner = self._shrink(torch.relu(self.bn2(self.conv2(inner))))
        inner = self.bn3(self.conv3(inner))
        if self.downsample is not None:
            maps = self.downsample["1"](self.downsample["0"](self._shrink(maps)))
        return torch.relu(inner + maps)

    def _shrink(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, self.stride) if self.stride > 1 else maps


class _AttentionPool(nn.Module):
    def __init__(self, cells: int, width: int, dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(cells + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, dim)

    def forward(self, maps: Tensor) -> Tensor:
        cells = maps.flatten(2).transpose(1, 2)
        mean = cells.mean(dim=1, keepdim=True)
        tokens = torch.cat((mean, cells), dim=1) + self.positional_embedding
        keys, values = split_heads(self.k_proj(tokens), _POOL_HEADS), split_heads(self.v_proj(tokens), _POOL_HEADS)
        query = split_heads(self.q_proj(tokens[:, :1]), _POOL_HEADS) * keys.shape[-1] ** -0.5
        pooled = (query @ keys.transpose(2, 3)).softmax(dim=-1) @ values
        embedding: Tensor = self.c_proj(pooled.transpose(1, 2).flatten(1))
        return embedding


class _Resnet(nn.Module):
    def __init__(self, sizes: _ImageSizes) -> None:
        super().__init__()
        width = sizes.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(n) for n in (width // 2, width // 2, width))
        inputs = width
        for number, blocks in enumerate(sizes.layers):
            planes = width << number
            strides = (1 if number == 0 else 2, *(1 for _ in range(blocks - 1)))
            stage = []
            for stride in strides:
                stage.append(_Bottleneck(inputs, planes, stride))
                inputs = 4 * planes
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
        self.attnpool = _AttentionPool(sizes.grid[0] * sizes.grid[1], inputs, sizes.dim)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.bn1(self.conv1(images)))
        maps = torch.relu(self.bn2(self.conv2(maps)))
        maps = F.avg_pool2d(torch.relu(self.bn3(self.conv3(maps))), 2)
        for number in range(1, 5):
            maps = self.get_submodule(f"layer{number}")(maps)
        embedding: Tensor = self.attnpool(maps)
        return embedding


class _BertLayer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": _norm(width)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": _norm(width)})

    def forward(self, tokens: Tensor, mask: Tensor, wanted: int | None = None) -> Tensor:
        """Refine the first ``wanted`` tokens, all when not given, by all of them."""
        inner, out = self.attention["self"], self.attention["output"]
        assert isinstance(inner, nn.ModuleDict) and isinstance(out, nn.ModuleDict)
        heads = tokens.shape[2] // _BERT_HEAD
        kept = tokens if wanted is None else tokens[:, :wanted]
        keys, values = split_heads(inner["key"](tokens), heads), split_heads(inner["value"](tokens), heads)
        scores = split_heads(inner["query"](kept), heads) * _BERT_HEAD**-0.5 @ keys.transpose(2, 3) + mask
        attended = out["dense"]((scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2))
        kept = out["LayerNorm"](attended + kept)
        inside = F.gelu(self.intermediate["dense"](kept))
        refined: Tensor = self.output["LayerNorm"](self.output["dense"](inside) + kept)
        return refined


class _Bert(nn.Module):
    def __init__(self, sizes: _TextSizes) -> None:
        super().__init__()
        width = sizes.width
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(sizes.vocab, width),
                "position_embeddings": nn.Embedding(sizes.positions, width),
                "token_type_embeddings": nn.Embedding(sizes.types, width),
                "LayerNorm": _norm(width),
            }
        )
        layers = nn.ModuleList(_BertLayer(width, sizes.hidden) for _ in range(sizes.layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places, types = self.embeddings["position_embeddings"], self.embeddings["token_type_embeddings"]
        assert isinstance(places, nn.Embedding) and isinstance(types, nn.Embedding)
        tokens = self.embeddings["word_embeddings"](input_ids) + types.weight[0]
        tokens = self.embeddings["LayerNorm"](tokens + places.weight[: input_ids.shape[1]])
        mask = additive_mask(attention_mask, tokens)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers[:-1]:
            tokens = layer(tokens, mask)
        return torch.tanh(self.pooler["dense"](layers[-1](tokens, mask, 1)[:, 0]))


class _Plip(DualEncoder):
    def __init__(self, image: _ImageSizes, text: _TextSizes, facts: Preprocessing) -> None:
        super().__init__()
        self.pixels = PixelScale(facts)
        self.image = _Resnet(image)
        self.text = _Bert(text)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return l2_normalize(self.image(self.pixels(pixels)))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return l2_normalize(self.text(input_ids, attention_mask))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-12)


def _sizes(file: CheckpointFile, grid: tuple[int, int]) -> tuple[_ImageSizes, _TextSizes]:
    embeddings = f"{_TEXT}embeddings."
    vocab, width = file.shape(f"{embeddings}word_embeddings.weight", 2)
    image = _ImageSizes(
        width=file.shape(f"{_IMAGE}conv3.weight", 4)[0],
        layers=tuple(file.layers(f"{_IMAGE}layer{number}.") for number in range(1, 5)),
        grid=grid,
        dim=file.shape(f"{_IMAGE}attnpool.c_proj.weight", 2)[0],
    )
    text = _TextSizes(
        vocab=vocab,
        positions=file.shape(f"{embeddings}position_embeddings.weight", 2)[0],
        types=file.shape(f"{embeddings}token_type_embeddings.weight", 2)[0],
        width=width,
        layers=file.layers(f"{_TEXT}encoder.layer."),
        hidden=file.shape(f"{_TEXT}encoder.layer.0.intermediate.dense.weight", 2)[0],
    )
    if width % _BERT_HEAD or image.dim != width:
        raise CheckpointError(
            f"{file.path} embeds pictures in {image.dim} numbers and sentences in {width}, want the same number, "
            f"a multiple of {_BERT_HEAD}."
        )
    return image, text


def _plan(file: CheckpointFile, options: LoadOptions) -> Plan:
    positions = file.shape(f"{_IMAGE}attnpool.positional_embedding", 2)[0]
    assumed: dict[str, Any] = {}
    said = options.image_size or file.settings.size("img_size")
    size, grid = image_grid(file, positions, said, (_STRIDE, _STRIDE), aspects=(2, 1))
    settle(assumed, "image_size", said, default=f"{size[0]}x{size[1]}")
    image, text = _sizes(file, grid)
    facts = Preprocessing(size, "bicubic", mean=_MEAN, std=_STD)
    network = _Plip(image, text, facts)
    length = text_length(file, "text_length", text.positions, options, assumed)
    if "max_length" in assumed:
        length = assumed["max_length"] = min(_MAX_LENGTH, text.positions)
    return Plan(
        network=network,
        table=prefixed(network, {"image": _IMAGE, "text": _TEXT}),
        droppable=_DROPPABLE,
        config=sizes_json(image, text),
        preprocessing=facts,
        caption_rule="none",
        max_length=length,
        layout=VectorLayout((Segment("global", image.dim),)),
        tokenizer="bert",
        vocab=text.vocab,
        assumed=assumed,
    )


PLIP = Family(
    "plip",
    (f"{_IMAGE}attnpool.c_proj.weight", f"{_TEXT}pooler.dense.weight"),
    _plan,
    ("config", "image_size", "max_length", "vocab", "tokenizer", "drop"),
)
