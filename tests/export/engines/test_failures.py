"""Each way in which TensorRT fails without an exception, provoked on the real TensorRT for RTX: one error each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from no_driver import without_driver

from tbps_infer.errors import BackendError, UsageError
from tbps_infer.runners.protocol import TensorSpec
from tbps_infer.tensorrt.library import Library, open_library
from tbps_infer.tensorrt.plan_builder import build_plan
from tbps_infer.tensorrt.plan_spec import BatchRange, BuildSettings, PlanSpec, ShapeRange
from tbps_infer.tensorrt.timing_cache import TimingCache

onnx = pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")

SM86 = BuildSettings(target="sm86")
SPEC = PlanSpec(
    inputs=(TensorSpec("pixels", np.dtype(np.uint8), ("batch", 8)),),
    outputs=(TensorSpec("image_embedding", np.dtype(np.float32), ("batch", 4)),),
    profiles=({"pixels": ShapeRange((1, 8), (2, 8), (4, 8))},),
)


@pytest.fixture(scope="module")
def library() -> Library:
    return open_library("tensorrt-rtx")


def write_graph(path: Path, *, operator: str = "Relu", size: int = 8) -> Path:
    """pixels → cast → product → ``operator`` → image_embedding."""
    helper, kind = onnx.helper, onnx.TensorProto
    weight = np.random.default_rng(1).normal(size=(size, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=kind.FLOAT),
        helper.make_node("MatMul", ["floats", "weight"], ["product"], name="product"),
        helper.make_node(operator, ["product"], ["image_embedding"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "image",
        [helper.make_tensor_value_info("pixels", kind.UINT8, ["batch", size])],
        [helper.make_tensor_value_info("image_embedding", kind.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("graph") / "image.onnx")


def test_a_build_is_the_same_each_time_and_reports_its_phases(library: Library, graph: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    first = build_plan(library, graph, SPEC, SM86, on_progress=lambda *step: steps.append(step))
    assert bytes(first) == bytes(build_plan(library, graph, SPEC, SM86))
    assert bytes(first) != bytes(build_plan(library, graph, SPEC, BuildSettings(target="sm89")))
    whole = [(done, total) for phase, done, total in steps if phase == "Building engine"]
    assert [done for done, _ in whole] == sorted(done for done, _ in whole)
    assert whole[-1][0] == whole[-1][1] == max(total for _, total in whole)
    for phase in {phase for phase, _, _ in steps}:  # some begin again
        assert steps[[name for name, _, _ in steps].index(phase)][1] == 0
        assert all(0 <= done <= total for name, done, total in steps if name == phase)


def test_a_network_flag_that_is_not_known_answers_none(library: Library) -> None:
    builder = library.create_builder()
    with pytest.raises(BackendError, match=r"could not make a network: .*Parameter check failed"):
        library.made(builder.create_network(1 << 9), "make a network")


@pytest.mark.parametrize("content", [b"", b"\0" * 10, b"\x08\n"])
def test_bytes_that_are_no_graph_but_parse_as_one(library: Library, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"image\.onnx has the inputs and outputs \(none\), and this model's are"):
        build_plan(library, path, SPEC, SM86)


def test_bytes_that_do_not_parse(library: Library, tmp_path: Path) -> None:
    (tmp_path / "image.onnx").write_bytes(b"not an onnx file")
    with pytest.raises(BackendError, match=r"cannot read .*image\.onnx: .*[Ff]ailed to parse the ONNX model"):
        build_plan(library, tmp_path / "image.onnx", SPEC, SM86)
    with pytest.raises(BackendError, match="There is no graph"):
        build_plan(library, tmp_path / "other.onnx", SPEC, SM86)


def test_an_operator_that_is_not_known_is_named_with_its_node(library: Library, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "image.onnx", operator="Telepathy")
    with pytest.raises(BackendError, match=r"cannot read .*image\.onnx: node 2: .*[Pp]lugin not found"):
        build_plan(library, path, SPEC, SM86)


def test_a_graph_of_another_interface(library: Library, graph: Path) -> None:
    other = PlanSpec(SPEC.inputs, (TensorSpec("text_embedding", np.dtype(np.float32), ("batch", 4)),), SPEC.profiles)
    with pytest.raises(
        BackendError, match=r"image_embedding float32.*, and this model's are .*text_embedding float32"
    ):
        build_plan(library, graph, other, SM86)
    half = PlanSpec(SPEC.inputs, (TensorSpec("image_embedding", np.dtype(np.float16), ("batch", 4)),), SPEC.profiles)
    with pytest.raises(BackendError, match="image_embedding float16"):
        build_plan(library, graph, half, SM86)


@pytest.mark.parametrize(
    "shapes",
    [((4, 8), (2, 8), (1, 8)), ((1, 9), (2, 9), (4, 9)), ((1, 8), (8, 8), (4, 8))],
    ids=["least above most", "a fixed size that is another", "usual above most"],
)
def test_a_profile_out_of_order_answers_minus_one_or_fails_the_build(
    library: Library, graph: Path, shapes: tuple[Any, Any, Any]
) -> None:
    spec = PlanSpec(SPEC.inputs, SPEC.outputs, ({"pixels": ShapeRange(*shapes)},))
    with pytest.raises(BackendError, match=r"could not (use the shapes given|build the engine): .+"):
        build_plan(library, graph, spec, SM86)


def test_batch_sizes_out_of_order_are_refused_before_that() -> None:
    with pytest.raises(UsageError, match="8, 4 and 32"):
        BatchRange(8, 4, 32)


def test_a_profile_that_is_missing_fails_the_build_with_the_recorders_text(library: Library, graph: Path) -> None:
    with pytest.raises(BackendError) as caught:
        build_plan(library, graph, PlanSpec(SPEC.inputs, SPEC.outputs, ({},)), SM86)
    assert "pixels is missing dimensions in profile 0" in caught.value.message
    assert ".cpp" not in caught.value.message


@pytest.mark.parametrize("target", ["sm87", "sm90", "rtx4090", "SM", "none"])
def test_targets_that_it_does_not_build_for(library: Library, graph: Path, target: str) -> None:
    with pytest.raises(UsageError, match="it builds for sm75, sm80, sm86, sm89, sm120, sm121") as caught:
        build_plan(library, graph, SPEC, BuildSettings(target=target))
    assert "tensorrt" in caught.value.hint


def test_settings_that_are_no_ops_are_refused(library: Library, graph: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="optimization level does not apply to tensorrt-rtx"):
        build_plan(library, graph, SPEC, BuildSettings(optimization_level=3))
    with pytest.raises(UsageError, match="timing cache does not apply to tensorrt-rtx"):
        times = TimingCache(library, tmp_path / "times", named=True, on_step=lambda _step: None)
        build_plan(library, graph, SPEC, SM86, timing_cache=times)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_not_kept_are_noticed(library: Library) -> None:
    """RTX accepts a hardware compatibility level and stays at none; the workspace is kept, TF32 goes off."""
    from tbps_infer.tensorrt.plan_builder import _configure, _kept

    trt = library.module
    config = library.create_builder().create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)
    _configure(library, config, BuildSettings(workspace_bytes=123 << 20))
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 123 << 20
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    with pytest.raises(BackendError, match="did not keep the setting of compatibility"):
        _kept(
            library, "compatibility", config.hardware_compatibility_level, trt.HardwareCompatibilityLevel.AMPERE_PLUS
        )


def test_a_workspace_too_small_says_so(library: Library, tiny_bundle: Path) -> None:
    from tbps_infer.bundle import Bundle
    from tbps_infer.export.fp16.convert import MixedPrecisionOptions, convert_file
    from tbps_infer.tensorrt.plan_spec import plan_spec

    half = tiny_bundle.parent / "half.onnx"
    convert_file(tiny_bundle / "text.onnx", half, MixedPrecisionOptions())
    spec = plan_spec(Bundle.open(tiny_bundle).model, "text", BatchRange(1, 8, 32), (32,))
    with pytest.raises(BackendError, match=r"no tactics .* within workspace limit") as caught:
        build_plan(library, half, spec, BuildSettings(workspace_bytes=1 << 20, target="sm86"))
    assert "--workspace" in caught.value.hint


class StopError(Exception):
    """Raised by a progress callback."""


@pytest.mark.parametrize("error", [StopError(), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", [0, 5])
def test_a_callback_that_raises_cancels_and_what_it_raised_comes_out(
    library: Library, graph: Path, error: BaseException, moment: int
) -> None:
    calls: list[str] = []

    def progress(phase: str, _done: int, _steps: int) -> None:
        calls.append(phase)
        if len(calls) > moment:
            raise error

    with pytest.raises(type(error)):
        build_plan(library, graph, SPEC, SM86, on_progress=progress)
    assert len(calls) == moment + 1
    build_plan(library, graph, SPEC, SM86)  # and the library is as good as new


def test_an_interruption_from_the_keyboard_is_one(library: Library, graph: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_plan(library, graph, SPEC, SM86, on_progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))


def test_an_interruption_that_reaches_the_logger_is_not_lost(
    library: Library, graph: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of all callbacks the logger is called most, and TensorRT prints and forgets what is raised in it."""
    before = signal.getsignal(signal.SIGINT)
    sent: list[str] = []

    def press(_severity: str, message: str) -> None:
        if not sent:
            sent.append(message)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(library.journal, "note", press)
    with pytest.raises(KeyboardInterrupt):
        build_plan(library, graph, SPEC, SM86)
    assert len(sent) == 1, "nothing was logged, so nothing was tried"
    runtime = library.create_runtime()
    sent.clear()
    with pytest.raises(KeyboardInterrupt):
        library.deserialize(runtime, b"garbage " * 100, "image.plan")
    assert len(sent) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert "Exception caught" not in capfd.readouterr().err


