"""Published weights give what they give in plain networks written here with the publishers' names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_infer.errors import CheckpointError
from tbps_infer.reference.backbones import ResNetBackbone, TextBackbone, ViTBackbone
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.reference.config import ResNetConfig, TextConfig, ViTConfig, tiny_config
from tbps_infer.reference.pretrained import initial_checkpoint, load_image_weights, load_text_weights
from tbps_infer.reference.tensor_files import read_tensors
from tbps_infer.tokenizer_files import train_wordpiece

RESNET = ResNetConfig(embedding_size=64, hidden_sizes=(32, 64, 64, 96), depths=(1, 2, 1, 1))
VIT = ViTConfig(hidden_size=32, layers=2, heads=4, mlp_size=48)
BERT = TextConfig(vocab_size=40, hidden_size=32, layers=2, heads=4, mlp_size=48, max_positions=16)
Tensors = dict[str, Tensor]


class Bottleneck(nn.Module):
    """As He et al. 2016, with the stride in the 3x3 convolution; torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class PlainResNet(nn.Module):
    """Stem, four layers, a classifier; the last layer's stride is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        width = 64
        for stage, (outputs, depth) in enumerate(zip(RESNET.hidden_sizes, RESNET.depths, strict=True), start=1):
            blocks = []
            for block in range(depth):
                blocks.append(Bottleneck(width, outputs, 2 if block == 0 and stage in (2, 3) else 1))
                width = outputs
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x


class PlainViT(nn.Module):
    """As Dosovitskiy et al. 2021, at 64x64, under torchvision's names (its functional form keeps the names flat)."""

    def __init__(self) -> None:
        super().__init__()
        size, hidden = VIT.hidden_size, VIT.mlp_size
        self.conv_proj = nn.Conv2d(3, size, 16, 16)
        self.class_token = nn.Parameter(torch.randn(1, 1, size))
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.randn(1, 17, size))
        self.encoder.layers = nn.Module()
        for number in range(VIT.layers):
            layer = nn.Module()
            layer.ln_1, layer.ln_2 = nn.LayerNorm(size, 1e-12), nn.LayerNorm(size, 1e-12)
            layer.self_attention = nn.MultiheadAttention(size, VIT.heads, batch_first=True)
            layer.mlp = nn.Sequential(
                nn.Linear(size, hidden), nn.GELU(), nn.Dropout(0), nn.Linear(hidden, size), nn.Dropout(0)
            )
            self.encoder.layers.add_module(f"encoder_layer_{number}", layer)
        self.encoder.ln = nn.LayerNorm(size, 1e-12)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(size, 7))

    def run(self, x: Tensor, positions: Tensor) -> Tensor:
        """``[batch, 1 + patches, size]``."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(len(x), -1, -1), patches), dim=1) + positions
        for number in range(VIT.layers):
            layer = self.get_submodule(f"encoder.layers.encoder_layer_{number}")
            normed = layer.get_submodule("ln_1")(tokens)
            tokens = tokens + layer.get_submodule("self_attention")(normed, normed, normed, need_weights=False)[0]
            tokens = tokens + layer.get_submodule("mlp")(layer.get_submodule("ln_2")(tokens))
        normed_tokens: Tensor = self.get_submodule("encoder.ln")(tokens)
        return normed_tokens


def randomized(module: nn.Module) -> nn.Module:
    """Norms that scale and shift and running statistics that are not 0 and 1, so that no two are confused."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if name.endswith(("weight", "running_var")) else noise - 0.5)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def resnet() -> PlainResNet:
    torch.manual_seed(0)
    plain = randomized(PlainResNet())
    assert isinstance(plain, PlainResNet)
    return plain


@pytest.fixture(scope="module")
def vit() -> PlainViT:
    torch.manual_seed(0)
    plain = randomized(PlainViT())
    assert isinstance(plain, PlainViT)
    return plain


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def hugging_face_resnet(tensors: Tensors) -> Tensors:
    """The names of Hugging Face's files, written from their lists and not from the loader's table."""
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        leaf = parts[-1]
        if parts[0] == "fc":
            renamed[f"classifier.1.{leaf}"] = tensor
        elif parts[0] in ("conv1", "bn1"):
            kind = {"conv1": "convolution", "bn1": "normalization"}[parts[0]]
            renamed[f"resnet.embedder.embedder.{kind}.{leaf}"] = tensor
        else:
            at = f"resnet.encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                renamed[f"{at}.shortcut.{('convolution', 'normalization')[int(parts[3])]}.{leaf}"] = tensor
            else:
                kind = "convolution" if parts[2].startswith("conv") else "normalization"
                renamed[f"{at}.layer.{int(parts[2][-1]) - 1}.{kind}.{leaf}"] = tensor
    return renamed


