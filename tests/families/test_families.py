"""Published checkpoints: each family's bundle against a plain re-computation of its published forward pass."""

from __future__ import annotations

from pathlib import Path

import family_checkpoints as made
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tbps_infer.bundle import Bundle
from tbps_infer.devices import BackendName
from tbps_infer.encoder import Encoder
from tbps_infer.export.bundle import export_bundle
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.table import SourceModel, load_source
from tbps_infer.images import to_crop
from tbps_infer.runners.options import RunOptions
from tbps_infer.text import Tokenizer
from tbps_infer.tokenizer_files import SPECIAL_TOKENS
from tbps_infer.verification.samples import synthetic_samples

pytestmark = pytest.mark.usefixtures("exports_once")

# The published forward passes, all tokens through all layers, on a state dict.


def clip_blocks(tensors: dict[str, Tensor], prefix: str, x: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Tokens ``[batch, length, width]`` after every block, and the last one's attention, the mean of its heads."""
    number, heads, weights = 0, x.shape[2] // 64, x
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1) if causal else None
    while f"{prefix}transformer.resblocks.{number}.ln_1.weight" in tensors:
        t = {k: tensors[f"{prefix}transformer.resblocks.{number}.{k}"] for k in _BLOCK}
        y = F.layer_norm(x, x.shape[-1:], t["ln_1.weight"], t["ln_1.bias"]).transpose(0, 1)
        out, attention = F.multi_head_attention_forward(
            *(y, y, y, x.shape[2], heads, t["attn.in_proj_weight"], t["attn.in_proj_bias"], None, None, False, 0.0),
            *(t["attn.out_proj.weight"], t["attn.out_proj.bias"]),
            training=False,
            attn_mask=mask,
            need_weights=True,
        )
        assert attention is not None
        weights = attention
        x = x + out.transpose(0, 1)
        y = F.layer_norm(x, x.shape[-1:], t["ln_2.weight"], t["ln_2.bias"])
        y = F.linear(y, t["mlp.c_fc.weight"], t["mlp.c_fc.bias"])
        x = x + F.linear(y * torch.sigmoid(1.702 * y), t["mlp.c_proj.weight"], t["mlp.c_proj.bias"])
        number += 1
    return x, weights