def test_plans_that_do_not_load_answer_none(library: Library, graph: Path) -> None:
    runtime = library.create_runtime()
    plan = bytes(build_plan(library, graph, SPEC, SM86))
    for content, reason in ((b"garbage " * 100, "[Ss]erialization"), (plan[: len(plan) // 2], "[Ss]erialization")):
        with pytest.raises(BackendError, match=f"could not load the engine image.plan: .*{reason}") as caught:
            library.deserialize(runtime, content, "image.plan")
        assert "tbps build" in caught.value.hint


def test_without_a_driver_a_good_plan_does_not_load_either_and_the_reason_is_given(
    library: Library, graph: Path
) -> None:
    plan = build_plan(library, graph, SPEC, SM86)
    with without_driver(), pytest.raises(BackendError, match=r"could not load the engine image\.plan: .*CUDA driver"):
        library.deserialize(library.create_runtime(), plan, "image.plan")


def test_recorders_and_parsers_are_freed_in_an_order_that_does_not_crash(graph: Path) -> None:
    """A parser on a network with a recorder, and two parsers on one network, end the process with a segfault."""
    program = (
        "import gc, sys, runpy; from pathlib import Path\n"
        f"sys.path[:] = {sys.path!r}\n"
        f"names = runpy.run_path({str(Path(__file__))!r})\n"
        "library = names['open_library']('tensorrt-rtx')\n"
        "for _ in range(3):\n"
        f"    names['build_plan'](library, Path({str(graph)!r}), names['SPEC'], names['SM86']); gc.collect()\n"
        "    runtime = library.create_runtime(); del runtime\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr
