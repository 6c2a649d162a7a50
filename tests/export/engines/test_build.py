"""Engines of the tiny model, built by the real TensorRT for RTX on any machine: what is in them, and on disk."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_memory import FakeMemory
from fake_tensorrt import fake_library
from planted_faults import Distorted

from tbps_infer.atomic import new_folder
from tbps_infer.bundle import Bundle
from tbps_infer.data.readers import read_dataset
from tbps_infer.errors import BackendError, BundleError, UsageError, VerificationError
from tbps_infer.export.engines import build as engines
from tbps_infer.export.engines import plans as engine_plans
from tbps_infer.export.engines import self_check as engine_check
from tbps_infer.export.engines import source_graphs as engine_graphs
from tbps_infer.export.engines.build import BuiltEngines, build_engines
from tbps_infer.export.engines.options import EngineOptions
from tbps_infer.export.engines.source_graphs import graph_precision
from tbps_infer.export.fp16.convert import MixedPrecisionOptions, convert_model
from tbps_infer.export.fp16.emulation import emulated
from tbps_infer.model_facts import BRANCHES, Branch, Precision
from tbps_infer.runners.fake import FakeRunner
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.runners.protocol import SerialRunner
from tbps_infer.tensorrt import device_memory
from tbps_infer.tensorrt import runner as runner_module
from tbps_infer.tensorrt.engine_folder import EngineFolder, engines_of
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.kernels import Kernel
from tbps_infer.tensorrt.library import open_library
from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings, PlanSpec
from tbps_infer.tensorrt.runner import find_engines, open_engines
from tbps_infer.verification.evaluation_set import labelled_set
from tbps_infer.verification.parity import Shapes
from tbps_infer.verification.samples import SAMPLE_CROPS
from tbps_infer.verification.tolerances import Thresholds, refuse_failures

onnx = pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.usefixtures("no_driver")

SM86 = GpuFacts("NVIDIA GeForce RTX 3060", "sm86", 12 << 30, 11 << 30, "13.0", "13.0")
ATTENTIONS = {"image": 2, "text": 5}
"""Of the tiny model: 1 encoder, 1 in the decoder; 2 of BERT, 1 encoder, 1 in the decoder for each set of tokens."""


def options(precision: Precision = "fp16", **changes: Any) -> EngineOptions:
    return replace(
        EngineOptions(
            backend="tensorrt-rtx",
            precision=precision,
            image_batch=BatchRange(1, 8, 32),
            text_batch=BatchRange(1, 8, 32),
            text_lengths=(32, 100),
            settings=BuildSettings(target="sm86"),
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with both engines built."""
    copy = tmp_path_factory.mktemp("engines") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    return copy


@pytest.fixture(scope="module")
def fp16(bundle: Path) -> BuiltEngines:
    return build_engines(bundle, options())


