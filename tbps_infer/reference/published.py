"""The names that torchvision and Hugging Face give the tensors of the backbones in the files they publish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Format", "Source", "bert_formats", "modern_name", "resnet_formats", "vit_formats"]


@dataclass(frozen=True)
class Source:
    """A tensor in a file: its name, and which third of it when query, key and value are stacked."""

    name: str
    third: int | None = None


@dataclass(frozen=True)
class Format:
    """How a publisher names a backbone's tensors.

    Attributes:
        name: The publisher.
        marker: A tensor that every such file has, and no other publisher's.
        prefix: What a file of the backbone inside a larger model puts before each name.
        table: The backbone's names, with the file's.
        droppable: How the names of tensors begin that are not the backbone's.
    """

    name: str
    marker: str
    prefix: str
    table: Mapping[str, Source]
    droppable: tuple[str, ...]


def bert_formats(names: Iterable[str]) -> list[Format]:
    """Of BERT: the names are Hugging Face's."""
    marker = "embeddings.word_embeddings.weight"
    droppable = ("cls.", "pooler.", "classifier.", "embeddings.position_ids")
    return [Format("Hugging Face", marker, "bert.", {name: Source(name) for name in names}, droppable)]


def resnet_formats(names: Iterable[str]) -> list[Format]:
    """Of a ResNet: the names are Hugging Face's."""
    same = {name: Source(name) for name in names}
    torchvision = {name: Source(_torchvision_resnet(name)) for name in same}
    return [
        Format("torchvision", "conv1.weight", "", torchvision, ("fc.",)),
        Format("Hugging Face", "embedder.embedder.convolution.weight", "resnet.", same, ("classifier.",)),
    ]


def _torchvision_resnet(name: str) -> str:
    """``encoder.stages.1.layers.0.layer.2.convolution.weight`` is ``layer2.0.conv3.weight``, and so on."""
    *path, kind, leaf = name.split(".")
    convolution = kind == "convolution"
    if path[0] == "embedder":
        return f"{'conv1' if convolution else 'bn1'}.{leaf}"
    _, _, stage, _, block, *inner = path
    if inner == ["shortcut"]:
        place = f"downsample.{0 if convolution else 1}"
    else:
        place = f"{'conv' if convolution else 'bn'}{int(inner[1]) + 1}"
    return f"layer{int(stage) + 1}.{block}.{place}.{leaf}"


_VIT_LAYER = {
    # this backbone's name: torchvision's, which third of it, Hugging Face's
    "attention.q_proj": ("self_attention.in_proj_", 0, "attention.attention.query"),
    "attention.k_proj": ("self_attention.in_proj_", 1, "attention.attention.key"),
    "attention.v_proj": ("self_attention.in_proj_", 2, "attention.attention.value"),
    "attention.o_proj": ("self_attention.out_proj.", None, "attention.output.dense"),
    "layernorm_before": ("ln_1.", None, "layernorm_before"),
    "layernorm_after": ("ln_2.", None, "layernorm_after"),
    "mlp.fc1": ("mlp.0.", None, "intermediate.dense"),
    "mlp.fc2": ("mlp.3.", None, "output.dense"),
}
_VIT_ENDS = {
    "embeddings.cls_token": ("class_token", "embeddings.cls_token"),
    "embeddings.position_embeddings": ("encoder.pos_embedding", "embeddings.position_embeddings"),
    "embeddings.patch_embeddings.projection.weight": (
        "conv_proj.weight",
        "embeddings.patch_embeddings.projection.weight",
    ),
    "embeddings.patch_embeddings.projection.bias": ("conv_proj.bias", "embeddings.patch_embeddings.projection.bias"),
    "layernorm.weight": ("encoder.ln.weight", "layernorm.weight"),
    "layernorm.bias": ("encoder.ln.bias", "layernorm.bias"),
}


def vit_formats(names: Iterable[str]) -> list[Format]:
    """Of a vision transformer; the names are those of transformers 5, and no publisher's."""
    torchvision, hugging_face = {}, {}
    for name in names:
        bare = name.removeprefix("model.")
        if bare in _VIT_ENDS:
            theirs, hf = _VIT_ENDS[bare]
            torchvision[name], hugging_face[name] = Source(theirs), Source(hf)
            continue
        _, number, *inner, leaf = bare.split(".")
        theirs, third, hf = _VIT_LAYER[".".join(inner)]
        torchvision[name] = Source(f"encoder.layers.encoder_layer_{number}.{theirs}{leaf}", third)
        hugging_face[name] = Source(f"encoder.layer.{number}.{hf}.{leaf}")
    marker = "embeddings.patch_embeddings.projection.weight"
    return [
        Format("torchvision", "conv_proj.weight", "", torchvision, ("heads.",)),
        Format("Hugging Face", marker, "vit.", hugging_face, ("pooler.", "classifier.")),
    ]


def modern_name(name: str) -> str:
    """Today's name of a tensor: TensorFlow's for LayerNorm, and torchvision's first ones for its MLP, are older."""
    for old, new in (
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("LayerNorm.beta", "LayerNorm.bias"),
        ("mlp.linear_1.", "mlp.0."),
        ("mlp.linear_2.", "mlp.3."),
    ):
        name = name.replace(old, new)
    return name
