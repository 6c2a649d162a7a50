"""The reference model against the specification, recomputed here in float64 from its weights and plain formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps_infer.errors import CheckpointError
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.attention import Attention, split_heads
from tbps_infer.reference.backbones import MASK_FLOOR
from tbps_infer.reference.config import ModelConfig, ResNetConfig, ViTConfig, tiny_config
from tbps_infer.reference.model import Embeddings, PartModel

Array = NDArray[np.float64]
VOCABULARY = 60


FIRST: dict[str, Any] = {
    "token_attention": "before", "sharpness": 1.0, "part_stage": None, "part_stages": 1, "fine_weight": 1.0,
}  # fmt: skip
"""Keys of the first checkpoints."""
VARIANTS = {
    "first": FIRST,
    "chosen": {**FIRST, "token_attention": "none", "sharpness": 4.0, "fine_weight": 0.5},
    "neighbours last": {**FIRST, "token_attention": "after"},
}


@pytest.fixture(scope="module", params=list(VARIANTS.values()), ids=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> PartModel:
    """Two decoder and two encoder layers, and norms, biases and running statistics that are not 1 and 0."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"decoder_layers": 2, "encoder_layers": 2, "coarse_tokens": 5}
    model = PartModel(replace(tiny_config(VOCABULARY), **sizes, **request.param))
    for name, tensor in model.state_dict().items():
        if name.endswith(("norm.weight", "norm.bias", ".bias", "running_mean")) or "LayerNorm" in name:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.from_numpy(np.random.default_rng(4).integers(0, 256, (3, 96, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def captions() -> tuple[Tensor, Tensor]:
    """Ids and mask of three captions with 12, 5 and 9 tokens."""
    ids = torch.from_numpy(np.random.default_rng(5).integers(1, VOCABULARY, (3, 12), dtype=np.int32))
    mask = (torch.arange(12) < torch.tensor([[12], [5], [9]])).int()
    return ids * mask, mask


def weights_of(model: PartModel) -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


def linear(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    product: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return product


def layer_norm(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    normed: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(queries: Array, memory: Array, weights: Mapping[str, Array], name: str, heads: int) -> Array:
    """One item: [q, d] attends to [m, d], head by head."""
    query, key, value = (
        linear(x, weights, f"{name}.{part}") for x, part in ((queries, "query"), (memory, "key"), (memory, "value"))
    )
    size = query.shape[1] // heads
    out = []
    for head in range(heads):
        piece = slice(head * size, (head + 1) * size)
        scores = query[:, piece] @ key[:, piece].T / math.sqrt(size)
        exps = np.exp(scores - scores.max(-1, keepdims=True))
        out.append(exps / exps.sum(-1, keepdims=True) @ value[:, piece])
    return linear(np.concatenate(out, axis=1), weights, f"{name}.out")


def feed_forward(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    hidden = linear(x, weights, f"{name}.0")
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return linear(gelu, weights, f"{name}.3")


def encode(x: Array, weights: Mapping[str, Array], name: str, config: ModelConfig) -> Array:
    for layer in range(config.encoder_layers):
        at = f"{name}.{layer}"
        normed = layer_norm(x, weights, f"{at}.attention_norm")
        x = x + attention(normed, normed, weights, f"{at}.attention", config.heads)
        x = x + feed_forward(layer_norm(x, weights, f"{at}.ffn_norm"), weights, f"{at}.ffn")
    return x


def decode(tokens: Array, memory: Array, weights: Mapping[str, Array], config: ModelConfig) -> Array:
    for layer in range(config.decoder_layers):
        at = f"decoder.{layer}"

        def among(tokens: Array, at: str = at) -> Array:
            normed = layer_norm(tokens, weights, f"{at}.self_norm")
            return tokens + attention(normed, normed, weights, f"{at}.self_attention", config.heads)

        if config.token_attention == "before":
            tokens = among(tokens)
        normed = layer_norm(tokens, weights, f"{at}.cross_norm") * config.sharpness
        bias = weights[f"{at}.cross_attention.query.bias"] * (config.sharpness - 1)
        sharp = {**weights, f"{at}.cross_attention.query.bias": weights[f"{at}.cross_attention.query.bias"] + bias}
        tokens = tokens + attention(normed, memory, sharp, f"{at}.cross_attention", config.heads)
        if config.token_attention == "after":
            tokens = among(tokens)
        tokens = tokens + feed_forward(layer_norm(tokens, weights, f"{at}.ffn_norm"), weights, f"{at}.ffn")
    return layer_norm(tokens, weights, "decoder_norm")


def each_its_own_linear(slots: Array, weights: Mapping[str, Array], name: str) -> Array:
    rows = zip(slots, weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
    return np.stack([slot @ weight + bias for slot, weight, bias in rows])


def expected_image(features: Array, weights: Mapping[str, Array], config: ModelConfig) -> tuple[Array, Array, Array]:
    """One picture's map [channels, rows, columns] to its global, coarse and fine slots, as the specification says."""
    channels, rows, _ = features.shape
    memory = linear(features.reshape(channels, -1).T, weights, "memory_image") + weights["image_position"][0]
    memory = layer_norm(encode(memory, weights, "image_encoder", config), weights, "memory_norm.image")
    height = rows // config.parts
    stripes = np.stack([features[:, k * height : (k + 1) * height].max(axis=(1, 2)) for k in range(config.parts)])
    return (
        linear(features.max(axis=(1, 2)), weights, "global_image"),
        each_its_own_linear(decode(weights["coarse_tokens"][0], memory, weights, config), weights, "coarse_head"),
        each_its_own_linear(stripes, weights, "fine_image"),
    )


def expected_text(features: Array, weights: Mapping[str, Array], config: ModelConfig) -> tuple[Array, Array, Array]:
    """One caption's features [length, hidden], padding cut off, to its global, coarse and fine slots."""
    memory = encode(linear(features, weights, "memory_text"), weights, "text_encoder", config)
    memory = layer_norm(memory, weights, "memory_norm.text")
    return (
        linear(features.max(axis=0), weights, "global_text"),
        each_its_own_linear(decode(weights["coarse_tokens"][0], memory, weights, config), weights, "coarse_head"),
        each_its_own_linear(decode(weights["part_tokens"][0], memory, weights, config), weights, "fine_text"),
    )


def assert_slots(slots: Embeddings, item: int, expected: tuple[Array, Array, Array]) -> None:
    for found, wanted in zip((slots.global_, slots.coarse, slots.fine), expected, strict=True):
        np.testing.assert_allclose(found[item].double().numpy(), wanted, rtol=2e-4, atol=2e-5)


def test_image_slots_are_the_specification_s(model: PartModel, pixels: Tensor) -> None:
    weights, features = weights_of(model), model.image_features(pixels)
    slots = model.image_embeddings(pixels)
    for item in range(len(pixels)):
        assert_slots(slots, item, expected_image(features[item].double().numpy(), weights, model.config))


def test_text_slots_are_the_specification_s_and_padding_does_not_exist(
    model: PartModel, captions: tuple[Tensor, Tensor]
) -> None:
    """The expected slots are computed on captions without any padding."""
    ids, mask = captions
    weights = weights_of(model)
    slots = model.text_embeddings(model.text_backbone(ids, mask), mask)
    for item, length in enumerate(mask.sum(1).tolist()):
        features = model.text_backbone(ids[item : item + 1, :length], mask[item : item + 1, :length])
        assert_slots(slots, item, expected_text(features[0].double().numpy(), weights, model.config))


def test_what_stands_in_the_padding_does_not_count(model: PartModel, captions: tuple[Tensor, Tensor]) -> None:
    ids, mask = captions
    noise = torch.from_numpy(np.random.default_rng(6).integers(1, VOCABULARY, ids.shape, dtype=np.int32))
    filled = torch.where(mask == 1, ids, noise)
    torch.testing.assert_close(model.encode_text(filled, mask), model.encode_text(ids, mask), rtol=0, atol=1e-6)
    wider = torch.nn.functional.pad(ids, (0, 20)), torch.nn.functional.pad(mask, (0, 20))
    torch.testing.assert_close(model.encode_text(*wider), model.encode_text(ids, mask), rtol=0, atol=1e-6)


def test_one_inner_product_is_the_sum_of_the_three_cosines(model: PartModel) -> None:
    generator = torch.Generator().manual_seed(7)
    config = model.config

    def slots() -> Embeddings:
        shapes = (4, config.dim), (4, config.coarse_tokens, config.dim), (4, config.parts, config.dim)
        return Embeddings(*(torch.randn(shape, generator=generator, dtype=torch.float64) * 7 for shape in shapes))

    image, text = slots(), slots()
    cosine = torch.nn.functional.cosine_similarity
    shares = torch.stack(
        [
            cosine(image.global_, text.global_),
            cosine(image.coarse.flatten(1), text.coarse.flatten(1)),
            *(
                cosine(image.fine[:, k], text.fine[:, k]) * config.fine_weight / config.parts
                for k in range(config.parts)
            ),
        ],
        dim=1,
    )
    z_image, z_text = image.compose(config.fine_weight), text.compose(config.fine_weight)
    torch.testing.assert_close((z_image * z_text).sum(1), shares.sum(1), rtol=0, atol=1e-12)
    norms = torch.full((4,), 2 + config.fine_weight, dtype=torch.float64)  # 3 where all count alike
    torch.testing.assert_close((z_image**2).sum(1), norms)
    split = np.stack([(z_image * z_text)[:, piece].sum(1) for piece in config.layout.slices.values()], axis=1)
    np.testing.assert_allclose(split, shares.numpy(), atol=1e-6)
    assert config.layout.dim == z_image.shape[1] and config.layout.squared_norm == pytest.approx(
        2 + config.fine_weight
    )
    assert config.layout.names == ("global", "coarse", *(f"fine.{k}" for k in range(config.parts)))


def test_default_embeddings_have_6656_numbers() -> None:
    assert ModelConfig().layout.dim == 6656 and ModelConfig().map_size == (24, 8)


def test_coarse_and_part_tokens_do_not_see_each_other(model: PartModel, captions: tuple[Tensor, Tensor]) -> None:
    ids, mask = captions
    features = model.text_backbone(ids, mask)
    before = model.text_embeddings(features, mask)
    for tokens, kept, moved in (
        (model.part_tokens, "coarse", "fine"),
        (model.coarse_tokens, "fine", "coarse"),
    ):
        own = tokens.clone()
        tokens.add_(torch.randn(tokens.shape, generator=torch.Generator().manual_seed(9)))
        after = model.text_embeddings(features, mask)
        tokens.copy_(own)
        assert torch.equal(getattr(after, kept), getattr(before, kept))
        assert (getattr(after, moved) - getattr(before, moved)).abs().max() > 1e-2


def test_both_modalities_run_one_decoder_and_encoders_of_their_own(
    model: PartModel, pixels: Tensor, captions: tuple[Tensor, Tensor]
) -> None:
    def coarse() -> tuple[Tensor, Tensor]:
        features = model.text_backbone(*captions)
        return model.image_embeddings(pixels).coarse, model.text_embeddings(features, captions[1]).coarse

    memory = torch.randn(2, 9, model.config.dim, generator=torch.Generator().manual_seed(8))
    no_mask = model.decode(model.coarse_tokens, memory, None)[0]
    assert torch.equal(model.decode(model.coarse_tokens, memory, torch.zeros(2, 1, 1, 9))[0], no_mask)
    before = coarse()
    for name, changes in (
        ("decoder.1.cross_attention.value.weight", (True, True)),
        ("decoder.0.cross_attention.key.weight", (True, True)),
        ("coarse_head.weight", (True, True)),
        ("image_encoder.0.attention.value.weight", (True, False)),
        ("text_encoder.0.attention.value.weight", (False, True)),
    ):
        weight = model.get_parameter(name)
        own = weight.clone()
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)))
        after = coarse()
        weight.copy_(own)
        assert tuple(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) == changes


def test_training_computes_what_inference_does() -> None:
    """The two modes take different paths through the decoder."""
    torch.manual_seed(1)
    model = PartModel(replace(tiny_config(VOCABULARY), dropout=0.0, **FIRST)).requires_grad_(False)
    memory = torch.randn(2, 9, model.config.dim)
    trained = model.train().decode(model.coarse_tokens, memory, None)
    inferred = model.eval().decode(model.coarse_tokens, memory, None)
    for one, other in zip(trained, inferred, strict=True):
        torch.testing.assert_close(one, other)
    dropped = PartModel(replace(tiny_config(VOCABULARY), dropout=0.5, **FIRST)).requires_grad_(False).train()
    rows = dropped.decode(dropped.coarse_tokens, memory[:1].expand(2, -1, -1), None)[0]
    assert not torch.equal(rows[0], rows[1])  # each item draws its own


def test_pixels_are_normalised_once(model: PartModel, pixels: Tensor) -> None:
    seen: list[Tensor] = []
    handle = model.image_backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.image_features(pixels)
    handle.remove()
    facts = model.config.preprocessing
    expected = (pixels.double() / 255 - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    torch.testing.assert_close(seen[0].double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "image",
    [
        ResNetConfig(embedding_size=8, hidden_sizes=(16, 32, 64, 128), depths=(1, 1, 1, 1)),
        ViTConfig(hidden_size=32, layers=1, heads=2, mlp_size=64),
    ],
    ids=["resnet", "vit"],
)
def test_a_crop_of_384x128_gives_a_map_of_24x8(image: ResNetConfig | ViTConfig) -> None:
    crops = Preprocessing(image_size=(384, 128))
    config = replace(tiny_config(VOCABULARY), image=image, preprocessing=crops, **FIRST)
    model = PartModel(config).eval().requires_grad_(False)
    pixels = torch.randint(0, 256, (1, 384, 128, 3), dtype=torch.uint8)
    assert config.map_size == (24, 8)
    assert model.image_features(pixels).shape == (1, image.channels, 24, 8)


def test_a_cell_of_the_map_lies_where_its_patch_does() -> None:
    """A vision transformer's tokens come in rows: a patch changed in row 4, column 1 changes that cell most."""
    torch.manual_seed(2)
    image = ViTConfig(hidden_size=32, layers=1, heads=2, mlp_size=64)
    config = replace(tiny_config(VOCABULARY), image=image, preprocessing=Preprocessing(image_size=(96, 32)), **FIRST)
    model = PartModel(config).eval().requires_grad_(False)
    crops = torch.randint(0, 256, (1, 96, 32, 3), dtype=torch.uint8)
    other = crops.clone()
    other[0, 64:80, 16:32] = 255 - other[0, 64:80, 16:32]
    change = (model.image_features(other) - model.image_features(crops)).abs().sum(1)[0]
    assert divmod(int(change.argmax()), 2) == (4, 1)


def test_a_part_of_the_branch_sees_its_stripe_alone() -> None:
    """What changes in stripe 3 of the map after the first stage changes part 3, and no other."""
    torch.manual_seed(4)
    model = PartModel(tiny_config(VOCABULARY)).eval().requires_grad_(False)
    early = torch.randn(2, 32, 24, 8)
    other = early.clone()
    other[:, :, 12:16] += 1
    changed = (model.part_branch(other) - model.part_branch(early)).abs().amax(dim=(0, 2)) > 0
    assert changed.tolist() == [False, False, False, True, False, False]
    alone = model.part_branch(early[:1].repeat_interleave(6, dim=2)[:, :, 72:96])  # another part's place
    assert alone.shape == (1, 6, 128)


def test_the_branch_starts_as_the_stages_that_it_repeats() -> None:
    model = PartModel(tiny_config(VOCABULARY))
    with torch.no_grad():
        for parameter in model.image_backbone.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.repeat_stages()
    own = model.part_branch.stages.state_dict()
    for name, tensor in own.items():
        number, _, rest = name.partition(".")
        assert torch.equal(tensor, model.image_backbone.state_dict()[f"encoder.stages.{int(number) + 1}.{rest}"])


def test_slots_share_every_cell_of_the_memory() -> None:
    """Softmax over the queries, then over the memory; a cell that is masked gets nothing."""
    torch.manual_seed(5)
    attention = Attention(8, 2, over_queries=True).requires_grad_(False)
    queries, memory = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    mask = torch.tensor([0.0, 0.0, 0.0, 0.0, MASK_FLOOR])[None, None, None]
    weights = attention(queries, memory, mask)[1]
    plain = Attention(8, 2)
    plain.load_state_dict(attention.state_dict())
    query = split_heads(attention.query(queries), 2) * attention.scale
    shares = (query @ split_heads(attention.key(memory), 2).transpose(2, 3)).softmax(dim=2)
    shares[..., 4] = 0
    torch.testing.assert_close(weights, shares / shares.sum(-1, keepdim=True), rtol=0, atol=1e-4)
    torch.testing.assert_close(attention(queries, memory[:, :4])[1], weights[..., :4], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"token_attention": "first"}, "token_attention is 'first', want before or after or none"),
        ({"part_stage": 1, "parts_from": "tokens"}, "part_stage needs a ResNet"),
        ({"part_stage": 1, "image": ViTConfig()}, "part_stage needs a ResNet"),
        ({"part_stage": 2, "part_stages": 2}, "repeats 2 stages after stage 2, of 3 in all"),
    ],
)
def test_keys_that_do_not_fit_are_named(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        replace(tiny_config(VOCABULARY), **keys)


def test_configurations_that_are_older_than_a_key_keep_their_fingerprint() -> None:
    """Their JSON does not name it, and reading gives the model that it was."""
    written = ModelConfig().to_json()
    assert not {"token_attention", "part_stage", "fine_weight"} & set(written)
    assert ModelConfig.from_json(written) == ModelConfig()
    chosen = tiny_config(VOCABULARY)
    assert ModelConfig.from_json(chosen.to_json()) == chosen and chosen.to_json()["part_stage"] == 1