@pytest.fixture(scope="module")
def fp32(bundle: Path) -> BuiltEngines:
    return build_engines(bundle, options("fp32"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def attention_kernels(plan: bytes) -> int:
    """Counted in the source code of the kernels that a plan carries, not in the listing that the library reads."""
    return len(re.findall(rb'extern "C" __global__ void _gemm_mha\w+\(', plan))


def test_fp16_engines_have_every_product_in_fp16_and_every_attention_fused(fp16: BuiltEngines) -> None:
    assert fp16.built
    names = ["image.plan", "text.plan"]
    assert sorted(path.name for path in fp16.folder.path.iterdir()) == sorted([*names, "engine.json"])
    assert [(plan.lengths, len(plan.proofs)) for plan in fp16.folder.facts.plans] == [((), 1), ((32, 100), 2)]
    for plan in fp16.folder.facts.plans:
        profiles = len(plan.proofs)
        content = (fp16.folder.path / plan.file).read_bytes()
        assert attention_kernels(content) == profiles * ATTENTIONS[plan.branch]
        for proof in plan.proofs:
            assert proof.fused_attention == proof.attentions == ATTENTIONS[plan.branch]
            assert proof.fp16_kernels == proof.kernels - 1, "the norms of the end are one kernel"
            assert proof.fp16_products > 40
            assert (proof.folded_products, proof.unknown_kernels, proof.unknown_products) == (0, 0, 0)


def test_fp32_engines_have_no_fp16_no_tf32_and_no_fused_attention(fp32: BuiltEngines) -> None:
    for plan in fp32.folder.facts.plans:
        content = (fp32.folder.path / plan.file).read_bytes()
        assert {(proof.fp16_kernels, proof.fused_attention) for proof in plan.proofs} == {(0, 0)}
        assert attention_kernels(content) == 0
        assert b"__myln_half*" not in content
        assert b"\n  tf32=0\n" in content


def test_the_weights_of_fp16_take_half_the_room(bundle: Path, fp16: BuiltEngines, fp32: BuiltEngines) -> None:
    halves = {plan.file: plan.bytes for plan in fp16.folder.facts.plans}
    weights = {name: Bundle.open(bundle).files[name].bytes for name in ("image.onnx", "text.onnx")}
    for plan in fp32.folder.facts.plans:
        saved = plan.bytes - halves[plan.file]
        # Half the weights, give or take what kernels' own code differs by, which each profile has for itself.
        assert saved == pytest.approx(weights[f"{plan.branch}.onnx"] / 2, rel=0.4 * len(plan.proofs))


def test_the_profiles_of_a_plan_share_its_weights(bundle: Path, fp32: BuiltEngines) -> None:
    (text,) = (plan for plan in fp32.folder.facts.plans if plan.branch == "text")
    content = (fp32.folder.path / text.file).read_bytes()
    stored = [onnx.numpy_helper.to_array(each) for each in onnx.load(bundle / "text.onnx").graph.initializer]
    weights = [array for array in stored if array.dtype == np.float32 and array.size > 5000]
    copies = {1: 0, 2: 0}  # bytes that are there once, and those that each profile has for itself
    for array in weights:
        row = array.reshape(-1)[:64]
        count = content.count(row.tobytes())
        if np.ptp(row) > 0 and count:  # zeros are anywhere, and some weights are stored in another order
            copies[count] += array.nbytes
    assert len(text.lengths) == 2
    assert copies[1] > sum(array.nbytes for array in weights) / 2
    assert copies[2] < copies[1] / 10


def canonical(plan: bytes) -> list[bytes]:
    """A plan's lines without what two builds of one graph may differ in.

    Where sizes are computed from the batch's, TensorRT for RTX 1.7 gives equal values other numbers (``__mye47445``)
    from one build to the next, and changes the order of such lines. At most some 80 bytes of 6 million differ.
    """
    return sorted(re.sub(rb"__mye\d+", b"__mye", plan).split(b"\n"))


def test_plans_are_raw_and_built_the_same_again(small: Path, fp16: BuiltEngines) -> None:
    before = contents(fp16.folder.path)
    again = build_engines(small, options(rebuild=True))
    assert again.built
    after = contents(again.folder.path)
    for name in before:
        if name.endswith(".plan"):
            assert before[name][:4] == b"vtrt", "trtexec and Triton take nothing in front of a plan"
            assert len(before[name]) == len(after[name])
            assert canonical(before[name]) == canonical(after[name])


def test_what_is_known_of_the_engines_is_beside_them(bundle: Path, fp16: BuiltEngines) -> None:
    values = json.loads((fp16.folder.path / "engine.json").read_text(encoding="utf-8"))
    assert fp16.folder.path.name == f"tensorrt-rtx-{values['version']}-sm86-fp16"
    assert values["gpu"] is None or values["gpu"]["sm"]
    assert values["spec"]["batch"] == {branch: {"minimum": 1, "optimum": 8, "maximum": 32} for branch in BRANCHES}
    assert values["spec"]["graphs"]["text.onnx"] == Bundle.open(bundle).files["text.onnx"].sha256
    for plan in values["plans"]:
        content = (fp16.folder.path / plan["file"]).read_bytes()
        assert plan["bytes"] == len(content)
        assert 0 < plan["predicted_activation_bytes"] < plan["activation_bytes"] < 40e6
    assert set(values["mixed_precision"]) == {"image", "text"}
    assert EngineFolder.open(fp16.folder.path) == fp16.folder
    assert [folder.path.name for folder in engines_of(bundle)] == sorted(
        path.name for path in (bundle / "engines").iterdir()
    )
    Bundle.open(bundle).check_files()


def test_without_a_gpu_the_engines_say_that_they_were_not_executed(fp16: BuiltEngines) -> None:
    assert fp16.folder.facts.gpu is None
    assert fp16.folder.facts.self_check == {
        "executed": False,
        "passed": False,
        "reason": "there was no GPU on the machine that built them",
    }


def test_engines_that_are_up_to_date_are_left_alone(bundle: Path, fp16: BuiltEngines) -> None:
    before = {path: path.stat().st_mtime_ns for path in fp16.folder.path.iterdir()}
    steps: list[str] = []
    again = build_engines(bundle, options(), steps.append)
    assert not again.built
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in again.folder.path.iterdir()} == before


@pytest.fixture
def small(bundle: Path, fp16: BuiltEngines, tmp_path: Path) -> Path:
    """A copy of the bundle, to be spoilt."""
    assert fp16.built
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    return copy


@pytest.fixture
def ready_plans(fp16: BuiltEngines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a build take the plans that were built already, where building them is not the point."""

    def take(_library: Any, _graph: Path, spec: PlanSpec, *_: Any, **__: Any) -> memoryview:
        name = "text.plan" if "input_ids" in spec.profiles[0] else "image.plan"
        return memoryview((fp16.folder.path / name).read_bytes())

    monkeypatch.setattr(engine_plans, "build_plan", take)


def spoil_plan(folder: Path) -> None:
    content = bytearray((folder / "image.plan").read_bytes())
    content[1000] ^= 1
    (folder / "image.plan").write_bytes(content)


def spoil_json(folder: Path) -> None:
    text = (folder / "engine.json").read_text(encoding="utf-8")
    (folder / "engine.json").write_text(text.replace('"maximum": 32', '"maximum": 64'), encoding="utf-8")


@pytest.mark.usefixtures("ready_plans")
@pytest.mark.parametrize("spoil", [spoil_plan, spoil_json, lambda folder: (folder / "text.plan").unlink()])
def test_spoilt_engines_are_built_again(small: Path, fp16: BuiltEngines, spoil: Callable[[Path], None]) -> None:
    folder = small / "engines" / fp16.folder.path.name
    spoil(folder)
    assert build_engines(small, options()).built
    for name in ("image.plan", "text.plan"):
        assert (folder / name).read_bytes() == (fp16.folder.path / name).read_bytes()


@pytest.mark.usefixtures("ready_plans")
def test_other_options_build_again(small: Path) -> None:
    built = build_engines(small, options(image_batch=BatchRange(1, 2, 4)))
    assert built.built
    assert built.folder.facts.batch_sizes == (1, 2, 4, 8, 32)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")])
def test_a_build_that_is_interrupted_leaves_what_was_there(small: Path, error: BaseException) -> None:
    before = contents(small)

    def progress(plan: str, _phase: str, done: int, _steps: int) -> None:
        if plan == "text.plan" and done > 2:
            raise error

    with pytest.raises(type(error)):
        build_engines(small, options(rebuild=True), on_progress=progress)
    assert contents(small) == before
    assert sorted(path.name for path in (small / "engines").iterdir()) == sorted(
        {name.split("/")[1] for name in before if name.startswith("engines/")}
    )


def test_fp16_asked_for_and_not_got_is_an_error(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep_everything(source: Path, target: Path, *_: Any) -> Any:
        shutil.copy(source, target)
        return convert_model(onnx.load(source), MixedPrecisionOptions())[1]

    monkeypatch.setattr(engine_graphs, "convert_file", keep_everything)
    before = contents(small)
    with pytest.raises(BackendError, match=r"FP16 was asked for, and image\.plan has .* products in FP32"):
        build_engines(small, options(rebuild=True))
    assert contents(small) == before


def test_fp32_asked_for_and_fp16_got_is_an_error(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    halves = tmp_path / "half.onnx"
    onnx.save(convert_model(onnx.load(small / "image.onnx"), MixedPrecisionOptions())[0], halves)
    monkeypatch.setattr(engine_plans, "engine_graph", lambda *_: (halves, None))
    with pytest.raises(BackendError, match=r"fp32 was asked for, and 60 kernels of image\.plan use FP16"):
        build_engines(small, options("fp32", rebuild=True))


@pytest.mark.usefixtures("ready_plans")
@pytest.mark.parametrize(
    "error", [RuntimeError("no shape"), KeyError("pixels"), onnx.shape_inference.InferenceError()]
)
def test_a_build_whose_memory_cannot_be_predicted_goes_on_and_says_so(
    small: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    infer_shapes = onnx.shape_inference.infer_shapes

    def fail(model: Any, *rest: Any, **options: Any) -> Any:
        if options.get("data_prop"):  # the prediction's alone
            raise error
        return infer_shapes(model, *rest, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    steps: list[str] = []
    built = build_engines(small, options(rebuild=True), steps.append)
    assert "Building image.plan: activations unknown at batch 32" in steps
    assert {plan.predicted_activation_bytes for plan in built.folder.facts.plans} == {None}
    values = json.loads((built.folder.path / "engine.json").read_text(encoding="utf-8"))
    assert [plan["predicted_activation_bytes"] for plan in values["plans"]] == [None] * 2


def test_products_that_are_in_no_kernel_are_told(fp16: BuiltEngines) -> None:
    plan = fp16.folder.facts.plans[0]
    assert "are in none" not in engine_plans._described(plan)
    folded = replace(plan, proofs=(replace(plan.proofs[0], folded_products=2),))
    assert "FP16, 2 products are in none, " in engine_plans._described(folded)


def test_types_that_an_engine_does_not_tell_are_told(fp16: BuiltEngines) -> None:
    plan = fp16.folder.facts.plans[0]
    assert "unknown" not in engine_plans._described(plan)
    silent = replace(plan, proofs=(replace(plan.proofs[0], unknown_kernels=3, unknown_products=1),))
    assert "FP16, of 3 with 1 products the type is unknown, " in engine_plans._described(silent)


def test_islands_stay_in_fp32_and_everything_else_is_still_proven(small: Path) -> None:
    mixed = MixedPrecisionOptions(keep_fp32=("Softmax",), auto_islands=True, threads=1)
    built = build_engines(small, options(mixed=mixed, text_lengths=(100,), rebuild=True))
    report = built.folder.facts.mixed_precision["text"]
    assert list(report["islands"].values()) == ["named by the pattern Softmax"] * 5
    assert 20_000 < report["largest_activation"][1] < 40_000, "the mask's floor, measured on real captions"
    (text,) = (plan for plan in built.folder.facts.plans if plan.branch == "text")
    # TensorRT for RTX fuses it all the same: inside the kernel the exponentials are FP32 anyway.
    (proof,) = text.proofs
    assert proof.fused_attention == proof.attentions == ATTENTIONS["text"]
    assert proof.fp16_products > 40


def test_options_that_do_not_fit_are_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="32, 64, and this model takes 3 to 100 tokens"):
        build_engines(bundle, options(text_lengths=(64, 32)))
    with pytest.raises(UsageError, match="optimization level does not apply to tensorrt-rtx"):
        build_engines(bundle, options(settings=BuildSettings(optimization_level=3)))
    with pytest.raises(UsageError, match="timing cache does not apply to tensorrt-rtx"):
        build_engines(bundle, options(timing_cache=Path("times")))
    with pytest.raises(UsageError, match="FP32 islands"):
        options("fp32", mixed=MixedPrecisionOptions(auto_islands=True))
    with pytest.raises(UsageError, match="workspace is 10 bytes"):
        BuildSettings(workspace_bytes=10)
    assert EngineOptions().lengths_for(Bundle.open(bundle).model) == (32, 48, 64, 100)


def test_an_altered_graph_is_not_built(small: Path) -> None:
    with (small / "text.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    with pytest.raises(BundleError, match=r"text\.onnx is not the file"):
        build_engines(small, options())


def test_engines_are_refused_on_another_version_or_gpu(fp16: BuiltEngines) -> None:
    folder = fp16.folder
    folder.refuse_elsewhere(folder.facts.version, SM86)
    again = f"tbps build {folder.path.parent.parent} --backend tensorrt-rtx --precision fp16 --target"
    for version, gpu, said, target in (
        ("1.8.0", SM86, "and 1.8.0 is here", "sm86 --rebuild"),
        # Built again for sm86 they would be refused again.
        (
            folder.facts.version,
            replace(SM86, sm="sm89"),
            "for sm86, and here is nvidia-geforce-rtx-3060-sm89",
            "sm89",
        ),
    ):
        with pytest.raises(BackendError, match=said) as caught:
            folder.refuse_elsewhere(version, gpu)
        assert caught.value.hint.endswith(f"{again} {target}")
    portable = replace(folder, facts=replace(folder.facts, target=None))
    for sm, fits in (("sm80", True), ("sm120", True), ("sm75", False)):
        if fits:
            portable.refuse_elsewhere(folder.facts.version, replace(SM86, sm=sm))
        else:
            with pytest.raises(BackendError, match="sm80-and-later"):
                portable.refuse_elsewhere(folder.facts.version, replace(SM86, sm=sm))
    full = replace(folder, facts=replace(folder.facts, flavour="tensorrt", target=None, gpu=SM86))
    full.refuse_elsewhere(folder.facts.version, replace(SM86, driver="13.1", free_bytes=1))
    with pytest.raises(BackendError, match="rtx-3060-sm86, and here is orin-sm87"):
        full.refuse_elsewhere(folder.facts.version, GpuFacts("Orin", "sm87", 0, 0, "12.6", "12.6"))


def open_on(bundle: Path, branch: Branch, monkeypatch: pytest.MonkeyPatch, gpu: GpuFacts = SM86) -> Any:
    monkeypatch.setattr(runner_module, "open_memory", lambda _index, _kind=None: FakeMemory(gpu=gpu))
    return open_engines(Bundle.open(bundle), branch, RunOptions("tensorrt-rtx", "cuda", "fp16"))


def test_a_runner_refuses_engines_that_do_not_fit(
    small: Path, fp16: BuiltEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = open_on(small, "image", monkeypatch)
    assert runner.description.startswith(f"tensorrt-rtx {fp16.folder.facts.version}, fp16 on cuda:0 NVIDIA GeForce")
    runner.close()
    with pytest.raises(BackendError, match="built for sm86, and here is"):
        open_on(small, "image", monkeypatch, replace(SM86, sm="sm120"))
    folder = small / "engines" / fp16.folder.path.name
    spoil_plan(folder)
    runner = open_on(small, "image", monkeypatch)
    with pytest.raises(BackendError, match=r"image\.plan is not the engine that was built") as caught:
        runner.run({"pixels": np.zeros((1, 96, 32, 3), np.uint8)})
    assert "--rebuild" in caught.value.hint
    runner.close()
    values = json.loads((small / "bundle.json").read_text(encoding="utf-8"))
    values["files"]["text.onnx"]["sha256"] = "0" * 64
    (small / "bundle.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(BackendError, match=r"made from another text\.onnx than the bundle's"):
        open_on(small, "text", monkeypatch)
    shutil.rmtree(small / "engines")
    with pytest.raises(BackendError, match="has no engines of tensorrt-rtx in fp16") as caught:
        open_on(small, "text", monkeypatch)
    assert "tbps build" in caught.value.hint


def test_engines_for_this_gpu_alone_come_before_portable_ones_and_outdated_ones_last(
    small: Path, fp16: BuiltEngines
) -> None:
    there, library = small / "engines" / fp16.folder.path.name, open_library("tensorrt-rtx")

    def add(name: str, **changes: Any) -> None:
        folder = small / "engines" / name
        folder.mkdir(exist_ok=True)
        facts = replace(fp16.folder.facts, **changes)
        (folder / "engine.json").write_text(json.dumps(facts.to_json()), encoding="utf-8")

    def found(sm: str) -> str:
        return find_engines(Bundle.open(small), library, "fp16", replace(SM86, sm=sm)).path.name

    add("a-portable", target=None)
    assert (found("sm86"), found("sm89")) == (there.name, "a-portable")
    outdated = {**fp16.folder.facts.spec, "graphs": {"text.onnx": "0" * 64}}
    add(there.name, spec=outdated)
    assert found("sm86") == "a-portable"
    add("a-portable", target=None, spec=outdated)
    with pytest.raises(BackendError, match=r"made from another text\.onnx"):
        found("sm86")
    with pytest.raises(BackendError, match="has no engines of tensorrt-rtx in int8") as caught:
        find_engines(Bundle.open(small), library, "int8", SM86)
    assert caught.value.hint.endswith("--backend tensorrt-rtx --precision int8")


@pytest.mark.usefixtures("ready_plans")
def test_a_target_may_be_written_in_capitals(small: Path) -> None:
    built = build_engines(small, options(settings=BuildSettings(target="SM86"), rebuild=True))
    assert built.folder.facts.target == "sm86"
    assert built.folder.path.name.endswith("-sm86-fp16")


def test_a_plan_that_does_not_load_here_says_why(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = open_on(small, "text", monkeypatch)
    feeds = {name: np.ones((2, 5), np.int32) for name in ("input_ids", "attention_mask")}
    with pytest.raises(BackendError, match=r"could not load the engine .*text\.plan: .*CUDA driver"):
        runner.run(feeds)
    runner.close()


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, open_branch: Callable[[Branch], Any], crops: int = 8) -> None:
    """Let a build find a GPU, and its engines be run by what is given, on so many crops of the self-check's 32."""
    monkeypatch.setattr(engine_check, "SAMPLE_CROPS", crops)
    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: SM86)
    monkeypatch.setattr(engine_check, "open_memory", lambda _index, _kind=None: FakeMemory(gpu=SM86))
    monkeypatch.setattr(engine_check, "run_folder", lambda _folder, _bundle, branch, *_, **__: open_branch(branch))


def run_graph(bundle: Path, branch: Branch) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(bundle / f"{branch}.onnx", RunOptions(threads=1))


@pytest.mark.usefixtures("ready_plans")
def test_engines_that_pass_the_self_check_are_installed_with_its_report(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engines are stood in for by the emulation of their graphs, which is FP16 in its numbers."""

    def open_branch(branch: Branch) -> OnnxRuntimeRunner:
        path = tmp_path / f"{branch}.onnx"
        onnx.save(emulated(convert_model(onnx.load(small / path.name), MixedPrecisionOptions())[0]), path)
        return run_graph(tmp_path, branch)

    pretend_gpu(monkeypatch, open_branch, SAMPLE_CROPS)
    built = build_engines(small, options(rebuild=True))
    check = built.folder.facts.self_check
    assert check["executed"] is check["passed"] is True
    assert check["gpu"] == SM86.name
    assert min(check["golden_cosine"].values()) > 0.99999
    assert check["image"]["cosine_min"] > 0.99999
    assert 0 < check["text"]["largest_difference"] < 5e-3, "FP16 differs from FP32, and not by much"
    assert (check["batch_sizes"], check["lengths"]) == ([1, 8, 32], [32, 100])
    assert check["ranking"]["pictures"] >= 32
    assert check["image"]["compared"] == 3 * 32, "32 crops at each of three batch sizes"
    assert check["text"]["compared"] == 3 * 32 * 2, "and as many captions at each length"
    assert built.folder.facts.gpu == SM86


@pytest.mark.usefixtures("ready_plans")
def test_engines_that_fail_the_self_check_are_not_installed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Bundle.open(small).model
    pretend_gpu(monkeypatch, lambda branch: FakeRunner(model, branch))
    before = contents(small)
    with pytest.raises(VerificationError, match="golden image vectors have a cosine of") as caught:
        build_engines(small, options(rebuild=True))
    assert "were not installed" in caught.value.hint
    after = contents(small)
    aside = failed_folder(small)
    assert str(aside) in caught.value.hint
    assert {name: content for name, content in after.items() if ".failed/" not in name} == before
    assert sorted(path.name for path in aside.iterdir()) == ["failed.json", "image.plan", "text.plan"]
    report = json.loads((aside / "failed.json").read_text(encoding="utf-8"))["self_check"]
    assert (report["executed"], report["passed"]) == (True, False)
    assert report["refused"] == caught.value.message
    assert report["image"]["cosine_min"] < 0.5, "what was measured, all of it"
    assert len(engines_of(small)) == len(list((small / "engines").glob("*/engine.json"))), "they are no engines"


@pytest.mark.usefixtures("ready_plans")
def test_engines_that_failed_are_replaced_by_the_next_build(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Bundle.open(small).model
    for _ in range(2):  # the second time they are in the way
        with monkeypatch.context() as patch:
            pretend_gpu(patch, lambda branch: FakeRunner(model, branch))
            with pytest.raises(VerificationError, match="golden image vectors have a cosine of"):
                build_engines(small, options(rebuild=True))
    aside = failed_folder(small)
    pretend_gpu(monkeypatch, lambda branch: run_graph(small, branch))
    build_engines(small, options(rebuild=True))
    assert not aside.exists()


def failed_folder(bundle: Path) -> Path:
    (folder,) = (bundle / "engines").glob("*.failed")
    return folder


def test_engines_built_elsewhere_are_tried_once_there_is_a_gpu(
    small: Path, fp16: BuiltEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(small)
    opened: list[Branch] = []

    def open_branch(branch: Branch) -> OnnxRuntimeRunner:
        opened.append(branch)
        return run_graph(small, branch)

    pretend_gpu(monkeypatch, open_branch)
    steps: list[str] = []
    tried = build_engines(small, options(), steps.append)
    assert not tried.built
    assert steps == [f"Checking the engines on {SM86.name}"]
    assert opened == ["image", "text"]
    check = tried.folder.facts.self_check
    assert (check["executed"], check["passed"], check["gpu"]) == (True, True, SM86.name)
    after = contents(small)
    assert {name for name in after if after[name] != before.get(name)} == {
        f"engines/{fp16.folder.path.name}/engine.json"
    }
    again = build_engines(small, options())
    assert again.folder == tried.folder
    assert opened == ["image", "text"], "once is enough"


def test_engines_built_elsewhere_that_are_wrong_here_are_removed(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Bundle.open(small).model
    pretend_gpu(monkeypatch, lambda branch: FakeRunner(model, branch))
    with pytest.raises(VerificationError, match="golden image vectors have a cosine of") as caught:
        build_engines(small, options())
    assert "were removed" in caught.value.hint
    left = {folder.facts.precision for folder in engines_of(small)}
    assert "fp16" not in left
    aside = failed_folder(small)
    assert str(aside) in caught.value.hint
    assert not aside.with_suffix("").exists(), "no empty folder stays"
    with pytest.raises(BackendError, match="has no engines of tensorrt-rtx in fp16"):
        find_engines(Bundle.open(small), open_library("tensorrt-rtx"), "fp16", SM86)


class Counted(SerialRunner):
    """A runner that says when it is opened and closed."""

    def __init__(self, runner: OnnxRuntimeRunner, said: Callable[[str], None]) -> None:
        self.runner, self.said = runner, said
        self.inputs, self.outputs, self.description = runner.inputs, runner.outputs, runner.description
        self.run = runner.run
        said("opened")

    def close(self) -> None:
        self.runner.close()
        self.said("closed")


@pytest.mark.usefixtures("ready_plans")
@pytest.mark.parametrize("rebuild", [True, False], ids=["built", "ready and never tried"])
def test_the_self_check_and_the_gate_share_engines_that_are_opened_once(
    small: Path, people: Path, monkeypatch: pytest.MonkeyPatch, rebuild: bool
) -> None:
    calls: list[tuple[Branch, str]] = []
    pretend_gpu(
        monkeypatch,
        lambda branch: Counted(run_graph(small, branch), lambda what: calls.append((branch, what))),
    )
    data = labelled_set(read_dataset(people, "test"))
    steps: list[str] = []
    built = build_engines(small, options(rebuild=rebuild, gate_on=data), steps.append)
    assert built.built is rebuild
    assert steps[-2:] == [f"Checking the engines on {SM86.name}", f"Holding the engines to the gate on {data}"]
    assert sorted(calls) == [(branch, what) for branch in BRANCHES for what in ("closed", "opened")]
    assert [what for _, what in calls] == ["opened", "opened", "closed", "closed"]
    (verdict,) = Bundle.open(small).gate
    assert verdict["passed"] is True
    assert EngineFolder.open(built.folder.path).facts.self_check["passed"] is True
    calls.clear()
    build_engines(small, options(gate_on=data))
    assert sorted(calls) == [(branch, what) for branch in BRANCHES for what in ("closed", "opened")], "by the gate"


@pytest.mark.usefixtures("ready_plans")
def test_engines_that_fail_the_gate_after_a_self_check_keep_its_report(
    small: Path, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, lambda branch: run_graph(small, branch))
    data = labelled_set(read_dataset(people, "test"))
    monkeypatch.setattr(engine_check, "GATE", {"fp16": Thresholds(max_rank1_drop=-1)})
    with pytest.raises(VerificationError, match="The gate refuses tensorrt-rtx cuda:0 fp16: R@1") as caught:
        build_engines(small, options(gate_on=data))
    assert "No new engine was installed" in caught.value.hint
    (folder,) = (folder for folder in engines_of(small) if folder.facts.precision == "fp16")
    assert folder.facts.self_check["executed"] is True
    assert Bundle.open(small).gate == ()


@pytest.mark.usefixtures("ready_plans")
def test_engines_that_cannot_be_executed_are_not_held_to_the_gate(
    small: Path, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: replace(SM86, sm="sm89"))
    before = contents(small)
    for rebuild in (True, False):
        with pytest.raises(BackendError, match=r"cannot be held to the gate: .* built for sm86, and here is"):
            build_engines(small, options(rebuild=rebuild, gate_on=labelled_set(read_dataset(people, "test"))))
    assert contents(small) == before


def not_a_number(array: Any) -> Any:
    array[-1, 3] = np.nan
    return array


def last_row_wrong(array: Any) -> Any:
    if len(array) > 1:  # as engines have been that passed at batch 1
        array[-1] = array[-1][::-1]
    return array


def longer(array: Any) -> Any:
    return array * 1.01


@pytest.mark.parametrize(
    ("fault", "said"),
    [(not_a_number, "nan"), (last_row_wrong, "cosine"), (longer, "norms off by up to")],
)
def test_every_way_of_being_wrong_is_found(tiny_bundle: Path, fault: Callable[[Any], Any], said: str) -> None:
    branches: tuple[Branch, ...] = ("image", "text")
    runners = {branch: Distorted(run_graph(tiny_bundle, branch), fault) for branch in branches}
    report = engine_check.compare_with_reference(Bundle.open(tiny_bundle), runners, Shapes((1, 4), (32,)), "fp16")
    with pytest.raises(VerificationError, match=said):
        refuse_failures(report["failures"])
    assert report["passed"] is False


@pytest.mark.usefixtures("ready_plans")
def test_engines_for_another_gpu_are_not_executed_and_say_so(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: replace(SM86, sm="sm89"))
    check = build_engines(small, options(rebuild=True)).folder.facts.self_check
    assert check["executed"] is False
    assert "built for sm86, and here is nvidia-geforce-rtx-3060-sm89" in check["reason"]


class FullTensorRT:
    """A build by full TensorRT on a GPU, whose plans are words and whose engines tell what is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        self.memory, self.opened = FakeMemory(gpu=SM86), list[int]()
        self.caches: list[Any] = []
        self.specs: list[PlanSpec] = []
        self.kernels: tuple[Kernel, ...] = ()
        library = fake_library(version)
        monkeypatch.setattr(engines, "open_library", lambda _name: library)
        monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: SM86)
        monkeypatch.setattr(engine_plans, "open_memory", self.open_memory)
        monkeypatch.setattr(engine_plans, "build_plan", self.build_plan)
        monkeypatch.setattr(engine_plans, "read_back", self.read_back)

    def open_memory(self, index: int, _kind: object = None) -> FakeMemory:
        self.opened.append(index)
        return self.memory

    def build_plan(self, *arguments: Any, timing_cache: Any, **_: Any) -> memoryview:
        assert self.memory.current == 1
        self.specs.append(arguments[2])
        self.caches.append(timing_cache)
        return memoryview(b"plan")

    def read_back(self, _context: Any, memory: Any, _plan: Any, spec: PlanSpec, _name: str) -> tuple[Any, int]:
        assert memory is self.memory
        return [self.kernels] * len(spec.profiles), 5


def test_full_tensorrt_builds_with_the_chosen_device_as_the_threads_own(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullTensorRT(monkeypatch, "10.3.0")

    def build(*_: Any, **__: Any) -> memoryview:
        assert full.memory.current == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_plans, "build_plan", build)
    with pytest.raises(KeyboardInterrupt):
        build_engines(small, EngineOptions(backend="tensorrt", precision="fp32", device=1))
    assert (full.opened, full.memory.current, full.memory.closed) == ([1], 0, True)


@pytest.mark.parametrize(
    ("version", "names", "profiles"),
    [
        ("10.3.0", ["image", "text-32", "text-48", "text-64", "text-100"], [1] * 5),  # NVIDIA/TensorRT#4250
        ("10.16.1", ["image", "text"], [1, 4]),
    ],
)
def test_engines_of_one_build_share_one_timing_cache_and_their_weights_where_they_can(
    small: Path, monkeypatch: pytest.MonkeyPatch, version: str, names: list[str], profiles: list[int]
) -> None:
    full = FullTensorRT(monkeypatch, version)
    full.kernels = (Kernel("k", ("a node",), frozenset({"float"})),)
    pretend_gpu(monkeypatch, lambda branch: run_graph(small, branch))
    built = build_engines(small, EngineOptions(backend="tensorrt", precision="fp32"))
    plans = built.folder.facts.plans
    assert [plan.file for plan in plans] == [f"{name}.plan" for name in names]
    assert [len(plan.proofs) for plan in plans] == [len(spec.profiles) for spec in full.specs] == profiles
    assert [length for plan in plans for length in plan.lengths] == [32, 48, 64, 100]
    assert len({id(cache) for cache in full.caches}) == 1
    assert vars(full.caches[0])["_path"] == (
        small / "engines" / f"timing-{version}-nvidia-geforce-rtx-3060-sm86-cuda13.0.cache"
    )
    optima = [{shapes.optimum[0] for shapes in spec.profiles[0].values()} for spec in full.specs]
    assert optima == [{32}, *[{1}] * (len(names) - 1)], "pictures come in batches and sentences alone"
    assert built.folder.facts.batch_sizes == (1, 32)
    kept = find_engines(Bundle.open(small), fake_library(version), "fp32", SM86)
    assert kept == built.folder, "engine.json says which profile is which"


@pytest.mark.parametrize(("emulate", "message"), [(True, None), (False, "FP16 was asked for and rounds by more")])
def test_what_an_engine_does_not_tell_is_proven_by_its_rounding(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulate: bool, message: str | None
) -> None:
    full = FullTensorRT(monkeypatch, "10.16.1")
    steps: list[str] = []

    def read_back(_context: Any, _memory: Any, _plan: Any, spec: PlanSpec, name: str) -> tuple[Any, int]:
        wanted = graph_precision(graphs[name.partition(".")[0]], "fp16")
        return [(Kernel("mha", tuple(wanted.fp16_products), frozenset(), unknown=True),)] * len(spec.profiles), 5

    graphs: dict[str, Path] = {}
    for branch in BRANCHES:
        half = convert_model(onnx.load(small / f"{branch}.onnx"), MixedPrecisionOptions())[0]
        graphs[branch] = tmp_path / f"half-{branch}.onnx"
        onnx.save(half, graphs[branch])
        onnx.save(emulated(half) if emulate else onnx.load(small / f"{branch}.onnx"), tmp_path / f"{branch}.onnx")
    monkeypatch.setattr(engine_plans, "read_back", read_back)
    pretend_gpu(monkeypatch, lambda branch: run_graph(tmp_path, branch))
    chosen = EngineOptions(backend="tensorrt", precision="fp16", text_lengths=(32, 100))
    assert not full.specs
    if message is None:
        check = build_engines(small, chosen, steps.append).folder.facts.self_check
        assert list(check["differences"]) == ["image", "text-32", "text-100"]
        assert all(1e-5 < difference < 5e-3 for difference in check["differences"].values())
        assert any(re.search(r"with [1-9]\d+ products the type is unknown", step) for step in steps)
        return
    with pytest.raises(VerificationError, match=message) as caught:
        build_engines(small, chosen)
    for name in ("image", "text-32", "text-100"):
        assert f"The {name} engine does not tell the types of" in caught.value.message


def test_a_device_that_was_named_and_is_not_there_is_not_done_without(small: Path) -> None:
    before = contents(small)
    with pytest.raises(BackendError, match="CUDA could not count the devices"):
        build_engines(small, options(device=1))
    assert contents(small) == before


def test_full_tensorrt_is_not_built_without_a_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "open_library", lambda _name: fake_library())
    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: None)
    monkeypatch.setattr(device_memory, "_installed", lambda _module: False)
    with pytest.raises(
        BackendError, match=r"GPU of this machine, and there is none .*needs the package cuda"
    ) as caught:
        build_engines(bundle, EngineOptions(backend="tensorrt"))
    assert "Install cuda-bindings" in caught.value.hint
    with pytest.raises(UsageError, match="target does not apply to tensorrt"):
        build_engines(bundle, EngineOptions(backend="tensorrt", settings=BuildSettings(target="sm86")))