_BLOCK = (
    *("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias"),
    *("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"),
    *("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
)


def clip_image(tensors: dict[str, Tensor], prefix: str, images: Tensor) -> tuple[Tensor, Tensor]:
    kernel = tensors[f"{prefix}conv1.weight"]
    x = F.conv2d(images, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat((tensors[f"{prefix}class_embedding"].expand(len(x), 1, -1), x), dim=1)
    x = x + tensors[f"{prefix}positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], tensors[f"{prefix}ln_pre.weight"], tensors[f"{prefix}ln_pre.bias"])
    x, attention = clip_blocks(tensors, prefix, x, causal=False)
    x = F.layer_norm(x, x.shape[-1:], tensors[f"{prefix}ln_post.weight"], tensors[f"{prefix}ln_post.bias"])
    return x @ tensors[f"{prefix}proj"], attention


def clip_text(tensors: dict[str, Tensor], prefix: str, ids: Tensor) -> tuple[Tensor, Tensor]:
    x = tensors[f"{prefix}token_embedding.weight"][ids] + tensors[f"{prefix}positional_embedding"]
    x, attention = clip_blocks(tensors, prefix, x, causal=True)
    x = F.layer_norm(x, x.shape[-1:], tensors[f"{prefix}ln_final.weight"], tensors[f"{prefix}ln_final.bias"])
    return x @ tensors[f"{prefix}text_projection"], attention


def at_end(tokens: Tensor, ids: Tensor) -> Tensor:
    return tokens[torch.arange(len(ids)), ids.argmax(dim=1)]


def rde_head(tensors: dict[str, Tensor], prefix: str, linear: str, tokens: Tensor) -> Tensor:
    """One item's chosen tokens ``[k, width]`` to its second embedding."""
    tokens = tokens / (tokens.norm(dim=1, keepdim=True) + 1e-8)
    y = F.linear(tokens, tensors[f"{prefix}mlp.layers.0.weight"], tensors[f"{prefix}mlp.layers.0.bias"])
    bn = [tensors[f"{prefix}mlp.bns.0.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
    y = F.batch_norm(y, *bn).relu()  # type: ignore[arg-type]
    y = F.linear(y, tensors[f"{prefix}mlp.layers.1.weight"], tensors[f"{prefix}mlp.layers.1.bias"])
    return (y + F.linear(tokens, tensors[f"{prefix}{linear}.weight"], tensors[f"{prefix}{linear}.bias"])).amax(dim=0)


def inputs_of(
    model: Bundle | SourceModel, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, Tensor, list[str]]:
    """Normalised pictures, ids padded with zeros to the text's full length, and the captions."""
    if isinstance(model, Bundle):
        facts, tokenizer = model.model, Tokenizer.from_bundle(model)
    else:
        facts, tokenizer = model.facts, Tokenizer.from_facts(model.tokenizer_path, model.facts)
    pairs = synthetic_samples()[:4]
    captions = [caption for _, several in pairs for caption in several[:2]] + ["a hat", "shoes!!! red"]
    pixels = np.stack([to_crop(image, facts.preprocessing) for image, _ in pairs])
    images = torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 255
    images = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    ids = torch.zeros(len(captions), facts.max_length, dtype=torch.int64)
    for row, tokens in zip(ids, tokenizer.encode(captions), strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return images, ids, captions


def embeddings(
    model: Path, captions: list[str], backend: BackendName = "onnxruntime"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with Encoder.open(model, RunOptions(backend)) as encoder:
        return encoder.encode_images([image for image, _ in synthetic_samples()[:4]]), encoder.encode_texts(captions)


BACKENDS = pytest.mark.parametrize("backend", ["torch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
"""Exporting takes half a minute; two families do it in the fast tests, the others in the slow ones."""

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def irra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``best.pth``, half in FP16 and from DataParallel, ``configs.yaml`` with a tag, and merges."""
    folder: Path = tmp_path_factory.mktemp("irra")
    tensors = {f"module.{k}": t for k, t in made.half(made.irra_tensors(made.Sizes())).items()}
    made.save_irra(folder / "best.pth", tensors, config=CONFIG)
    made.write_merges(folder / "merges.txt", 60)
    return folder


CONFIG = "img_size: !!python/tuple\n- 96\n- 32\nstride_size: 16\ntext_length: 20\nvocab_size: 575\n"


def test_irra_is_its_published_forward_pass(irra: Path, tmp_path: Path) -> None:
    bundle = export_bundle(irra / "best.pth", tmp_path / "bundle")
    assert bundle.model.family == "irra" and bundle.model.preprocessing.image_size == (96, 32)
    assert bundle.model.preprocessing.interpolation == "bilinear" and bundle.model.caption_rule == "clip"
    tensors = {k: t.float() for k, t in made.half(made.irra_tensors(made.Sizes())).items()}
    images, ids, captions = inputs_of(bundle, *CLIP)
    image, text = embeddings(bundle.path, captions)
    wanted = F.normalize(clip_image(tensors, "base_model.visual.", images)[0][:, 0])
    np.testing.assert_allclose(image, wanted.numpy(), atol=1e-4)
    wanted = F.normalize(at_end(clip_text(tensors, "base_model.", ids)[0], ids))
    np.testing.assert_allclose(text, wanted.numpy(), atol=1e-4)


@BACKENDS
def test_tbps_clip_is_its_published_forward_pass(tmp_path: Path, backend: BackendName) -> None:
    tensors = made.tbps_clip_tensors(made.Sizes(cells=16))
    file = tmp_path / "checkpoint_best.pth"
    made.save_irra(file, tensors)
    merges = made.write_merges(tmp_path / "named.gz", 60)
    source = load_source(None, file, LoadOptions(tokenizer=merges))
    assert source.facts.family == "tbps-clip" and source.facts.caption_rule == "pre_caption_clip"
    made.write_merges(tmp_path / "merges.txt", 60)
    images, ids, captions = inputs_of(source, *IMAGENET)
    model = file if backend == "torch" else export_bundle(file, tmp_path / "bundle").path
    image, text = embeddings(model, captions, backend)
    np.testing.assert_allclose(image, F.normalize(clip_image(tensors, "visual.", images)[0][:, 0]).numpy(), atol=1e-4)
    wanted = F.normalize(at_end(clip_text(tensors, "encode_text.", ids)[0], ids))
    np.testing.assert_allclose(text, wanted.numpy(), atol=1e-4)


def test_rde_is_the_mean_of_its_two_cosines(tmp_path: Path) -> None:
    tensors = made.rde_tensors(made.Sizes())
    made.save_irra(tmp_path / "best.pth", tensors, config=CONFIG + "select_ratio: 0.3\n")
    made.write_merges(tmp_path / "merges.txt", 60)
    bundle = export_bundle(tmp_path / "best.pth", tmp_path / "bundle")
    assert [(s.name, s.size, s.weight) for s in bundle.model.layout.segments] == [
        ("global", 32, 0.5),
        ("tse", 48, 0.5),
    ]
    images, ids, captions = inputs_of(bundle, *CLIP)
    image, text = embeddings(bundle.path, captions)
    tokens, attention = clip_image(tensors, "base_model.visual.", images)
    chosen = attention[:, 0, 1:].topk(3, dim=1).indices + 1  # int(12 * 0.3)
    visual = torch.stack(
        [rde_head(tensors, "visul_emb_layer.", "fc", t[c]) for t, c in zip(tokens, chosen, strict=True)]
    )
    words, attention = clip_text(tensors, "base_model.", ids)
    textual = []
    for row, t, weights in zip(ids, words, attention, strict=True):
        end = int(row.argmax())
        inside = [place for place in range(1, end) if row[place] != 0]
        best = sorted(inside, key=lambda place: -float(weights[end, place]))[:5]  # int(18 * 0.3)
        textual.append(rde_head(tensors, "texual_emb_layer.", "linear", t[best]))
    first = F.normalize(at_end(words, ids)) @ F.normalize(tokens[:, 0]).T
    second = F.normalize(torch.stack(textual)) @ F.normalize(visual).T
    np.testing.assert_allclose(text @ image.T, ((first + second) / 2).numpy(), atol=1e-4)
    np.testing.assert_allclose(image[:, 32:], F.normalize(visual).numpy() / 2**0.5, atol=1e-4)
    np.testing.assert_allclose(text[:, 32:], F.normalize(torch.stack(textual)).numpy() / 2**0.5, atol=1e-4)


def test_a_short_batch_does_not_change_rdes_count_of_tokens(tmp_path: Path) -> None:
    made.save_irra(tmp_path / "best.pth", made.rde_tensors(made.Sizes()))
    made.write_merges(tmp_path / "merges.txt", 60)
    text = load_source("rde", tmp_path / "best.pth").text
    row = torch.tensor([[573, 4, 5, 0, 574]], dtype=torch.int32)
    short = text(row, torch.ones_like(row))
    long = text(F.pad(row, (0, 15)), F.pad(torch.ones_like(row), (0, 15)))
    torch.testing.assert_close(short, long, atol=1e-6, rtol=0)


def plip_image(t: dict[str, Tensor], x: Tensor) -> Tensor:
    """CLIP's ModifiedResNet with attention pooling."""

    def conv_bn(x: Tensor, conv: str, bn: str, **where: int) -> Tensor:
        stats = [t[f"{bn}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(F.conv2d(x, t[f"{conv}.weight"], **where), *stats)  # type: ignore[arg-type, call-overload]

    x = conv_bn(x, "conv1", "bn1", stride=2, padding=1).relu()
    x = conv_bn(x, "conv2", "bn2", padding=1).relu()
    x = F.avg_pool2d(conv_bn(x, "conv3", "bn3", padding=1).relu(), 2)
    for name in sorted({".".join(k.split(".")[:2]) for k in t if k.startswith("layer")}):
        stride = 2 if name.endswith(".0") and name != "layer1.0" else 1
        y = conv_bn(x, f"{name}.conv1", f"{name}.bn1").relu()
        y = conv_bn(y, f"{name}.conv2", f"{name}.bn2", padding=1).relu()
        y = conv_bn(F.avg_pool2d(y, stride), f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in t:
            x = conv_bn(F.avg_pool2d(x, stride), f"{name}.downsample.0", f"{name}.downsample.1")
        x = (x + y).relu()
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat((x.mean(dim=0, keepdim=True), x)) + t["attnpool.positional_embedding"][:, None]
    pooled, _ = F.multi_head_attention_forward(
        *(x[:1], x, x, x.shape[2], 8, None),
        *(torch.cat([t[f"attnpool.{k}_proj.bias"] for k in "qkv"]), None, None, False, 0.0),
        *(t["attnpool.c_proj.weight"], t["attnpool.c_proj.bias"]),
        use_separate_proj_weight=True,
        training=False,
        need_weights=False,
        **{f"{k}_proj_weight": t[f"attnpool.{k}_proj.weight"] for k in "qkv"},  # type: ignore[arg-type]
    )
    return pooled[0]


@pytest.fixture(scope="module")
def plip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("plip")
    made.save_plip(folder / "best.pth.tar", *made.plip_tensors())
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = [*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters), *".,!-"]
    vocab += [f"word{n}" for n in range(200 - len(vocab))]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    return folder


@BACKENDS
def test_plip_is_clips_resnet_and_transformers_bert(plip: Path, tmp_path: Path, backend: BackendName) -> None:
    from transformers import BertConfig, BertModel

    source = load_source(None, plip)
    assert source.facts.family == "plip" and source.facts.preprocessing.image_size == (128, 64)
    model = plip if backend == "torch" else export_bundle(plip, tmp_path / "bundle").path
    images, ids, captions = inputs_of(source, (0.357, 0.323, 0.328), (0.252, 0.242, 0.239))
    image, text = embeddings(model, captions, backend)
    pictures, sentences = made.plip_tensors()
    np.testing.assert_allclose(image, F.normalize(plip_image(pictures, images)).numpy(), atol=1e-4)
    bert = BertModel(
        BertConfig(
            vocab_size=200,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=256,
            max_position_embeddings=96,
        )
    )
    named = {k.removeprefix("encoder."): t for k, t in sentences.items() if not k.endswith("position_ids")}
    bert.load_state_dict(named, strict=True)
    with torch.no_grad():
        pooled = bert.eval()(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
    np.testing.assert_allclose(text, F.normalize(pooled).numpy(), atol=1e-4)