def hugging_face_vit(tensors: Tensors) -> Tensors:
    renamed = {
        "vit.embeddings.cls_token": tensors["class_token"],
        "vit.embeddings.position_embeddings": tensors["encoder.pos_embedding"],
        "vit.embeddings.patch_embeddings.projection.weight": tensors["conv_proj.weight"],
        "vit.embeddings.patch_embeddings.projection.bias": tensors["conv_proj.bias"],
        "classifier.weight": tensors["heads.head.weight"],
        "classifier.bias": tensors["heads.head.bias"],
    }
    for leaf in ("weight", "bias"):
        renamed[f"vit.layernorm.{leaf}"] = tensors[f"encoder.ln.{leaf}"]
        for number in range(VIT.layers):
            source, to = f"encoder.layers.encoder_layer_{number}", f"vit.encoder.layer.{number}"
            stacked = tensors[f"{source}.self_attention.in_proj_{leaf}"]
            for part, piece in zip(("query", "key", "value"), stacked.chunk(3), strict=True):
                renamed[f"{to}.attention.attention.{part}.{leaf}"] = piece.clone()
            for theirs, name in (
                ("self_attention.out_proj", "attention.output.dense"),
                ("mlp.0", "intermediate.dense"),
                ("mlp.3", "output.dense"),
                ("ln_1", "layernorm_before"),
                ("ln_2", "layernorm_after"),
            ):
                renamed[f"{to}.{name}.{leaf}"] = tensors[f"{source}.{theirs}.{leaf}"]
    return renamed


@pytest.mark.parametrize("publisher", ["torchvision", "Hugging Face"])
def test_resnet_weights_compute_what_they_do_in_a_plain_network(
    resnet: PlainResNet, tmp_path: Path, publisher: str
) -> None:
    tensors = resnet.state_dict()
    if publisher == "torchvision":
        file = tmp_path / "resnet.pth"
        torch.save(tensors, file)
    else:
        file = tmp_path / "model.safetensors"
        save_file(hugging_face_resnet(tensors), file)
    backbone = ResNetBackbone(RESNET)
    coverage = load_image_weights(backbone, file if publisher == "torchvision" else tmp_path)
    torch.testing.assert_close(backbone.eval()(images(96, 32)), resnet(images(96, 32)), rtol=1e-4, atol=1e-5)
    classifier = "fc" if publisher == "torchvision" else "classifier.1"
    assert coverage.format == publisher and coverage.dropped == (f"{classifier}.bias", f"{classifier}.weight")
    counted = sum(not name.startswith("fc.") and not name.endswith("num_batches_tracked") for name in tensors)
    assert (coverage.loaded, coverage.wanted) == (counted, counted)
    assert f"{counted} of {counted} tensors" in str(coverage)