@pytest.mark.slow
def test_resnet50_and_bert_base_are_built_with_every_attention_fused(tmp_path: Path) -> None:
    from tbps_infer.export.engines.activations import predicted_activation_bytes
    from tbps_infer.export.fp16.convert import convert_file
    from tbps_infer.export.graphs import export_graph
    from tbps_infer.families.table import load_source
    from tbps_infer.reference.config import base_config
    from tbps_infer.reference.pretrained import initial_checkpoint
    from tbps_infer.tensorrt.kernels import rtx_programs
    from tbps_infer.tensorrt.library import open_library
    from tbps_infer.tensorrt.plan_builder import build_plan
    from tbps_infer.tensorrt.plan_spec import plan_spec
    from tbps_infer.tensorrt.precision_proof import prove_precision
    from tbps_infer.tokenizer_files import train_wordpiece

    tokenizer = train_wordpiece(["a person in a coat"], 200)
    source = load_source("part", initial_checkpoint(tmp_path / "base", base_config(), tokenizer.to_str(), seed=0))
    library = open_library("tensorrt-rtx")
    # 1 encoder and 2 in the decoder; 12 of BERT, 1 encoder, 2 in the decoder for each set of tokens.
    for branch, attentions, megabytes in (("image", 3, 86), ("text", 17, 250)):
        export_graph(source.branch(branch), branch, source.facts, tmp_path / "fp32.onnx")  # type: ignore[arg-type]
        convert_file(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx", MixedPrecisionOptions())
        lengths = () if branch == "image" else (64,)
        spec = plan_spec(source.facts, branch, BatchRange(1, 8, 32), lengths)  # type: ignore[arg-type]
        for precision, fused, share in (("fp16", attentions, 1.0), ("fp32", 0, 2.0)):
            graph = tmp_path / f"{precision}.onnx"
            plan = build_plan(library, graph, spec, BuildSettings(target="sm86"))
            (program,) = rtx_programs(plan)
            wanted = graph_precision(graph, precision)  # type: ignore[arg-type]
            proof = prove_precision(program.kernels, wanted, "plan", branch)
            assert (proof.fused_attention, proof.attentions) == (fused, attentions)
            assert attention_kernels(bytes(plan)) == fused
            assert len(plan) == pytest.approx(share * megabytes * 1e6, rel=0.05)
            predicted = predicted_activation_bytes(graph, {n: r.maximum for n, r in spec.profiles[0].items()})
            assert program.activation_bytes == pytest.approx(predicted, rel=0.4)


@pytest.mark.parametrize(("code", "hint"), [(errno.ENOSPC, "Make room"), (errno.EACCES, "where you may write")])
def test_what_cannot_be_written_is_told_with_what_helps(tmp_path: Path, code: int, hint: str) -> None:
    place = tmp_path / "engines" / "one"
    with pytest.raises(BundleError, match="cannot be written") as caught, new_folder(place, BundleError) as folder:
        raise OSError(code, "no", str(folder / "image.plan"))
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []
