"""A backend, device or precision that is not there is an error that says what to install, and never another one."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnxruntime
import pytest
from onnx import TensorProto, helper, save

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError, CheckpointError, UsageError
from tbps_infer.runners import BackendName, RunOptions, open_model, open_runner
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner, nodes_on_cpu, open_session

CUDA = RunOptions(device="cuda:1")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])
    model = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [result])
    save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def wheels(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name in names:
            return "1.32.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


def runtime(monkeypatch: pytest.MonkeyPatch, providers: list[str], session: object) -> None:
    """Stand in for an onnxruntime of another machine."""
    module = ModuleType("onnxruntime")
    vars(module).update(
        __version__="1.32.0",
        get_available_providers=lambda: providers,
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *_: None),
        set_default_logger_severity=lambda _: None,
        InferenceSession=session,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


def test_without_onnxruntime(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="onnxruntime cannot be imported") as caught:
        OnnxRuntimeRunner(graph, RunOptions())
    assert caught.value.hint == 'Install it: pip install "tbps-infer[cpu]".'
    with pytest.raises(BackendError) as caught:
        OnnxRuntimeRunner(graph, CUDA)
    assert caught.value.hint == 'Install it: pip install "tbps-infer[gpu]".'


def test_cuda_with_the_cpu_package(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch, "onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider; it has .*CPUExecutionProvider") as caught:
        OnnxRuntimeRunner(graph, CUDA)
    assert 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "tbps-infer[gpu]"' in caught.value.hint


def test_cuda_with_both_packages(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(BackendError, match="onnxruntime and onnxruntime-gpu are both installed") as caught:
        OnnxRuntimeRunner(graph, CUDA)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caught.value.hint
    assert "CPUExecutionProvider" in OnnxRuntimeRunner(graph, RunOptions()).description  # the CPU is in either


def test_a_session_on_another_provider_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime without CUDA's libraries gives a CPU session and no exception: act that machine out."""
    asked = []

    def session(path: str, _: object, *, providers: list[object], enable_fallback: int) -> object:
        asked.append((path, providers, enable_fallback))
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"], disable_fallback=lambda: None)

    wheels(monkeypatch, "onnxruntime-gpu")
    runtime(monkeypatch, ["CUDAExecutionProvider", "CPUExecutionProvider"], session)
    with pytest.raises(
        BackendError, match="asked for CUDAExecutionProvider and runs on CPUExecutionProvider"
    ) as caught:
        OnnxRuntimeRunner(graph, CUDA)
    assert "onnxruntime-gpu" in caught.value.hint
    choices = {
        "device_id": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert asked == [(str(graph), [("CUDAExecutionProvider", choices)], 0)]


class CudaSession:
    """A session on a CUDA device as ONNX Runtime 1.24 and newer describe it."""

    def __init__(self, places: dict[str, list[str]]) -> None:
        self.places = places

    def disable_fallback(self) -> None:
        pass

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=k) for k in kinds])
            for name, kinds in self.places.items()
        ]


def open_on_cuda(graph: Path, monkeypatch: pytest.MonkeyPatch, session: object) -> list[tuple[str, str]]:
    """The settings of a session that was opened on another machine's CUDA device."""
    entries: list[tuple[str, str]] = []
    wheels(monkeypatch, "onnxruntime-gpu")
    runtime(monkeypatch, ["CUDAExecutionProvider"], lambda *_, **__: session)
    settings = SimpleNamespace(add_session_config_entry=lambda *entry: entries.append(entry))
    monkeypatch.setattr(sys.modules["onnxruntime"], "SessionOptions", lambda: settings)
    open_session(graph, Device("cuda"))
    return entries


def test_a_node_left_to_the_cpu_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"CUDAExecutionProvider": ["Shape", "Gemm"], "CPUExecutionProvider": ["Concat", "TopK", "Einsum"]}
    with pytest.raises(BackendError, match=r"would compute Einsum, TopK of .* on the CPU, and cuda:0 was asked for"):
        open_on_cuda(graph, monkeypatch, CudaSession(places))


def test_the_arithmetic_of_shapes_may_be_on_the_cpu(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"CUDAExecutionProvider": ["Shape", "Gemm"], "CPUExecutionProvider": ["Concat", "Gather"]}
    entries = open_on_cuda(graph, monkeypatch, CudaSession(places))
    assert entries == [("session.record_ep_graph_assignment_info", "1")]


def test_an_onnxruntime_that_does_not_say_where_nodes_are_is_told(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"], disable_fallback=lambda: None)
    open_on_cuda(graph, monkeypatch, old)
    assert "does not tell whether it computes parts of g.onnx on the CPU" in caplog.text


def test_the_places_of_nodes_are_read_from_a_real_session(graph: Path) -> None:
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    assert nodes_on_cpu(session) == frozenset({"Neg"})


def test_what_preloading_prints_becomes_part_of_the_sentence(
    graph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def session(*_: object, **__: object) -> object:
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"], disable_fallback=lambda: None)

    wheels(monkeypatch, "onnxruntime-gpu")
    runtime(monkeypatch, ["CUDAExecutionProvider"], session)
    sys.modules["onnxruntime"].preload_dlls = lambda: print("Failed to load libcudnn.so.9")  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"Failed to load libcudnn\.so\.9$"):
        OnnxRuntimeRunner(graph, CUDA)
    assert capsys.readouterr().out == ""


def test_a_provider_that_does_not_start(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def session(*_: object, **__: object) -> object:
        raise RuntimeError("CUDA failure 101: invalid device ordinal\nGPU=1")

    wheels(monkeypatch, "onnxruntime-gpu")
    runtime(monkeypatch, ["CUDAExecutionProvider"], session)
    with pytest.raises(BackendError, match=r"cannot load .* on cuda:1: CUDA failure 101: invalid device ordinal\.$"):
        OnnxRuntimeRunner(graph, CUDA)


def test_a_graph_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    for name in ("bad.onnx", "missing.onnx"):
        with pytest.raises(BackendError, match=rf"cannot load .*{name} on cpu"):
            OnnxRuntimeRunner(tmp_path / name, RunOptions())


def test_axes_without_names_are_free_of_each_other(graph: Path) -> None:
    runner = OnnxRuntimeRunner(graph, RunOptions(threads=1))
    assert [str(spec) for spec in (*runner.inputs, *runner.outputs)] == ["x: float32[x.0, 2]", "y: float32[y.0, 2]"]


def test_cuda_without_a_cuda_build_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tbps_infer.runners.torch_runner import TorchRunner

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checkpoint = SimpleNamespace(model=torch.nn.Identity(), path=tmp_path)
    with pytest.raises(BackendError, match="finds no CUDA device, and cuda:0 was asked for"):
        TorchRunner(checkpoint, "image", RunOptions("torch", device="cuda"))  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendError, match="no cuda:1: PyTorch finds 1 CUDA devices"):
        TorchRunner(checkpoint, "image", RunOptions("torch", device="cuda:1"))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="computes in fp32, and fp16 was asked for"):
        TorchRunner(checkpoint, "image", RunOptions("torch", precision="fp16"))  # type: ignore[arg-type]


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("tbps_infer.reference.", "tbps_infer.families."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BackendError, match="needs the package torch, which is not installed") as caught:
        open_model(tmp_path, RunOptions("torch"))
    assert caught.value.hint == 'Install it: pip install "tbps-infer[export]".'


def test_a_model_of_the_other_kind(tmp_path: Path) -> None:
    (tmp_path / "best.pth").touch()
    for path in (tmp_path, tmp_path / "best.pth"):
        with pytest.raises(UsageError, match="is a checkpoint, and the backend onnxruntime runs bundles") as caught:
            open_runner(path, "image", RunOptions())
        assert "tbps export" in caught.value.hint
        with pytest.raises(CheckpointError):
            open_runner(path, "image", RunOptions("torch"))
    (tmp_path / "bundle.json").touch()
    with pytest.raises(UsageError, match="is a bundle, and the backend torch runs checkpoints"):
        open_runner(tmp_path, "image", RunOptions("torch"))


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_path_that_is_no_model(tmp_path: Path, backend: BackendName) -> None:
    (tmp_path / "notes.txt").touch()
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UsageError, match="is neither a bundle nor a checkpoint"):
            open_model(path, RunOptions(backend))
    with pytest.raises(UsageError, match=r"missing does not exist\.") as caught:
        open_model(tmp_path / "missing", RunOptions(backend))
    assert "tbps export" in caught.value.hint