@pytest.mark.parametrize("publisher", ["torchvision", "Hugging Face", "torchvision, old"])
def test_vit_weights_compute_what_they_do_in_a_plain_network(vit: PlainViT, tmp_path: Path, publisher: str) -> None:
    tensors = vit.state_dict()
    if publisher == "Hugging Face":
        save_file(hugging_face_vit(tensors), tmp_path / "model.safetensors")
    else:
        old = {"mlp.0": "mlp.linear_1", "mlp.3": "mlp.linear_2"} if publisher.endswith("old") else {}
        for new, name in old.items():
            tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
        torch.save(tensors, tmp_path / "vit.pth")
    backbone = ViTBackbone(VIT, (64, 64))
    coverage = load_image_weights(backbone, tmp_path)
    expected = vit.run(images(64, 64), vit.get_parameter("encoder.pos_embedding"))[:, 1:]
    found = backbone.eval()(images(64, 64)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert coverage.loaded == coverage.wanted and len(coverage.dropped) == 2 and not coverage.resized


def test_vit_positions_are_interpolated_to_the_crops_grid(vit: PlainViT, tmp_path: Path) -> None:
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    backbone = ViTBackbone(VIT, (96, 32))
    coverage = load_image_weights(backbone, tmp_path / "vit.pth")
    assert coverage.resized == ("encoder.pos_embedding",)
    positions = vit.get_parameter("encoder.pos_embedding")
    square = positions[0, 1:].reshape(4, 4, -1)
    weights = [[_cubic_row(target, 4, size) for target in range(size)] for size in (6, 2)]
    rows, columns = (torch.tensor(weight) for weight in weights)
    wanted = torch.einsum("ry,cx,yxd->rcd", rows, columns, square).reshape(1, 12, -1)
    resized = torch.cat((positions[:, :1], wanted), dim=1)
    found = backbone.eval()(images(96, 32)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, vit.run(images(96, 32), resized)[:, 1:], rtol=1e-4, atol=1e-5)


def _cubic_row(target: int, old: int, new: int) -> list[float]:
    """Weights of ``old`` cells for one of ``new``: Keys' cubic convolution with a = -0.75, half-pixel centres."""
    a, row = -0.75, [0.0] * old
    centre = (target + 0.5) * old / new - 0.5
    first = int(centre // 1) - 1
    for cell in range(first, first + 4):
        x = abs(centre - cell)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        row[min(max(cell, 0), old - 1)] += near if x <= 1 else far
    return row


def bert_tensors() -> Tensors:
    """As the first published files name them: LayerNorm's gamma and beta, and the heads of pre-training."""
    generator = torch.Generator().manual_seed(4)
    size, hidden = BERT.hidden_size, BERT.mlp_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (BERT.vocab_size, size),
        "bert.embeddings.position_embeddings.weight": (BERT.max_positions, size),
        "bert.embeddings.token_type_embeddings.weight": (2, size),
        "bert.embeddings.LayerNorm.gamma": (size,),
        "bert.embeddings.LayerNorm.beta": (size,),
        "bert.pooler.dense.weight": (size, size),
        "bert.pooler.dense.bias": (size,),
        "cls.predictions.bias": (BERT.vocab_size,),
        "cls.predictions.transform.LayerNorm.gamma": (size,),
        "cls.seq_relationship.weight": (2, size),
    }
    for layer in range(BERT.layers):
        at = f"bert.encoder.layer.{layer}"
        for name, outputs, inputs in (
            ("attention.self.query", size, size),
            ("attention.self.key", size, size),
            ("attention.self.value", size, size),
            ("attention.output.dense", size, size),
            ("intermediate.dense", hidden, size),
            ("output.dense", size, hidden),
        ):
            shapes |= {f"{at}.{name}.weight": (outputs, inputs), f"{at}.{name}.bias": (outputs,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}.{name}.gamma": (size,), f"{at}.{name}.beta": (size,)}
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    return {**tensors, "bert.embeddings.position_ids": torch.arange(BERT.max_positions)[None]}


def plain_bert(tensors: Tensors, ids: Tensor) -> Tensor:
    """As Devlin et al. 2019, post-LayerNorm; for ids ``[length]`` without padding."""
    words = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], words[f"{name}.gamma"], words[f"{name}.beta"], 1e-12)

    def dense(x: Tensor, name: str) -> Tensor:
        return F.linear(x, words[f"{name}.weight"], words[f"{name}.bias"])

    x = words["embeddings.word_embeddings.weight"][ids] + words["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + words["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(BERT.layers):
        at = f"encoder.layer.{layer}"
        heads = [
            dense(x, f"{at}.attention.self.{part}").unflatten(1, (BERT.heads, -1)).transpose(0, 1)  # type: ignore[no-untyped-call]
            for part in ("query", "key", "value")
        ]
        scores = heads[0] @ heads[1].transpose(1, 2) / (BERT.hidden_size // BERT.heads) ** 0.5
        attended = (scores.softmax(-1) @ heads[2]).transpose(0, 1).flatten(1)
        x = norm(x + dense(attended, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = F.gelu(dense(x, f"{at}.intermediate.dense"))
        x = norm(x + dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


@pytest.mark.parametrize("style", ["old", "new"])
def test_bert_weights_compute_what_they_do_in_a_plain_network(tmp_path: Path, style: str) -> None:
    tensors = bert_tensors()
    if style == "old":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:  # the encoder alone, as transformers writes it today, beside a file that is passed over
        renamed = {name.removeprefix("bert."): t for name, t in tensors.items() if not name.startswith("cls.")}
        renamed = {name.replace("gamma", "weight").replace("beta", "bias"): t for name, t in renamed.items()}
        save_file(renamed, tmp_path / "model.safetensors")
        torch.save({}, tmp_path / "pytorch_model.bin")
    backbone = TextBackbone(BERT)
    coverage = load_text_weights(backbone, tmp_path)
    ids = torch.tensor([[2, 17, 30, 5, 3, 0, 0], [2, 9, 8, 7, 6, 5, 3]])
    found = backbone.eval()(ids, (ids != 0).long())
    torch.testing.assert_close(found[0, :5], plain_bert(tensors, ids[0, :5]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], plain_bert(tensors, ids[1]), rtol=1e-4, atol=1e-5)
    assert coverage.loaded == coverage.wanted == 5 + 16 * BERT.layers
    assert "embeddings.position_ids" in coverage.dropped and "pooler.dense.bias" in coverage.dropped
    assert any(name.startswith("cls.") for name in coverage.dropped) == (style == "old")


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def plus(**more: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name.replace("__", "."): tensor for name, tensor in more.items()}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("layer2.0.conv2.weight"), r"has no tensor layer2\.0\.conv2\.weight"),
        (without("bn1.running_var"), r"has no tensor bn1\.running_var"),
        (plus(layer5__0__conv1__weight=torch.zeros(1)), r"does not know: layer5\.0\.conv1\.weight"),
        (plus(conv1__weight=torch.zeros(64, 1, 7, 7)), r"conv1\.weight gives \[64, 1, 7, 7\].*wants \[64, 3, 7, 7\]"),
        (plus(bn1__bias=torch.full((64,), torch.nan)), r"bn1\.bias has NaN"),
        (without("conv1.weight"), r"no known format: it has no conv1\.weight nor embedder"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(
    resnet: PlainResNet, tmp_path: Path, change: Callable[[Tensors], Tensors], sentence: str
) -> None:
    file = tmp_path / "resnet.pth"
    torch.save(change(dict(resnet.state_dict())), file)
    backbone = ResNetBackbone(RESNET)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=sentence):
        load_image_weights(backbone, file)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_other_files_are_refused(vit: PlainViT, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_text_weights(TextBackbone(BERT), tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds none"):
        load_text_weights(TextBackbone(BERT), tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(vit.state_dict(), tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds a\.pth, b\.pth"):
        load_image_weights(ViTBackbone(VIT, (64, 64)), tmp_path)
    with pytest.raises(CheckpointError, match="no known format"):
        load_image_weights(ResNetBackbone(RESNET), tmp_path / "a.pth")
    for shape, sentence in (((1, 16, 32), "not a square grid and one class token"), ((17, 32), "not a square grid")):
        torch.save({**vit.state_dict(), "encoder.pos_embedding": torch.zeros(shape)}, tmp_path / "c.pth")
        with pytest.raises(CheckpointError, match=sentence):
            load_image_weights(ViTBackbone(VIT, (96, 32)), tmp_path / "c.pth")
    torn = {**vit.state_dict(), "encoder.layers.encoder_layer_1.self_attention.in_proj_bias": torch.zeros(95)}
    torch.save(torn, tmp_path / "d.pth")
    with pytest.raises(
        CheckpointError, match=r"layer_1\.self_attention\.in_proj_bias is \[95\], which is not three stacked"
    ):
        load_image_weights(ViTBackbone(VIT, (64, 64)), tmp_path / "d.pth")


def test_an_initial_checkpoint_is_its_seed_and_the_weights_it_was_given(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["a man in a red coat"], 120)
    config = tiny_config(tokenizer.get_vocab_size())
    state = torch.random.get_rng_state()
    folders = [
        initial_checkpoint(tmp_path / str(number), config, tokenizer.to_str(), seed)
        for number, seed in enumerate((5, 5, 6))
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again, other = (load_checkpoint(folder) for folder in folders)
    assert first.facts == again.facts and first.facts.fingerprint != other.facts.fingerprint
    published = {
        name.removeprefix("text_backbone."): tensor
        for name, tensor in read_tensors(other.path).items()
        if name.startswith("text_backbone.")
    }
    file = tmp_path / "text.safetensors"
    save_file({**published, "cls.predictions.bias": torch.zeros(3)}, file)
    folder = initial_checkpoint(tmp_path / "made", config, tokenizer.to_str(), 5, text_weights=file)
    made, started, given = (read_tensors(one.path) for one in (load_checkpoint(folder), first, other))
    for name, tensor in made.items():
        assert torch.equal(tensor, given[name] if name.startswith("text_backbone.") else started[name])
    training = json.loads((folder / "config.json").read_text(encoding="utf-8"))["training"]
    count = len(published)
    assert training["initial_seed"] == 5 and "image_weights" not in training
    expected = f"text.safetensors (Hugging Face): {count} of {count} tensors; dropped cls.predictions.bias"
    assert training["text_weights"]["coverage"] == expected
