"""Bundles: what is read back, and what is said when a file is missing, altered or of another version."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_files import change_json

from tbps_infer.bundle import Bundle, file_facts, file_sha256, is_bundle
from tbps_infer.errors import BundleError, TbpsError
from tbps_infer.images import load_crop
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.runners import Feeds, RunOptions, open_runner
from tbps_infer.text import Tokenizer, pad_ids


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def flip_a_bit(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_facts_are_the_checkpoints(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    bundle, checkpoint = Bundle.open(tiny_bundle), load_checkpoint(tiny_checkpoint)
    assert is_bundle(tiny_bundle) and not is_bundle(tiny_checkpoint)
    assert bundle.model == checkpoint.facts
    assert bundle.source == {"name": "tiny-checkpoint/model.safetensors", "sha256": checkpoint.sha256}
    assert file_sha256(bundle.tokenizer_path) == file_sha256(checkpoint.tokenizer_path)
    assert bundle.opset == 18 and bundle.versions["torch"] and bundle.versions["onnxruntime"]
    assert bundle.verification["passed"] and not bundle.verification["failures"]
    assert bundle.verification["image"]["cosine_min"] >= bundle.verification["limits"]["cosine"]
    assert bundle.created.endswith("+00:00")


def test_every_file_is_listed_and_hashed(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    files = {file.relative_to(tiny_bundle).as_posix() for file in tiny_bundle.rglob("*") if file.is_file()}
    assert set(bundle.files) == files - {"bundle.json"}
    assert {"image.onnx", "text.onnx", "tokenizer.json", "golden/golden.json", "golden/vectors.npz"} < files
    assert bundle.files == file_facts(tiny_bundle)
    bundle.check_files()


def test_golden_vectors_are_replayed(tiny_bundle: Path) -> None:
    """The inputs come from the crops and captions, and the graphs give the embeddings of the inputs."""
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    facts = bundle.model
    crops = np.stack([load_crop(crop, facts.preprocessing) for crop in golden.crops])
    np.testing.assert_array_equal(golden.pixels, crops)
    ids, mask = pad_ids(Tokenizer.from_bundle(bundle).encode(golden.captions), facts.pad_id)
    np.testing.assert_array_equal(golden.input_ids, ids)
    np.testing.assert_array_equal(golden.attention_mask, mask)
    feeds: dict[Branch, Feeds] = {"image": {"pixels": crops}, "text": {"input_ids": ids, "attention_mask": mask}}
    branches: tuple[Branch, ...] = ("image", "text")
    for branch in branches:
        runner = open_runner(bundle, branch, RunOptions(threads=1))
        embedding = runner.run(feeds[branch])[f"{branch}_embedding"]
        runner.close()
        wanted = golden.image_embeddings if branch == "image" else golden.text_embeddings
        assert len(wanted) == 4 and wanted.dtype == np.float32
        np.testing.assert_allclose(embedding, wanted, rtol=0, atol=1e-5)
    assert np.abs(np.diff(golden.image_embeddings, axis=0)).max(1).min() > 1e-4  # four different crops


@pytest.mark.parametrize("name", ["image.onnx", "tokenizer.json", "golden/crops/2.png"])
def test_a_file_with_one_bit_changed_is_named(copy: Path, name: str) -> None:
    flip_a_bit(copy / name, (copy / name).stat().st_size // 2)
    bundle = Bundle.open(copy)
    with pytest.raises(BundleError, match=rf"{name} is not the file this bundle was written with"):
        bundle.check_files()
    with pytest.raises(BundleError, match=name):
        bundle.check_file(name)


def test_a_branch_is_not_opened_over_an_altered_file(copy: Path) -> None:
    flip_a_bit(copy / "text.onnx", 5000)
    bundle = Bundle.open(copy)
    open_runner(bundle, "image", RunOptions(threads=1)).close()
    with pytest.raises(BundleError, match=r"text\.onnx is not the file"):
        open_runner(bundle, "text", RunOptions(threads=1))
    flip_a_bit(copy / "tokenizer.json", 100)
    with pytest.raises(BundleError, match=r"tokenizer\.json is not the file"):
        Tokenizer.from_bundle(bundle)
    flip_a_bit(copy / "golden/vectors.npz", 100)
    with pytest.raises(BundleError, match=r"vectors\.npz is not the file"):
        bundle.golden()


def test_external_data_is_checked_with_its_graph(copy: Path) -> None:
    (copy / "image.onnx.data").write_bytes(b"weights")
    facts = file_facts(copy)["image.onnx.data"]
    listed = {"bytes": facts.bytes, "sha256": facts.sha256}
    change_json(copy / "bundle.json", lambda values: values["files"].update({"image.onnx.data": listed}))
    bundle = Bundle.open(copy)
    assert bundle.check_graph("image") == copy / "image.onnx"
    (copy / "image.onnx.data").write_bytes(b"Weights")
    with pytest.raises(BundleError, match=r"image\.onnx\.data is not the file"):
        bundle.check_graph("image")
    bundle.check_graph("text")


def test_a_missing_or_cut_file_is_found_at_opening(copy: Path) -> None:
    (copy / "golden/golden.json").rename(copy / "kept")
    with pytest.raises(BundleError, match=r"has no golden/golden\.json"):
        Bundle.open(copy)
    (copy / "kept").rename(copy / "golden/golden.json")
    content = (copy / "text.onnx").read_bytes()
    (copy / "text.onnx").write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"text\.onnx has {len(content) - 1} bytes, and {len(content)} were"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda values: values.update(schema=2), "schema 2; this version reads 1"),
        (lambda values: values.pop("schema"), "schema None"),
        (lambda values: values.pop("opset"), "opset"),
        (lambda values: values.update(files=[]), "not valid"),
        (lambda values: values["files"]["text.onnx"].pop("sha256"), "sha256"),
        (lambda values: values["files"]["text.onnx"].update(colour=1), "colour"),
        (lambda values: values["model"].pop("layout"), "layout"),
        (lambda values: values["model"].update(layout=[]), "layout"),
        (lambda values: values["model"]["layout"][1].update(name="global"), "distinct"),
        (lambda values: values["model"]["preprocessing"].update(antialias=False), "antialias"),
        (lambda values: values["model"]["preprocessing"].update(image_size=7), "image_size is 7, want a list"),
        (lambda values: values.update(model=None), "not valid"),
    ],
)
def test_facts_of_another_version_or_kind_are_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    change_json(copy / "bundle.json", change)
    with pytest.raises(BundleError, match=sentence):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"{", "not valid JSON"), (b"\xff\xfe", "not valid JSON"), (b"[]", "JSON object")]
)
def test_a_damaged_bundle_json_is_refused(copy: Path, content: bytes, sentence: str) -> None:
    (copy / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=sentence):
        Bundle.open(copy)


def test_what_is_not_a_bundle_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for path in (tiny_checkpoint, tmp_path, tmp_path / "nowhere", tiny_checkpoint / "config.json"):
        with pytest.raises(BundleError, match=r"not a bundle: it has no bundle\.json") as caught:
            Bundle.open(path)
        assert "tbps export" in caught.value.hint and isinstance(caught.value, TbpsError)


def test_a_file_that_is_not_listed_is_refused(copy: Path) -> None:
    (copy / "more.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"has no more\.onnx"):
        Bundle.open(copy).check_file("more.onnx")


def test_the_fingerprint_depends_on_each_fact_of_the_numbers() -> None:
    facts: dict[str, Any] = {
        "family": "part",
        "config": {"dim": 4},
        "preprocessing": Preprocessing(),
        "caption_rule": "none",
        "max_length": 100,
        "weights_sha256": "a",
        "tokenizer_sha256": "b",
    }
    others: dict[str, Any] = {
        "family": "clip",
        "config": {"dim": 5},
        "preprocessing": replace(Preprocessing(), interpolation="bilinear"),
        "caption_rule": "pre_caption",
        "max_length": 77,
        "weights_sha256": "b",
        "tokenizer_sha256": "a",
    }

    def fingerprint(weights_sha256: str, tokenizer_sha256: str, **values: Any) -> str:
        layout = VectorLayout((Segment("global", 4),))
        return ModelFacts(**values, pad_id=0, layout=layout).identified(weights_sha256, tokenizer_sha256).fingerprint

    prints = {fingerprint(**{**facts, name: value}) for name, value in others.items()}
    assert len(prints | {fingerprint(**facts)}) == 8
    assert fingerprint(**facts) == fingerprint(**dict(reversed(list(facts.items()))))
