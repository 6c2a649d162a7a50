"""What published checkpoints leave open, add for their trainings, or are in place of a family that is supported."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import family_checkpoints as made
import pytest
import torch
from command_line import fail, succeed
from torch import Tensor

from tbps_infer.bundle import Bundle
from tbps_infer.data.synth import write_people
from tbps_infer.errors import CheckpointError, UsageError
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.table import Found, inspect_checkpoint, load_source
from tbps_infer.tokenizer_files import clip_tokenizer

pytestmark = pytest.mark.usefixtures("exports_once")


def save(folder: Path, tensors: dict[str, Tensor], config: str | None = None) -> Path:
    made.write_merges(folder / "merges.txt", 60)
    return Path(made.save_irra(folder / "best.pth", tensors, config=config))


def found(file: Path, **options: Any) -> Found:
    understood = inspect_checkpoint(file, LoadOptions(**options))
    assert understood is not None
    return understood


def test_tensors_inside_the_network_are_never_dropped(tmp_path: Path) -> None:
    tensors = made.irra_tensors(made.Sizes())
    for layer in range(2):
        for name in ("up", "down"):
            tensors[f"base_model.visual.transformer.resblocks.{layer}.extra.{name}.weight"] = torch.ones(2)
    tensors |= {"base_model.gate": torch.ones(1), "prompt.a": torch.ones(1), "prompt.b": torch.ones(1)}
    file = save(tmp_path, tensors)
    for drop in ((), ("base_model.",), ("base_model.visual.", "base_model.gate")):
        with pytest.raises(CheckpointError) as caught:
            found(file, drop=drop)
        sentence = caught.value.message
        assert r"base_model.visual.transformer.resblocks.*.extra.up. (2)" in sentence
        assert "base_model.gate" in sentence and "prompt. (2)" in sentence
        assert "--drop" not in caught.value.hint and "another architecture" in caught.value.hint


def test_what_the_network_needs_is_not_dropped_in_silence(tmp_path: Path) -> None:
    file = save(tmp_path, made.irra_tensors(made.Sizes()))
    for drop in ("base_model.", "base_model.text_projection"):
        with pytest.raises(CheckpointError, match=f"the network needs {drop}"):
            found(file, drop=(drop,))
    assert found(file, drop=("classifier.", "of_another_checkpoint."))


def test_all_groups_outside_the_network_are_proposed_at_once(tmp_path: Path) -> None:
    tensors = made.irra_tensors(made.Sizes()) | {name: torch.ones(1) for name in ("head.a", "head.b", "queue")}
    with pytest.raises(CheckpointError, match=r"head\. \(2\), queue") as caught:
        found(save(tmp_path, tensors))
    assert caught.value.hint.endswith("--drop head. --drop queue")
    dropped = found(tmp_path / "best.pth", drop=("head.", "queue")).coverage.dropped_groups()
    assert (dropped["head"], dropped["queue"]) == (2, 1)


def test_a_second_set_of_the_same_weights_is_no_training_head(tmp_path: Path) -> None:
    tensors = made.irra_tensors(made.Sizes())
    file = save(tmp_path, tensors | {f"teacher.{name}": tensor + 1 for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=r"teacher\.") as caught:
        found(file)
    assert "--key teacher." in caught.value.hint
    assert torch.equal(
        found(file, key="teacher.").file.tensors["base_model.text_projection"],
        tensors["base_model.text_projection"] + 1,
    )


VFE_TPS = (
    *("mask_token", "cross_attention_image.in_proj_weight", "cross_modal_transformer_image.resblocks.0.ln_1.weight"),
    *("image_ln_pre_t.weight", "image_ln_pre_i.weight", "image_ln_post.weight", "decoder.0.weight"),
    *("cross_attention_itm.in_proj_weight", "cross_modal_transformer_itm.resblocks.0.ln_1.weight"),
    *("itm_ln_pre_t.weight", "itm_ln_pre_i.weight", "itm_ln_post.weight", "mlp_itm.0.weight", "gToken2id.weight"),
)


def test_vfe_tps_is_irra_with_heads_that_are_known(tmp_path: Path) -> None:
    tensors = made.irra_tensors(made.Sizes())
    plain = load_source(None, save(tmp_path, tensors)).facts.fingerprint
    source = load_source(None, save(tmp_path, tensors | {name: torch.ones(2) for name in VFE_TPS}))
    assert source.facts.fingerprint == plain
    assert {name.split(".")[0] for name in VFE_TPS} <= source.dropped.keys()


def test_what_is_assumed_and_dropped_is_told_and_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save(tmp_path, made.rde_tensors(made.Sizes()))
    assumed = {"stride": 16, "image_size": "96x32", "max_length": 20, "select_ratio": 0.3}
    with caplog.at_level(logging.WARNING):
        assert load_source(None, file).assumed == assumed
    assert "--stride 16, --image-size 96x32, --max-length 20, --select-ratio 0.3" in caplog.text
    done = succeed("export", file, "-o", tmp_path / "bundle", "--max-length", "20", "--select-ratio", "0.3")
    del assumed["max_length"], assumed["select_ratio"]
    assert "visul_emb_layer 6" in done.stdout
    source = Bundle.open(tmp_path / "bundle").source
    assert source["assumed"] == assumed and source["dropped"] == {"visul_emb_layer": 6, "texual_emb_layer": 4}
    assert "stride 16" in succeed("info", tmp_path / "bundle").stdout
    told = json.loads(succeed("info", file, "--json", "--stride", "16", "--image-size", "96x32").stdout)
    assert told["assumed"] == {"max_length": 20, "select_ratio": 0.3}
    settings = "stride_size: 16\nimg_size: [96, 32]\ntext_length: 20\nselect_ratio: 0.5\n"
    assert not load_source(None, save(tmp_path, made.rde_tensors(made.Sizes()), settings)).assumed


@pytest.mark.parametrize(
    ("patch", "cells", "options", "stride", "size"),
    [
        (14, 192, {}, 16, (384, 128)),
        (16, 310, {"stride": 12}, 12, (384, 128)),
        (32, 48, {}, 32, (384, 128)),
        (14, 256, {"image_size": (224, 224)}, 14, (224, 224)),
        (14, 256, {"image_size": (256, 256)}, 16, (256, 256)),
    ],
)
def test_the_stride_of_the_published_training_is_16_whatever_the_patch(
    tmp_path: Path, patch: int, cells: int, options: dict[str, Any], stride: int, size: tuple[int, int]
) -> None:
    plan = found(save(tmp_path, made.irra_tensors(made.Sizes(patch=patch, cells=cells))), **options).plan
    assert (plan.config["image"]["stride"], plan.preprocessing.image_size) == (stride, size)
    assert ("stride" in plan.assumed) == ("stride" not in options)


def test_positions_of_no_usual_training_ask_for_both(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        found(save(tmp_path, made.irra_tensors(made.Sizes(patch=14, cells=256))))
    assert "--image-size HEIGHTxWIDTH and --stride PIXELS" in caught.value.hint


@pytest.mark.parametrize("weight", [None, 0.68])
def test_itself_is_rde_with_shares_of_its_own(tmp_path: Path, weight: float | None) -> None:
    tensors = made.rde_tensors(made.Sizes(head=(24, 4096)))
    tensors["classifier_grab.weight"] = torch.ones(2)
    file = save(tmp_path, tensors)
    itself = load_source(None, file, LoadOptions(global_weight=weight))
    share = weight or 0.5
    assert [(s.name, s.size, s.weight) for s in itself.facts.layout.segments] == [
        ("global", 32, share),
        ("grab", 4096, 1 - share),
    ]
    assert itself.facts.family == "itself" and itself.facts.config["image_tokens"] == int(12 * 0.4)
    assert ("global_weight" in itself.assumed) == (weight is None)
    rde = load_source("rde", file, LoadOptions(select_ratio=0.4))
    pixels = torch.randint(0, 256, (3, 96, 32, 3), dtype=torch.uint8)
    ids = torch.tensor([[573, 4, 5, 574], [573, 9, 574, 0], [573, 7, 8, 574]], dtype=torch.int32)
    mask = torch.ones_like(ids)
    one, other = rde.image(pixels), rde.text(ids, mask)
    cosines = [2 * other[:, part] @ one[:, part].T for part in (slice(0, 32), slice(32, None))]
    similarity = itself.text(ids, mask) @ itself.image(pixels).T
    torch.testing.assert_close(similarity, share * cosines[0] + (1 - share) * cosines[1], atol=1e-5, rtol=0)


def test_icl_is_irra_by_its_own_name(tmp_path: Path) -> None:
    file = save(tmp_path, made.irra_tensors(made.Sizes(positions=168)))
    source = load_source("icl", file)
    assert (source.facts.family, source.facts.max_length) == ("icl", 168)


@pytest.mark.parametrize(
    ("model", "names", "key"),
    [
        ("UP-Person", ("base_model.visual.class_embedding", "LORA_learner.lora_text.0.lora_A.0"), "model"),
        ("DM-Adapter", ("base_model.visual.transformer.resblocks.0.adapter.up.weight",), "model"),
        ("SSAN", ("ImageExtract.0.weight", "TextExtract.embedding.weight", "non_local_net.a.weight"), "network"),
        ("LGUR", ("ImageExtract.0.weight", "TextExtract.embedding.weight"), "network"),
        ("CFine", ("anything.weight",), "network"),
        ("TIPCB", ("model_img.base1.0.weight", "model_txt.a.weight"), "state_dict"),
        ("RaSa", ("visual_encoder_m.a.weight", "text_encoder_m.a.weight"), "model"),
        ("APTM", ("vision_encoder.a.weight", "text_encoder.a.weight", "itm_head.0.weight"), "model"),
    ],
)
def test_models_that_are_not_supported_are_named(
    tmp_path: Path, model: str, names: tuple[str, ...], key: str
) -> None:
    torch.save({key: {name: torch.ones(2) for name in names}, "epoch": 3}, tmp_path / "best.pth")
    with pytest.raises(CheckpointError, match=rf"{model}.*not supported"):
        found(tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("family", "options", "named"),
    [
        ("irra", {"vocab": Path("vocab.txt")}, "--vocab means nothing to the family irra"),
        ("irra", {"select_ratio": 0.5, "global_weight": 0.5}, "--select-ratio, --global-weight mean nothing"),
        ("tbps-clip", {"stride": 16}, "--stride means nothing to the family tbps-clip"),
    ],
)
def test_options_that_mean_nothing_to_a_family_are_refused(
    tmp_path: Path, family: str, options: dict[str, Any], named: str
) -> None:
    writers = {"irra": made.irra_tensors, "tbps-clip": made.tbps_clip_tensors}
    file = save(tmp_path, writers[family](made.Sizes(cells=16)))
    with pytest.raises(UsageError, match=named):
        found(file, **options)


@pytest.mark.parametrize("arguments", [("--image-size", "96x32"), ("--drop", "x."), ("--max-length", "9")])
def test_the_part_model_takes_none_of_them(tiny_checkpoint: Path, arguments: tuple[str, str]) -> None:
    refused = fail(2, "info", tiny_checkpoint, *arguments)
    assert f"{arguments[0]} means nothing to the family part" in refused.output


def test_a_long_s_is_an_s_to_clips_tokenizer(tmp_path: Path) -> None:
    """CLIP's pattern ignores case: 'ſ is one word, as 's is."""
    tokenizer = clip_tokenizer(made.write_merges(tmp_path / "merges.txt", 60), 575)
    assert tokenizer.pre_tokenizer is not None
    words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("it'ſt it'st")]
    assert [len(word.encode()) for word in words] == [2, 5, 1, 2, 2, 1]


def test_eval_and_embed_take_what_their_hints_name(tmp_path: Path) -> None:
    people = tmp_path / "people"
    write_people(people, 3, seed=3)
    rows = [f"{picture},a woman in red,{n}" for n, picture in enumerate(sorted(people.rglob("*.jpg"))[:3])]
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("\n".join(["path,caption,id", *rows]))
    (tmp_path / "merges").mkdir()
    file = save(tmp_path, made.irra_tensors(made.Sizes()))
    merges = (tmp_path / "merges.txt").rename(tmp_path / "merges" / "mine.txt")
    gallery = tmp_path / "gallery"
    asked = fail(2, "eval", file, labelled, "--backend", "torch")
    assert "--merges FILE" in asked.output
    for command in (("eval", file, labelled), ("embed", file, people, "-o", gallery)):
        succeed(*command, "--backend", "torch", "--merges", merges, "--stride", "16")
    refused = fail(2, "info", gallery, "--merges", merges)
    assert "--merges means nothing to" in refused.output and "which is a gallery" in refused.output


def test_options_beside_a_bundle_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    write_people(tmp_path / "people", 1, seed=3)
    for command in (("info", tiny_bundle), ("embed", tiny_bundle, tmp_path / "people", "-o", tmp_path / "gallery")):
        refused = fail(2, *command, "--image-size", "96x32")
        assert "--image-size means nothing to" in refused.output and "which is a bundle" in refused.output


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("#version: 0.2\n" + "Ġ t\nh e\nĠt he\n" * 20, r"marks no ends of words"),
        ("<!DOCTYPE html>\n" + "<a href=x>\n" * 99, r"line 2: the piece '<a' is no letter"),
        ("#version: 0.2\n" + "ab c</w>\n" * 99, r"line 2: the piece 'ab' is no letter"),
    ],
    ids=["gpt-2", "html", "out of order"],
)
def test_merges_of_another_model_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = save(tmp_path, made.irra_tensors(made.Sizes()))
    (tmp_path / "other.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        load_source(None, file, LoadOptions(merges=tmp_path / "other.txt"))


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path, made.irra_tensors(made.Sizes()))
    with pytest.raises(CheckpointError, match=r"--max-length is 21, and best\.pth has 20 positions"):
        found(file, max_length=21)
