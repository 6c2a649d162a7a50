"""Published checkpoints in use: their inputs' facts, the work that is saved, the command line, engines, full size."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import family_checkpoints as made
import numpy as np
import pytest
import torch
from command_line import fail, run, succeed
from places import MERGES
from torch import Tensor, nn

from tbps_infer.data.synth import write_people
from tbps_infer.encoder import Encoder
from tbps_infer.errors import CheckpointError, UsageError
from tbps_infer.export.bundle import export_bundle
from tbps_infer.families.clip import end_positions
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.table import SourceModel, inspect_checkpoint, load_source
from tbps_infer.runners.options import RunOptions
from tbps_infer.tokenizer_files import SPECIAL_TOKENS, clip_tokenizer

pytestmark = pytest.mark.usefixtures("exports_once")

FAMILIES = ("irra", "rde", "tbps-clip", "plip")


def save(folder: Path, family: str) -> Path:
    """A small checkpoint of a family, with what its tokenizer is made from, and no configuration file."""
    folder.mkdir(exist_ok=True)
    if family == "plip":
        vocab = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
        vocab += [f"word{number}" for number in range(200 - len(vocab))]
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
        return Path(made.save_plip(folder / "best.pth.tar", *made.plip_tensors()))
    made.write_merges(folder / "merges.txt", 60)
    writers: dict[str, Callable[[made.Sizes], dict[str, Tensor]]] = {
        "irra": lambda sizes: made.half(made.irra_tensors(sizes)),
        "rde": made.rde_tensors,
        "tbps-clip": made.tbps_clip_tensors,
    }
    sizes = made.Sizes(cells=16) if family == "tbps-clip" else made.Sizes()
    return Path(made.save_irra(folder / "best.pth", writers[family](sizes)))


@pytest.mark.parametrize(
    ("family", "size", "interpolation", "first_mean", "rule", "pad"),
    [
        ("irra", (96, 32), "bilinear", 0.48145466, "clip", 0),
        ("rde", (96, 32), "bilinear", 0.48145466, "clip", 0),
        ("tbps-clip", (64, 64), "bicubic", 0.485, "pre_caption_clip", 0),
        ("plip", (128, 64), "bicubic", 0.357, "none", 0),
    ],
)
def test_every_familys_inputs_are_its_own(
    tmp_path: Path, family: str, size: tuple[int, int], interpolation: str, first_mean: float, rule: str, pad: int
) -> None:
    facts = load_source(None, save(tmp_path, family)).facts
    assert facts.family == family
    assert (facts.preprocessing.image_size, facts.preprocessing.interpolation) == (size, interpolation)
    assert facts.preprocessing.mean[0] == first_mean
    assert (facts.caption_rule, facts.pad_id) == (rule, pad)
    assert facts.layout.squared_norm == pytest.approx(1)


@pytest.mark.parametrize(
    ("positions", "patch", "size"), [(193, 16, (384, 128)), (197, 16, (224, 224)), (769, 8, (384, 128))]
)
def test_full_sizes_follow_from_the_positions_alone(
    tmp_path: Path, positions: int, patch: int, size: tuple[int, int]
) -> None:
    file = made.save_irra(tmp_path / "a.pth", made.irra_tensors(made.Sizes(cells=positions - 1, patch=patch)))
    found = inspect_checkpoint(file)
    assert found is not None and found.plan.preprocessing.image_size == size


def test_overlapping_patches_take_their_stride_from_the_settings(tmp_path: Path) -> None:
    """(96 − 16)/12 + 1 by (32 − 16)/12 + 1 patches."""
    tensors = made.irra_tensors(made.Sizes(cells=14))
    file = made.save_irra(tmp_path / "a.pth", tensors, config="img_size: [96, 32]\nstride_size: 12\n")
    made.write_merges(tmp_path / "merges.txt", 60)
    source = load_source(None, file)
    pixels = torch.randint(0, 256, (2, 96, 32, 3), dtype=torch.uint8)
    assert source.image(pixels).shape == (2, 32)
    with pytest.raises(CheckpointError, match=r"patches of 16 every 16 pixels make 13"):
        inspect_checkpoint(file, LoadOptions(config=_write(tmp_path / "other.yaml", "img_size: [96, 32]\n")))


def test_the_end_is_found_among_ids_that_are_one_number_in_fp16() -> None:
    """49405, 49406 and 49407 round to 49408 in FP16, where the start would pass for the end."""
    ids = torch.tensor([[49406, 49405, 7, 49407, 0, 0], [49406, 49407, 0, 0, 0, 0], [49406, 1, 2, 3, 4, 49407]])
    assert len(set(ids[0, [0, 1, 3]].half().tolist())) == 1
    ends = end_positions(ids.int(), (ids != 0).int(), 49407)
    assert ends.tolist() == [[3], [1], [5]]


def test_the_cross_modal_layers_of_tbps_clip_are_dropped_and_not_taken_for_the_backbones(tmp_path: Path) -> None:
    """With its ``mlm`` loss there is an ``ln_post`` beside ``visual.ln_post``."""
    file = save(tmp_path, "tbps-clip")
    tensors = torch.load(file, weights_only=True)["model"]
    plain = load_source(None, file)
    for name in ("ln_pre_t", "ln_pre_i", "ln_post"):
        tensors |= {f"{name}.weight": torch.full((32,), 9.0), f"{name}.bias": torch.full((32,), 9.0)}
    found = inspect_checkpoint(made.save_irra(file, tensors))
    assert found is not None and found.coverage.dropped_groups()["ln_post"] == 2
    assert load_source(None, file).facts.fingerprint == plain.facts.fingerprint


@pytest.mark.parametrize(
    ("family", "config", "sentence"),
    [
        ("irra", "vocab_size: 49408\n", r"vocab_size is 49408, and .*token_embedding\.weight of best\.pth says 575"),
        ("tbps-clip", "model: {vocab_size: 9}\n", "model.vocab_size is 9"),
        ("tbps-clip", "model: {embed_dim: 512}\n", "model.embed_dim is 512, and visual.proj of best.pth says 32"),
        ("tbps-clip", "experiment: {input_resolution: [224, 224]}\n", "pictures of 224x224"),
        ("rde", "select_ratio: 0.0\n", "chooses 0 of 12 patches"),
    ],
)
def test_settings_of_another_checkpoint_are_refused(tmp_path: Path, family: str, config: str, sentence: str) -> None:
    file = save(tmp_path, family)
    _write(tmp_path / "configs.yaml", config)
    with pytest.raises(CheckpointError, match=sentence):
        inspect_checkpoint(file)


def test_rdes_share_of_tokens_is_the_settings(tmp_path: Path) -> None:
    file = save(tmp_path, "rde")
    _write(tmp_path / "configs.yaml", "select_ratio: 0.5\n")
    found = inspect_checkpoint(file)
    assert found is not None
    assert (found.plan.config["image_tokens"], found.plan.config["text_tokens"]) == (6, 9)


def test_tensors_of_no_family_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"fc.weight": torch.zeros(2, 2)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no known family") as caught:
        inspect_checkpoint(tmp_path / "a.pth")
    assert "--family" in caught.value.hint


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    tensors = made.irra_tensors(made.Sizes())
    tensors["module.base_model.text_projection"] = tensors["base_model.text_projection"] + 1
    with pytest.raises(CheckpointError, match=r"has base_model\.text_projection twice"):
        inspect_checkpoint(made.save_irra(tmp_path / "a.pth", tensors))


def test_a_config_of_hugging_faces_beside_a_checkpoint_hides_nothing(tmp_path: Path) -> None:
    file = save(tmp_path, "plip")
    _write(tmp_path / "config.json", json.dumps({"model_type": "bert", "hidden_size": 768}))
    found = inspect_checkpoint(file)
    assert found is not None and found.family.name == "plip"


def test_a_tokenizers_file_is_taken_if_it_marks_the_ends(tmp_path: Path) -> None:
    file = save(tmp_path, "irra")
    from_merges = load_source(None, file).facts.fingerprint
    tokenizer = clip_tokenizer(tmp_path / "merges.txt", 575)
    (tmp_path / "merges.txt").unlink()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_source(None, file).facts.fingerprint == from_merges
    values = json.loads((tmp_path / "tokenizer.json").read_text()) | {"post_processor": None}
    bare = _write(tmp_path / "bare.json", json.dumps(values))
    with pytest.raises(UsageError, match=r"does not put <\|startoftext\|> and <\|endoftext\|> around"):
        load_source(None, file, LoadOptions(tokenizer=bare))


def rows_computed(source: SourceModel, branch: str, layer: str) -> list[int]:
    """Tokens per item that go through a layer of the network, for one batch of three."""
    seen: list[int] = []
    module = (source.image if branch == "image" else source.text).get_submodule(f"model.{layer}")

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].shape[1])

    handle = module.register_forward_pre_hook(note)
    if branch == "image":
        source.image(torch.zeros(3, *source.facts.preprocessing.image_size, 3, dtype=torch.uint8))
    else:
        ids = torch.tensor([[1, 5, 6, 7, 8, 574 if source.facts.family != "plip" else 3]] * 3, dtype=torch.int32)
        source.text(ids, torch.ones_like(ids))
    handle.remove()
    return seen


def test_nothing_is_computed_that_no_embedding_is_made_of(tmp_path: Path) -> None:
    """The first layers see all tokens, once; the last one only those that are pooled."""
    irra = load_source(None, save(tmp_path / "irra", "irra"))
    assert rows_computed(irra, "image", "image.transformer.resblocks.0.mlp.c_fc") == [13]
    assert rows_computed(irra, "image", "image.transformer.resblocks.1.mlp.c_fc") == [1]
    assert rows_computed(irra, "image", "image.ln_post") == [1]
    assert rows_computed(irra, "text", "text.transformer.resblocks.0.mlp.c_fc") == [6]
    assert rows_computed(irra, "text", "text.transformer.resblocks.1.mlp.c_fc") == [1]
    rde = load_source(None, save(tmp_path / "rde", "rde"))
    assert rows_computed(rde, "image", "image.transformer.resblocks.0.mlp.c_fc") == [13]
    assert rows_computed(rde, "image", "image.transformer.resblocks.1.mlp.c_fc") == [1 + 3]
    assert rows_computed(rde, "text", "text.transformer.resblocks.0.mlp.c_fc") == [6]
    assert rows_computed(rde, "text", "text.transformer.resblocks.1.mlp.c_fc") == [1 + 5]
    plip = load_source(None, save(tmp_path / "plip", "plip"))
    assert rows_computed(plip, "text", "text.encoder.layer.0.intermediate.dense") == [6]
    assert rows_computed(plip, "text", "text.encoder.layer.1.intermediate.dense") == [1]


def test_from_a_published_checkpoint_to_hits_by_the_command_line(tmp_path: Path) -> None:
    people = tmp_path / "people"
    write_people(people, 3, seed=3)
    file = save(tmp_path / "rde", "rde")
    told = json.loads(run("info", file, "--json").stdout)
    assert told["family"] == "rde" and told["layout"] == "global 32, tse 48"
    assert told["coverage"] == "81 of 81 tensors"  # 61 of two transformers, 10 of each head
    assert told["dropped"] == {"visul_emb_layer": 6, "texual_emb_layer": 4}
    assert told["image_size"].startswith("96x32")
    for arguments in (
        ("export", file, "-o", tmp_path / "bundle"),
        ("embed", tmp_path / "bundle", people, "-o", tmp_path / "gallery"),
    ):
        succeed(*arguments)
    done = succeed("search", tmp_path / "gallery", "a woman in a red coat", "--format", "json")
    assert '"tse"' in done.stdout
    asked = fail(1, "info", file, "--image-size", "64x64")
    assert "--image-size HEIGHTxWIDTH" in asked.output
    assert run("export", file, "-o", tmp_path / "b", "--merges", file, "--vocab", file).exit_code == 2
    assert run("export", file, "-o", tmp_path / "b", "--image-size", "384").exit_code == 2
    refused = fail(2, "export", file, "-o", tmp_path / "b", "--with-attention")
    assert "is of rde" in refused.output and not (tmp_path / "b").exists()


@pytest.mark.parametrize("family", ["irra", *(pytest.param(each, marks=pytest.mark.slow) for each in FAMILIES[1:])])
def test_the_checkpoint_itself_embeds_as_its_bundle_does(tmp_path: Path, family: str) -> None:
    """With the backend torch: what a bundle's accuracy is compared with."""
    file = save(tmp_path, family)
    export_bundle(file, tmp_path / "bundle")
    crops = np.random.default_rng(0).integers(
        0, 256, (3, *load_source(None, file).facts.preprocessing.image_size, 3), dtype=np.uint8
    )
    captions = ["a man", "a woman in a red coat"]
    with Encoder.open(file, RunOptions("torch")) as one, Encoder.open(tmp_path / "bundle") as other:
        assert one.facts.fingerprint == other.facts.fingerprint
        np.testing.assert_allclose(one.encode_crops(crops), other.encode_crops(crops), atol=1e-5)
        np.testing.assert_allclose(one.encode_texts(captions), other.encode_texts(captions), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_engines_are_built_from_every_familys_graphs(tmp_path: Path, family: str) -> None:
    """NVIDIA's own parser and builder take them, and the size of each graph's memory can be told."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from tbps_infer.export.engines.build import build_engines
    from tbps_infer.export.engines.options import EngineOptions

    export_bundle(save(tmp_path, family), tmp_path / "bundle")
    for precision in ("fp32", "fp16"):
        built = build_engines(
            tmp_path / "bundle",
            EngineOptions(backend="tensorrt-rtx", precision=precision),
        )
        assert {plan.branch for plan in built.folder.facts.plans} == {"image", "text"}


_MEASURE = """
import resource, sys, time
from pathlib import Path
from tbps_infer.export.bundle import export_bundle
start = time.monotonic()
report = export_bundle(Path(sys.argv[1]), Path(sys.argv[2])).verification
assert report["passed"]
print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_size_is_exported_and_verified_in_8_gb(tmp_path: Path, family: str) -> None:
    """ViT-B/16 at 384x128 (TBPS-CLIP: 224x224) with 77 tokens; ResNet-50 at 256x128 with BERT-base."""
    if family != "plip" and not MERGES.is_file():
        pytest.skip("CLIP's merges file is not here")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEASURE, save_full(tmp_path, family), tmp_path / "bundle"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seconds, peak_gb = map(float, done.stdout.split()[-2:])
    print(f"{family}: {seconds:.0f} s, {peak_gb:.2f} GB at most")
    assert peak_gb < 8
    facts = json.loads((tmp_path / "bundle" / "bundle.json").read_text())["model"]
    sizes = {"tbps-clip": [224, 224], "plip": [256, 128]}
    assert facts["preprocessing"]["image_size"] == sizes.get(family, [384, 128])
    assert facts["max_length"] == (64 if family == "plip" else 77)
    if family == "rde":
        assert (facts["config"]["image_tokens"], facts["config"]["text_tokens"]) == (57, 22)


def save_full(folder: Path, family: str) -> Path:
    """A checkpoint of a family's published size."""
    if family == "plip":
        vocab = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
        vocab += [f"word{number}" for number in range(30522 - len(vocab))]
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
        tensors = made.plip_tensors(width=64, layers=(3, 4, 6, 3), cells=32, bert=768, bert_layers=12, vocab=30522)
        return Path(made.save_plip(folder / "best.pth.tar", *tensors))
    shutil.copy(MERGES, folder)
    sizes = dataclasses.replace(made.FULL, cells=196) if family == "tbps-clip" else made.FULL
    writers = {"irra": made.irra_tensors, "rde": made.rde_tensors, "tbps-clip": made.tbps_clip_tensors}
    return Path(made.save_irra(folder / "best.pth", made.half(writers[family](sizes))))


def _write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file
