"""One bundle with the graphs of several precisions, made at once or one after another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from int8_bundles import write_people

import tbps_infer.export.bundle as bundle_module
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BundleError, UsageError
from tbps_infer.export.bundle import export_bundle
from tbps_infer.export.int8.calibration import read_calibration
from tbps_infer.export.int8.options import Int8Options
from tbps_infer.export.options import ExportOptions
from tbps_infer.model_facts import Branch

HALVES = {"image.fp16.onnx", "text.fp16.onnx"}
QUARTERS = {"image.int8.onnx", "text.int8.onnx"}


@pytest.fixture
def ready_graphs(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """FP32 graphs are taken from the tiny bundle; the names of those that were asked for."""
    exported: list[str] = []

    def export(_module: object, branch: Branch, _facts: object, path: Path, **_options: object) -> None:
        exported.append(branch)
        shutil.copy(tiny_bundle / path.name, path)

    monkeypatch.setattr(bundle_module, "export_graph", export)
    return exported


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Int8Options:
    return Int8Options(read_calibration(write_people(tmp_path_factory.mktemp("people"))))


def test_graphs_are_added_one_precision_after_another(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, ready_graphs: list[str], int8: Int8Options
) -> None:
    out = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    before = Bundle.open(out)
    steps: list[str] = []
    half = export_bundle(tiny_checkpoint, out, ExportOptions(add=True, precisions=("fp16",)), steps.append)
    assert set(half.files) == {*before.files, *HALVES}
    options = ExportOptions(add=True, precisions=("fp16", "int8"), int8=int8)
    whole = export_bundle(tiny_checkpoint, out, options, steps.append)
    assert set(whole.files) == {*before.files, *HALVES, *QUARTERS}
    assert sum(step.startswith("Converting the graphs to FP16") for step in steps) == 1, "what is there is not redone"
    assert {name: whole.files[name] for name in half.files} == half.files
    assert {"image", "ranking", "fp16", "int8"} <= set(whole.verification)
    assert (whole.created, whole.opset, whole.model) == (before.created, before.opset, before.model)
    whole.check_files()
    assert ready_graphs == [], "no FP32 graph is exported again"
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"
    # Nothing is left to add, so nothing is calibrated and nothing is written.
    written = (out / "bundle.json").stat().st_mtime_ns
    export_bundle(tiny_checkpoint, out, ExportOptions(add=True, precisions=("int8",)), steps.append)
    assert steps[-1] == f"{out} has these graphs already"
    assert (out / "bundle.json").stat().st_mtime_ns == written


def test_all_precisions_are_exported_in_one_go(
    tiny_checkpoint: Path, tmp_path: Path, ready_graphs: list[str], int8: Int8Options
) -> None:
    options = ExportOptions(precisions=("fp16", "int8"), int8=int8)
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    assert {"image.onnx", "text.onnx", *HALVES, *QUARTERS} <= set(bundle.files)
    assert bundle.verification["fp16"]["passed"] and bundle.verification["int8"]["verdict"]["passed"]
    assert ready_graphs == ["image", "text"]


def test_graphs_are_not_added_to_what_is_no_bundle_of_the_checkpoint(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    from tbps_infer.reference.checkpoint import load_checkpoint
    from tbps_infer.reference.pretrained import initial_checkpoint

    half = ExportOptions(add=True, precisions=("fp16",))
    out = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    loaded = load_checkpoint(tiny_checkpoint)
    tokenizer = loaded.tokenizer_path.read_text(encoding="utf-8")
    other = initial_checkpoint(tmp_path / "other", loaded.model.config, tokenizer, seed=1)
    with pytest.raises(BundleError, match=r"was not exported from .*other: they differ in fingerprint, weights"):
        export_bundle(other, out, half)
    with pytest.raises(BundleError, match=r"There is no bundle .*missing to add to"):
        export_bundle(tiny_checkpoint, tmp_path / "missing", half)
    with pytest.raises(BundleError, match="is not a bundle, so it is not added to"):
        export_bundle(tiny_checkpoint, tiny_checkpoint, half)
    with pytest.raises(UsageError, match="nothing to calibrate it on"):
        export_bundle(tiny_checkpoint, out, ExportOptions(add=True, precisions=("int8",)))
    (out / "text.onnx").write_bytes((out / "text.onnx").read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"text\.onnx is not the file"):
        export_bundle(tiny_checkpoint, out, half)
    assert set(Bundle.open(out).files) == set(Bundle.open(tiny_bundle).files)


@pytest.mark.parametrize("more", [{"overwrite": True}, {"with_attention": True}])
def test_adding_excludes_exporting_again(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Graphs cannot be added"):
        ExportOptions(add=True, **more)
