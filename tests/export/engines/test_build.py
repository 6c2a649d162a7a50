"""Engines of the tiny model, built by the real TensorRT for RTX on any machine: what is in them, and on disk."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_memory import FakeMemory
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
from tbps_infer.export.fp16.convert import MixedPrecisionOptions, convert_model
from tbps_infer.export.fp16.emulation import emulated
from tbps_infer.model_facts import BRANCHES, Branch, Precision
from tbps_infer.runners.fake import FakeRunner
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner
from tbps_infer.runners.options import RunOptions
from tbps_infer.tensorrt import device_memory
from tbps_infer.tensorrt import runner as runner_module
from tbps_infer.tensorrt.engine_folder import EngineFolder, engines_of
from tbps_infer.tensorrt.flavours import FLAVOURS
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import open_library
from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings, PlanSpec
from tbps_infer.tensorrt.runner import find_engines, open_engines
from tbps_infer.verification.evaluation_set import labelled_set
from tbps_infer.verification.parity import Shapes
from tbps_infer.verification.tolerances import Thresholds

onnx = pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.usefixtures("no_driver")

SM86 = GpuFacts("NVIDIA GeForce RTX 3060", "sm86", 12 << 30, 11 << 30, "13.0", "13.0")
ATTENTIONS = {"image": 3, "text": 7}
"""Of the tiny model: 1 encoder, 2 in the decoder; 2 of BERT, 1 encoder, 2 in the decoder for each set of tokens."""


def options(precision: Precision = "fp16", **changes: Any) -> EngineOptions:
    return replace(
        EngineOptions(
            backend="tensorrt-rtx", precision=precision, text_lengths=(32, 100), settings=BuildSettings(target="sm86")
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
    names = ["image.plan", "text-32.plan", "text-100.plan"]
    assert sorted(path.name for path in fp16.folder.path.iterdir()) == sorted([*names, "engine.json"])
    for plan in fp16.folder.facts.plans:
        proof = plan.proof
        assert proof.fused_attention == proof.attentions == ATTENTIONS[plan.branch]
        assert attention_kernels((fp16.folder.path / plan.file).read_bytes()) == ATTENTIONS[plan.branch]
        assert proof.fp16_kernels == proof.kernels - 1, "the norms of the end are one kernel"
        assert proof.fp16_products > 40
        assert proof.folded_products == 0


def test_fp32_engines_have_no_fp16_no_tf32_and_no_fused_attention(fp32: BuiltEngines) -> None:
    for plan in fp32.folder.facts.plans:
        content = (fp32.folder.path / plan.file).read_bytes()
        assert (plan.proof.fp16_kernels, plan.proof.fused_attention, attention_kernels(content)) == (0, 0, 0)
        assert b"__myln_half*" not in content
        assert b"\n  tf32=0\n" in content


def test_the_weights_of_fp16_take_half_the_room(bundle: Path, fp16: BuiltEngines, fp32: BuiltEngines) -> None:
    halves = {plan.file: plan.bytes for plan in fp16.folder.facts.plans}
    weights = {name: Bundle.open(bundle).files[name].bytes for name in ("image.onnx", "text.onnx")}
    for plan in fp32.folder.facts.plans:
        saved = plan.bytes - halves[plan.file]
        # Half the weights, give or take what kernels' own code differs by.
        assert saved == pytest.approx(weights[f"{plan.branch}.onnx"] / 2, rel=0.4)


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
    assert values["spec"]["batch"] == {"minimum": 1, "optimum": 8, "maximum": 32}
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
        ids = spec.shapes.get("input_ids")
        name = "image.plan" if ids is None else f"text-{ids.maximum[1]}.plan"
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
@pytest.mark.parametrize("spoil", [spoil_plan, spoil_json, lambda folder: (folder / "text-32.plan").unlink()])
def test_spoilt_engines_are_built_again(small: Path, fp16: BuiltEngines, spoil: Callable[[Path], None]) -> None:
    folder = small / "engines" / fp16.folder.path.name
    spoil(folder)
    assert build_engines(small, options()).built
    for name in ("image.plan", "text-32.plan", "text-100.plan"):
        assert (folder / name).read_bytes() == (fp16.folder.path / name).read_bytes()


def test_other_options_build_again(small: Path) -> None:
    built = build_engines(small, options(batch=BatchRange(1, 2, 4)))
    assert built.built
    assert built.folder.facts.batch == (1, 2, 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")])
def test_a_build_that_is_interrupted_leaves_what_was_there(small: Path, error: BaseException) -> None:
    before = contents(small)

    def progress(plan: str, _phase: str, done: int, _steps: int) -> None:
        if plan == "text-32.plan" and done > 2:
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
    with pytest.raises(BackendError, match=r"fp32 was asked for, and 58 kernels of image\.plan use FP16"):
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
    assert [plan["predicted_activation_bytes"] for plan in values["plans"]] == [None] * 3


def test_products_that_are_in_no_kernel_are_told(fp16: BuiltEngines) -> None:
    plan = fp16.folder.facts.plans[0]
    assert "are in none" not in engine_plans._described(plan)
    folded = replace(plan, proof=replace(plan.proof, folded_products=2))
    assert "FP16, 2 products are in none, " in engine_plans._described(folded)


def test_islands_stay_in_fp32_and_everything_else_is_still_proven(small: Path) -> None:
    mixed = MixedPrecisionOptions(keep_fp32=("Softmax",), auto_islands=True, threads=1)
    built = build_engines(small, options(mixed=mixed, text_lengths=(100,), rebuild=True))
    report = built.folder.facts.mixed_precision["text"]
    assert list(report["islands"].values()) == ["named by the pattern Softmax"] * 7
    assert 20_000 < report["largest_activation"][1] < 40_000, "the mask's floor, measured on real captions"
    (text,) = (plan for plan in built.folder.facts.plans if plan.branch == "text")
    # TensorRT for RTX fuses it all the same: inside the kernel the exponentials are FP32 anyway.
    assert text.proof.fused_attention == text.proof.attentions == 7
    assert text.proof.fp16_products > 40


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
    with pytest.raises(BackendError, match=r"could not load the engine .*text-32\.plan: .*CUDA driver"):
        runner.run(feeds)
    runner.close()


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, open_branch: Callable[[Branch], Any]) -> None:
    """Let a build find a GPU, and its engines be run by what is given."""
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

    pretend_gpu(monkeypatch, open_branch)
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
    assert contents(small) == before


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
    assert bool(left) is (small / "engines").exists(), "no empty folder stays"


class Counted:
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
    with pytest.raises(VerificationError, match=said):
        engine_check.compare_with_reference(Bundle.open(tiny_bundle), runners, Shapes((1, 4), (32,)), "fp16")


@pytest.mark.usefixtures("ready_plans")
def test_engines_for_another_gpu_are_not_executed_and_say_so(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: replace(SM86, sm="sm89"))
    check = build_engines(small, options(rebuild=True)).folder.facts.self_check
    assert check["executed"] is False
    assert "built for sm86, and here is nvidia-geforce-rtx-3060-sm89" in check["reason"]


def test_full_tensorrt_builds_with_the_chosen_device_as_the_threads_own(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, opened = FakeMemory(gpu=SM86), []

    def open_it(index: int, _kind: object = None) -> FakeMemory:
        opened.append(index)
        return memory

    def build(*_: Any, **__: Any) -> memoryview:
        assert memory.current == 1
        raise KeyboardInterrupt

    full = SimpleNamespace(flavour=FLAVOURS["tensorrt"], version="10.3.0")
    monkeypatch.setattr(engines, "open_library", lambda _name: full)
    monkeypatch.setattr(engines, "find_gpu", lambda _index, _kind: SM86)
    monkeypatch.setattr(engine_plans, "open_memory", open_it)
    monkeypatch.setattr(engine_plans, "build_plan", build)
    with pytest.raises(KeyboardInterrupt):
        build_engines(small, EngineOptions(backend="tensorrt", precision="fp32", device=1))
    assert (opened, memory.current, memory.closed) == ([1], 0, True)


def test_a_device_that_was_named_and_is_not_there_is_not_done_without(small: Path) -> None:
    before = contents(small)
    with pytest.raises(BackendError, match="CUDA could not count the devices"):
        build_engines(small, options(device=1))
    assert contents(small) == before


def test_full_tensorrt_is_not_built_without_a_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(flavour=FLAVOURS["tensorrt"], version="10.3.0")
    monkeypatch.setattr(engines, "open_library", lambda _name: full)
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
    from tbps_infer.export.engines.source_graphs import graph_precision
    from tbps_infer.export.fp16.convert import convert_file
    from tbps_infer.export.graphs import export_graph
    from tbps_infer.families.table import load_source
    from tbps_infer.reference.config import base_config
    from tbps_infer.reference.pretrained import initial_checkpoint
    from tbps_infer.tensorrt.kernels import rtx_program
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
        length = None if branch == "image" else 64
        spec = plan_spec(source.facts, branch, BatchRange(), length)  # type: ignore[arg-type]
        for precision, fused, share in (("fp16", attentions, 1.0), ("fp32", 0, 2.0)):
            graph = tmp_path / f"{precision}.onnx"
            plan = build_plan(library, graph, spec, BuildSettings(target="sm86"))
            program = rtx_program(plan)
            wanted = graph_precision(graph, precision)  # type: ignore[arg-type]
            proof = prove_precision(program.kernels, wanted, "plan", branch)
            assert (proof.fused_attention, proof.attentions) == (fused, attentions)
            assert attention_kernels(bytes(plan)) == fused
            assert len(plan) == pytest.approx(share * megabytes * 1e6, rel=0.05)
            predicted = predicted_activation_bytes(graph, {n: r.maximum for n, r in spec.shapes.items()})
            assert program.activation_bytes == pytest.approx(predicted, rel=0.4)


@pytest.mark.parametrize(("code", "hint"), [(errno.ENOSPC, "Make room"), (errno.EACCES, "where you may write")])
def test_what_cannot_be_written_is_told_with_what_helps(tmp_path: Path, code: int, hint: str) -> None:
    place = tmp_path / "engines" / "one"
    with pytest.raises(BundleError, match="cannot be written") as caught, new_folder(place, BundleError) as folder:
        raise OSError(code, "no", str(folder / "image.plan"))
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []
