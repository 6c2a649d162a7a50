"""What fails the gate at export and at build is not installed; what passes carries its verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import fail, run, succeed
from places import SHIPPED
from planted_faults import perturb_weights

from tbps_infer.bundle import Bundle
from tbps_infer.export import bundle as bundle_module
from tbps_infer.export.engines import build as engines
from tbps_infer.export.engines import self_check as engine_check
from tbps_infer.model_facts import Branch
from tbps_infer.runners import RunOptions
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.tensorrt.gpus import GpuFacts

GPU = GpuFacts("Fake RTX", "sm86", 12 << 30, 11 << 30, "13.0", "13.0")


@pytest.fixture
def ready_graphs(shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes the graphs that were exported already."""

    def copy(_module: Any, branch: Branch, _facts: Any, path: Path, **_options: Any) -> None:
        shutil.copyfile(shipped_bundle / f"{branch}.onnx", path)

    monkeypatch.setattr(bundle_module, "export_graph", copy)


@pytest.mark.usefixtures("ready_graphs")
def test_an_export_that_passes_carries_its_verdict(people: Path, tmp_path: Path) -> None:
    done = succeed("export", SHIPPED, "-o", tmp_path / "bundle", "--verify-data", people)
    assert "Holding the fp32 graphs to the gate on synthetic pedestrians test: 48 pictures" in done.stderr
    opened = Bundle.open(tmp_path / "bundle")
    opened.check_files()
    (verdict,) = opened.gate
    assert verdict["passed"] is True
    assert verdict["reference"]["kind"] == "checkpoint"
    assert verdict["metrics"]["mAP"]["reference"] > 90


@pytest.mark.usefixtures("ready_graphs")
def test_an_export_that_fails_is_not_installed(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is harmed after it was verified, as by a faulty last step."""
    verify = bundle_module._Work._verify

    def verify_and_harm(work: Any) -> dict[str, Any]:
        report = verify(work)
        perturb_weights(work.folder / "image.onnx")
        return report

    monkeypatch.setattr(bundle_module._Work, "_verify", verify_and_harm)
    done = fail(1, "export", SHIPPED, "-o", tmp_path / "out" / "bundle", "--verify-data", people)
    assert "The gate refuses onnxruntime cpu fp32: R@1 drops by" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert run("export", SHIPPED, "-o", tmp_path / "out" / "bundle").exit_code == 0  # it is the gate that refused


@pytest.fixture
def pretended(shipped_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle on a machine with a GPU, whose engines are ready at once and run the graphs in ``engine-graphs``."""
    pytest.importorskip("tensorrt_rtx")
    bundle = Path(shutil.copytree(shipped_bundle, tmp_path / "bundle"))
    graphs = tmp_path / "engine-graphs"
    graphs.mkdir()
    for branch in ("image", "text"):
        shutil.copyfile(shipped_bundle / f"{branch}.onnx", graphs / f"{branch}.onnx")

    def open_branch(_folder: Any, _bundle: Any, branch: Branch, *_rest: Any, **_named: Any) -> OnnxRuntimeRunner:
        return OnnxRuntimeRunner(graphs / f"{branch}.onnx", RunOptions())

    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: GPU)
    monkeypatch.setattr(engines, "build_plans", lambda _context, _folder: ((), {}))
    report = {"executed": True, "passed": True, "golden_cosine": {"image": 1.0, "text": 1.0}}
    report |= {"failures": [], "differences": {}}
    monkeypatch.setattr(engine_check, "compare_with_reference", lambda *_: report)
    monkeypatch.setattr(engine_check, "open_memory", lambda _index, _kind: None)
    monkeypatch.setattr(engine_check, "run_folder", open_branch)
    return bundle


def test_engines_that_pass_are_installed_and_their_verdict_recorded(pretended: Path, people: Path) -> None:
    done = succeed("build", pretended, "--backend", "tensorrt-rtx", "--fp16", "--verify-data", people)
    assert "Holding the engines to the gate" in done.stderr
    (verdict,) = Bundle.open(pretended).gate
    assert (verdict["backend"], verdict["device"], verdict["precision"]) == ("tensorrt-rtx", "cuda:0", "fp16")
    assert verdict["reference"]["kind"] == "fp32 graphs"
    assert verdict["passed"] is True
    assert len(list((pretended / "engines").iterdir())) == 1


def test_engines_that_fail_are_not_installed(pretended: Path, people: Path) -> None:
    perturb_weights(pretended.parent / "engine-graphs" / "image.onnx")
    done = fail(1, "build", pretended, "--backend", "tensorrt-rtx", "--fp16", "--verify-data", people)
    assert "The gate refuses tensorrt-rtx cuda:0 fp16: R@1 drops by" in done.stderr
    assert not list((pretended / "engines").glob("*/engine.json"))
    assert Bundle.open(pretended).gate == ()
    succeed("build", pretended, "--backend", "tensorrt-rtx", "--fp16")  # nobody asked
    # Engines that are there already are judged, too.
    fail(1, "build", pretended, "--backend", "tensorrt-rtx", "--fp16", "--verify-data", people)
    assert json.loads((pretended / "bundle.json").read_text(encoding="utf-8"))["gate"] == []


def test_without_a_gpu_nothing_is_built_to_be_judged(
    pretended: Path, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: None)
    done = run("build", pretended, "--backend", "tensorrt-rtx", "--verify-data", people)
    assert done.exit_code == 1
    assert "there is no GPU here to run the engines on" in done.stderr
    assert not (pretended / "engines").exists()
