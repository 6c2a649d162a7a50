"""The shipped checkpoint: what its config file says is what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from places import SHIPPED, SHIPPED_BUNDLE

from tbps_infer.bundle import Bundle, file_sha256
from tbps_infer.data.readers import read_dataset
from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.devices import installed_versions
from tbps_infer.doctor import examine_bundle
from tbps_infer.encoder import Encoder
from tbps_infer.evaluation.evaluate import evaluate
from tbps_infer.export.graphs import export_graph
from tbps_infer.families.table import load_source
from tbps_infer.model_facts import BRANCHES
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.runners import RunOptions
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.verification.golden import golden_cosine
from tbps_infer.verification.tolerances import GOLDEN_COSINE


def test_it_is_small_and_says_how_it_was_made() -> None:
    checkpoint = load_checkpoint(SHIPPED)
    assert checkpoint.path.stat().st_size < 8_000_000
    assert checkpoint.training["options"]["seed"] == 0
    assert checkpoint.training["held_out"]["text_to_image"]["R@1"] >= 60
    assert checkpoint.training["held_out"]["text_to_image"]["gallery"] >= 800
    assert any("tbps train" in command for command in checkpoint.training["commands"])


def test_the_shipped_bundle_is_of_the_shipped_checkpoint() -> None:
    """Both are replaced together: `make tiny-bundle` makes the bundle of the checkpoint."""
    bundle = Bundle.open(SHIPPED_BUNDLE)
    bundle.check_files()
    source = load_source(None, SHIPPED)
    wanted = "the shipped bundle is of another checkpoint or format: run make tiny-bundle"
    assert bundle.model.differences(source.facts) == [], wanted
    assert bundle.source["sha256"] == source.sha256, wanted
    golden = bundle.golden()
    with torch.inference_mode():
        image = source.image(torch.from_numpy(golden.pixels))
        text = source.text(torch.from_numpy(golden.input_ids), torch.from_numpy(golden.attention_mask))
    np.testing.assert_allclose(golden.image_embeddings, image, atol=1e-5, err_msg=wanted)
    np.testing.assert_allclose(golden.text_embeddings, text, atol=1e-5, err_msg=wanted)


def test_the_shipped_bundle_computes_what_it_says() -> None:
    findings = [
        finding for finding in examine_bundle(SHIPPED_BUNDLE) if finding.subject.startswith("onnxruntime cpu fp32")
    ]
    assert [finding.status for finding in findings] == ["ok", "ok"], findings


@pytest.mark.slow
def test_exporting_the_checkpoint_gives_the_shipped_graphs(tmp_path: Path) -> None:
    """Byte for byte with the packages that made them, and else within the export's own limits."""
    shipped, source = Bundle.open(SHIPPED_BUNDLE), load_source(None, SHIPPED)
    made_by = ("torch", "onnxscript", "onnx", "transformers")
    the_same = {name: shipped.versions[name] for name in made_by} == installed_versions(made_by)
    for branch in BRANCHES:
        export_graph(source.branch(branch), branch, source.facts, tmp_path / f"{branch}.onnx")
        runner = OnnxRuntimeRunner(tmp_path / f"{branch}.onnx", RunOptions())
        assert golden_cosine(shipped.golden(), branch, runner) >= GOLDEN_COSINE["fp32"]
        runner.close()
        assert not the_same or file_sha256(tmp_path / f"{branch}.onnx") == shipped.files[f"{branch}.onnx"].sha256


@pytest.mark.slow
def test_its_held_out_numbers_are_reproduced(tmp_path: Path) -> None:
    """On 200 identities that training never saw; one caption of 1600 may tip on another machine."""
    options = SynthOptions(only=("test",), workers=1)
    write_dataset(tmp_path / "people", options)
    split = read_dataset(tmp_path / "people", "test")
    with Encoder.open(SHIPPED, RunOptions(backend="torch", threads=torch.get_num_threads())) as encoder:
        report = evaluate(encoder.encode_texts, encoder.encode_images, split)
    committed = load_checkpoint(SHIPPED).training["held_out"]
    assert report.identities == committed["identities"] == 200
    for direction in ("text_to_image", "image_to_text"):
        measured = getattr(report, direction)
        want = dict(committed[direction])
        assert (measured.queries, measured.gallery) == (want.pop("queries"), want.pop("gallery"))
        assert measured.headline() == pytest.approx(want, abs=0.3)
