"""Writes checkpoints of every published family, in its exact key layout, with random weights of any size."""

from __future__ import annotations

import gzip
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Of a CLIP: heads are 64 wide."""

    image_width: int = 64
    image_layers: int = 2
    patch: int = 16
    cells: int = 12
    text_width: int = 64
    text_layers: int = 2
    positions: int = 20
    dim: int = 32
    vocab: int = 512 + 60 + 3
    head: tuple[int, int] = (24, 48)


FULL = Sizes(768, 12, 16, 192, 512, 12, 77, 512, 49408, (512, 1024))


class Draw:
    """Random tensors by name: gains around one, all else small."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: Tensors = {}

    def add(self, name: str, *shape: int, std: float | None = None, mean: float = 0.0) -> None:
        scale = std if std is not None else shape[-1] ** -0.5
        self.tensors[name] = torch.randn(*shape, generator=self.generator) * scale + mean

    def norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width, std=0.2, mean=1.0)
        self.add(f"{name}.bias", width, std=0.1)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self.add(f"{name}.weight", outputs, inputs)
        self.add(f"{name}.bias", outputs, std=0.1)

    def batch_norm(self, name: str, width: int) -> None:
        self.norm(name, width)
        self.add(f"{name}.running_mean", width, std=0.2)
        self.tensors[f"{name}.running_var"] = torch.rand(width, generator=self.generator) + 0.5
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def transformer(self, prefix: str, width: int, layers: int) -> None:
        for number in range(layers):
            block = f"{prefix}transformer.resblocks.{number}."
            self.add(f"{block}attn.in_proj_weight", 3 * width, width, std=2 * width**-0.5)
            self.add(f"{block}attn.in_proj_bias", 3 * width, std=0.1)
            self.linear(f"{block}attn.out_proj", width, width)
            self.norm(f"{block}ln_1", width)
            self.linear(f"{block}mlp.c_fc", width, 4 * width)
            self.linear(f"{block}mlp.c_proj", 4 * width, width)
            self.norm(f"{block}ln_2", width)


def clip_tensors(draw: Draw, sizes: Sizes, visual: str, text: str) -> None:
    """The two towers of a CLIP below two prefixes."""
    width = sizes.image_width
    draw.add(f"{visual}class_embedding", width, std=0.5)
    draw.add(f"{visual}positional_embedding", sizes.cells + 1, width, std=0.5)
    draw.add(f"{visual}conv1.weight", width, 3, sizes.patch, sizes.patch, std=(3 * sizes.patch**2) ** -0.5)
    draw.norm(f"{visual}ln_pre", width)
    draw.transformer(visual, width, sizes.image_layers)
    draw.norm(f"{visual}ln_post", width)
    draw.add(f"{visual}proj", width, sizes.dim)
    draw.add(f"{text}positional_embedding", sizes.positions, sizes.text_width, std=0.5)
    draw.add(f"{text}text_projection", sizes.text_width, sizes.dim)
    draw.transformer(text, sizes.text_width, sizes.text_layers)
    draw.add(f"{text}token_embedding.weight", sizes.vocab, sizes.text_width, std=1.0)
    draw.norm(f"{text}ln_final", sizes.text_width)


def irra_tensors(sizes: Sizes, seed: int = 0) -> Tensors:
    """IRRA's: its backbone, and what its training adds."""
    draw = Draw(seed)
    clip_tensors(draw, sizes, "base_model.visual.", "base_model.")
    draw.linear("classifier", sizes.dim, 11)
    draw.add("cross_attn.in_proj_weight", 3 * sizes.dim, sizes.dim)
    draw.transformer("cross_modal_transformer.", sizes.dim, 1)
    for name in ("ln_pre_t", "ln_pre_i", "ln_post", "mlm_head.ln"):
        draw.norm(name, sizes.dim)
    draw.linear("mlm_head.fc", sizes.dim, 13)
    return draw.tensors


def rde_tensors(sizes: Sizes, seed: int = 0) -> Tensors:
    """RDE's, with the layers that it makes and does not use."""
    draw = Draw(seed)
    clip_tensors(draw, sizes, "base_model.visual.", "base_model.")
    hidden, dim = sizes.head
    for head, linears in (("visul_emb_layer", ("linear", "fc")), ("texual_emb_layer", ("linear",))):
        for name in linears:
            draw.linear(f"{head}.{name}", sizes.dim, dim)
        draw.linear(f"{head}.mlp.layers.0", sizes.dim, hidden)
        draw.linear(f"{head}.mlp.layers.1", hidden, dim)
        draw.batch_norm(f"{head}.mlp.bns.0", hidden)
        draw.batch_norm(f"{head}.mlp.bns.1", dim)
    return draw.tensors


def tbps_clip_tensors(sizes: Sizes, seed: int = 0) -> Tensors:
    """TBPS-CLIP's."""
    draw = Draw(seed)
    clip_tensors(draw, sizes, "visual.", "encode_text.")
    draw.linear("simclr_mlp.0", sizes.dim, 8)
    draw.tensors["logit_scale"] = torch.tensor(4.6)
    return draw.tensors


def plip_tensors(
    *,
    width: int = 8,
    layers: tuple[int, ...] = (1, 2, 1, 1),
    cells: int = 8,
    bert: int = 64,
    bert_layers: int = 2,
    vocab: int = 200,
    seed: int = 0,
) -> tuple[Tensors, Tensors]:
    """PLIP's two state dicts: pictures, sentences."""
    image, text = Draw(seed), Draw(seed + 1)
    for number, (inputs, outputs) in enumerate(((3, width // 2), (width // 2, width // 2), (width // 2, width)), 1):
        image.add(f"conv{number}.weight", outputs, inputs, 3, 3, std=(inputs * 9 / 2) ** -0.5)
        image.batch_norm(f"bn{number}", outputs)
    inputs = width
    for stage, blocks in enumerate(layers):
        planes = width << stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}."
            for number, (before, after, side) in enumerate(
                ((inputs, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)), 1
            ):
                image.add(f"{name}conv{number}.weight", after, before, side, side, std=(before * side**2) ** -0.5)
                image.batch_norm(f"{name}bn{number}", after)
            if block == 0:
                image.add(f"{name}downsample.0.weight", 4 * planes, inputs, 1, 1, std=inputs**-0.5)
                image.batch_norm(f"{name}downsample.1", 4 * planes)
            inputs = 4 * planes
    image.add("attnpool.positional_embedding", cells + 1, inputs, std=0.3)
    for name, outputs in (("k_proj", inputs), ("q_proj", inputs), ("v_proj", inputs), ("c_proj", bert)):
        image.linear(f"attnpool.{name}", inputs, outputs)
    text.add("encoder.embeddings.word_embeddings.weight", vocab, bert, std=1.0)
    text.add("encoder.embeddings.position_embeddings.weight", 96, bert, std=0.5)
    text.add("encoder.embeddings.token_type_embeddings.weight", 2, bert, std=0.5)
    text.norm("encoder.embeddings.LayerNorm", bert)
    for number in range(bert_layers):
        layer = f"encoder.encoder.layer.{number}."
        for name in ("query", "key", "value"):
            text.linear(f"{layer}attention.self.{name}", bert, bert)
        text.linear(f"{layer}attention.output.dense", bert, bert)
        text.norm(f"{layer}attention.output.LayerNorm", bert)
        text.linear(f"{layer}intermediate.dense", bert, 4 * bert)
        text.linear(f"{layer}output.dense", 4 * bert, bert)
        text.norm(f"{layer}output.LayerNorm", bert)
    text.linear("encoder.pooler.dense", bert, bert)
    text.tensors["encoder.embeddings.position_ids"] = torch.arange(96)[None]
    return image.tensors, text.tensors


def half(tensors: Tensors) -> Tensors:
    """As CLIP's code keeps them: all but LayerNorm and embeddings in FP16."""
    kept = ("ln_", "embedding", "num_batches_tracked")
    return {name: t if any(part in name for part in kept) else t.half() for name, t in tensors.items()}


def save_irra(file: Path, tensors: Tensors, *, config: str | None = None) -> Path:
    """``best.pth`` as IRRA and RDE write it, and a ``configs.yaml``."""
    torch.save({"model": OrderedDict(tensors), "optimizer": {"state": {}}, "scheduler": {}, "epoch": 3}, file)
    if config is not None:
        (file.parent / "configs.yaml").write_text(config)
    return file


def save_plip(file: Path, image: Tensors, text: Tensors) -> Path:
    """``*.pth.tar`` as PLIP writes it."""
    torch.save({"ImgEncoder_state_dict": image, "TxtEncoder_state_dict": text, "epoch": 1}, file)
    return file


def write_merges(file: Path, count: int) -> Path:
    """A merges file with the header of CLIP's: each merge a pair of letters that end a word."""
    letters = "etaonihsrdlcumwf"
    pairs = [f"{a} {b}</w>" for a in letters for b in letters][:count]
    file.write_bytes(gzip.compress("\n".join(['"bpe_simple#version: 0.2"', *pairs, "j ekyll"]).encode()))
    return file
