"""INT8 engines, built by the real TensorRT for RTX from the trained model's INT8 graphs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from int8_bundles import with_int8, write_people
from planted_faults import Distorted

from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError, VerificationError
from tbps_infer.export.engines import plans as engine_plans
from tbps_infer.export.engines import self_check as engine_check
from tbps_infer.export.engines.build import BuiltEngines, build_engines
from tbps_infer.export.engines.options import EngineOptions
from tbps_infer.export.engines.source_graphs import engine_graph, graph_precision
from tbps_infer.export.fp16.convert import MixedPrecisionOptions
from tbps_infer.export.fp16.emulation import emulated
from tbps_infer.export.int8.calibration import read_calibration
from tbps_infer.export.int8.options import Int8Options
from tbps_infer.model_facts import Branch
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import open_library
from tbps_infer.tensorrt.plan_spec import BuildSettings
from tbps_infer.tensorrt.runner import find_engines
from tbps_infer.verification.parity import Shapes
from tbps_infer.verification.tolerances import refuse_failures

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tensorrt_rtx")

SM86 = GpuFacts("NVIDIA GeForce RTX 3060", "sm86", 12 << 30, 11 << 30, "13.0", "13.0")
OPTIONS = EngineOptions(
    backend="tensorrt-rtx", precision="int8", text_lengths=(32, 100), settings=BuildSettings(target="sm86")
)
BRANCHES: tuple[Branch, ...] = ("image", "text")


@pytest.fixture(scope="module")
def exported(shipped_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("int8-engines")
    options = Int8Options(read_calibration(write_people(folder)))
    return with_int8(shipped_bundle, folder / "bundle", options)


@pytest.fixture(scope="module")
def built(exported: tuple[Path, dict[str, Any]]) -> BuiltEngines:
    return build_engines(exported[0], OPTIONS)


@pytest.fixture
def copy(exported: tuple[Path, dict[str, Any]], built: BuiltEngines, tmp_path: Path) -> Path:
    """A copy of the bundle and its engines, to be spoilt."""
    assert built.built
    shutil.copytree(exported[0], tmp_path / "bundle")
    return tmp_path / "bundle"


def test_every_int8_layer_multiplies_int8_and_every_attention_is_fused(
    exported: tuple[Path, dict[str, Any]], built: BuiltEngines
) -> None:
    report = exported[1]
    for plan in built.folder.facts.plans:
        for proof in plan.proofs:
            assert proof.int8_products == report[plan.branch]["int8_layers"] > 30
            assert proof.fused_attention == proof.attentions == {"image": 2, "text": 5}[plan.branch]
            assert proof.folded_products == proof.unknown_products == 0
            assert proof.fp16_products >= 2 * proof.attentions, "attention's own products are FP16"
        # Counted in the plan's text, not in the listing that the library reads.
        content = (built.folder.path / plan.file).read_bytes()
        multiplied = set(re.findall(rb'\n  (?:corrltn|fully_connected)=\{ name="([^"]+)"', content))
        names = {name for fused in multiplied for name in fused.decode().split("+")}
        with_weights = graph_products(exported[0], plan.branch)
        assert len(with_weights & names) > 0.8 * len(with_weights), "the others are inside of larger kernels"


def graph_products(bundle: Path, branch: Branch) -> set[str]:
    """Names of the nodes that read a weight stored in INT8, in the bundle's own graph."""
    nodes = onnx.load(bundle / f"{branch}.int8.onnx").graph.node
    weights = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear" and "_int8" in node.input[0]}
    return {node.name for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights}


def test_int8_engines_belong_to_the_int8_graphs(copy: Path, built: BuiltEngines) -> None:
    facts = built.folder.facts
    files = Bundle.open(copy).files
    assert built.folder.path.name.endswith("-sm86-int8")
    assert facts.spec["graphs"] == {f"{b}.int8.onnx": files[f"{b}.int8.onnx"].sha256 for b in BRANCHES}
    assert facts.self_check["executed"] is False or facts.gpu is not None
    assert not build_engines(copy, OPTIONS).built, "they are up to date"
    library = open_library("tensorrt-rtx")
    assert find_engines(Bundle.open(copy), library, "int8", SM86).path.name == built.folder.path.name
    opened = Bundle.open(copy)
    files = {**files, "text.int8.onnx": files["text.onnx"]}
    changed = Bundle(**{**{name: getattr(opened, name) for name in vars(opened)}, "files": files})
    with pytest.raises(BackendError, match=r"made from another text\.int8\.onnx"):
        find_engines(changed, library, "int8", SM86)


def test_a_bundle_without_int8_graphs_is_refused(shipped_bundle: Path) -> None:
    before = sorted(path.name for path in shipped_bundle.iterdir())
    with pytest.raises(BackendError, match="holds no int8 graph of the image branch") as caught:
        build_engines(shipped_bundle, OPTIONS)
    assert "export the bundle again with --precision int8 --calibration" in caught.value.hint
    assert sorted(path.name for path in shipped_bundle.iterdir()) == before


def test_int8_asked_for_and_not_got_is_an_error(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_int8(bundle: Bundle, branch: Branch, _precision: Any, *rest: Any) -> Any:
        return engine_graph(bundle, branch, "fp16", *rest)

    monkeypatch.setattr(engine_plans, "engine_graph", without_int8)
    with pytest.raises(BackendError, match=r"INT8 was asked for, and image\.plan has 0 products"):
        build_engines(copy, EngineOptions(**{**vars(OPTIONS), "rebuild": True}))


@pytest.fixture(scope="module")
def graphs(exported: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs that the engines are built from, and their emulations, FP16 in its numbers, for the CPU."""
    folder: Path = tmp_path_factory.mktemp("emulated")
    for branch in BRANCHES:
        graph, report = engine_graph(Bundle.open(exported[0]), branch, "int8", MixedPrecisionOptions(), folder)
        assert report is not None
        assert report.fp16_nodes > 50
        onnx.save(emulated(onnx.load(graph)), folder / f"{branch}-emulated.onnx")
    return folder


def emulation(graphs: Path, branch: Branch) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(graphs / f"{branch}-emulated.onnx", RunOptions(threads=1))


def test_what_is_not_int8_is_fp16_and_near_to_the_int8_graph(
    exported: tuple[Path, dict[str, Any]], graphs: Path
) -> None:
    """The engines are stood in for by the emulation of their graphs."""
    bundle = Bundle.open(exported[0])
    runners = {branch: emulation(graphs, branch) for branch in BRANCHES}
    check = engine_check.compare_with_reference(bundle, runners, Shapes((1, 8, 32), (32, 100), 32), "int8")
    assert check["passed"], check["failures"]
    for branch in BRANCHES:
        assert 0.999 < check[branch]["cosine_min"] < 0.9999999, "INT8 of another rounding, and not by much"
        assert check["golden_cosine"][branch] > 0.999
        wanted = graph_precision(graphs / f"{branch}.onnx", "int8")
        assert len(wanted.fp16_products) >= 2 * wanted.attentions
        assert not wanted.fp16_products & wanted.int8_products


def one_tenth_noise(array: Any) -> Any:
    noise = np.random.default_rng(0).normal(size=array.shape)
    noise *= 0.1 * np.linalg.norm(array, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return (array + noise).astype(np.float32)


def other_rows(array: Any) -> Any:
    return array[::-1] if len(array) > 1 else array


@pytest.mark.parametrize(("fault", "said"), [(one_tenth_noise, "cosine"), (other_rows, "cosine")])
def test_wrong_int8_engines_fail_the_self_check(
    exported: tuple[Path, dict[str, Any]], graphs: Path, fault: Callable[[Any], Any], said: str
) -> None:
    bundle = Bundle.open(exported[0])
    runners = {branch: Distorted(emulation(graphs, branch), fault) for branch in BRANCHES}
    report = engine_check.compare_with_reference(bundle, runners, Shapes((1, 8), (32,), 16), "int8")
    with pytest.raises(VerificationError, match=said):
        refuse_failures(report["failures"])
