"""What every backend promises, tried on each: the fake, ONNX Runtime, PyTorch; and options, feeds and cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from text_files import write_files

from tbps_infer.cores import usable_cores
from tbps_infer.devices import Device
from tbps_infer.errors import BackendError, FeedError, UsageError
from tbps_infer.model_facts import Branch
from tbps_infer.runners import Runner, RunOptions, TensorSpec, check_feeds, open_runner
from tbps_infer.runners.fake import FakeRunner, fake_facts
from tbps_infer.text import pad_ids
from tbps_infer.tokenizer_files import train_wordpiece

Opener = Callable[[Branch], Runner]
CAPTIONS = ("a woman in a red coat", "a man", "a tall man in blue trousers with a grey backpack and a hat")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny reference model with random weights."""
    import torch

    from tbps_infer.reference.checkpoint import save_checkpoint
    from tbps_infer.reference.config import tiny_config
    from tbps_infer.reference.model import PartModel

    torch.manual_seed(0)
    tokenizer = train_wordpiece(CAPTIONS, 200)
    model = PartModel(tiny_config(tokenizer.get_vocab_size()))
    return save_checkpoint(tmp_path_factory.mktemp("tiny"), model, tokenizer.to_str())


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two graphs with the fake model's inputs and outputs: normalised random projections."""
    from onnx import TensorProto, helper, numpy_helper, save

    folder = tmp_path_factory.mktemp("graphs")
    facts = fake_facts()
    height, width = facts.preprocessing.image_size
    rng = np.random.default_rng(5)
    dim = facts.layout.dim
    pixel_weight = rng.normal(size=(height * width * 3, dim)).astype(np.float32)
    token_weight = rng.normal(size=(1000, dim)).astype(np.float32)
    vector = helper.make_tensor_value_info
    tail = [
        helper.make_node("ReduceL2", ["sum", "last"], ["norm"], keepdims=1),
        helper.make_node("Div", ["sum", "norm"], ["unit"]),
    ]
    image = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["sum"]),
            *tail,
            helper.make_node("Identity", ["unit"], ["image_embedding"]),
        ],
        "image",
        [vector("pixels", TensorProto.UINT8, ["batch", height, width, 3])],
        [vector("image_embedding", TensorProto.FLOAT, ["batch", dim])],
        [numpy_helper.from_array(pixel_weight, "weight"), numpy_helper.from_array(np.array([1]), "last")],
    )
    text = helper.make_graph(
        [
            helper.make_node("Gather", ["weight", "input_ids"], ["tokens"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "two"], ["column"]),
            helper.make_node("Mul", ["tokens", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "last"], ["sum"], keepdims=0),
            *tail,
            helper.make_node("Identity", ["unit"], ["text_embedding"]),
        ],
        "text",
        [vector(name, TensorProto.INT32, ["batch", "length"]) for name in ("input_ids", "attention_mask")],
        [vector("text_embedding", TensorProto.FLOAT, ["batch", dim])],
        [
            numpy_helper.from_array(token_weight, "weight"),
            numpy_helper.from_array(np.array([1]), "last"),
            numpy_helper.from_array(np.array([2]), "two"),
        ],
    )
    for graph in (image, text):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        save(model, folder / f"{graph.name}.onnx")
    np.savez(folder / "weights.npz", pixels=pixel_weight, tokens=token_weight)
    return folder


@pytest.fixture(params=["fake", "onnxruntime", "torch"])
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param == "fake":
        return lambda branch: FakeRunner(fake_facts(), branch)
    if request.param == "torch":
        path: Path = request.getfixturevalue("checkpoint")
        return lambda branch: open_runner(path, branch, RunOptions(backend="torch"))
    from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner

    folder: Path = request.getfixturevalue("graphs")
    return lambda branch: OnnxRuntimeRunner(folder / f"{branch}.onnx", RunOptions(threads=1))


def feeds_of(runner: Runner, branch: Branch, count: int = 4) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(2)
    if branch == "image":
        size = [int(axis) for axis in runner.inputs[0].shape[1:]]
        return {"pixels": rng.integers(0, 256, (count, *size), dtype=np.uint8)}
    rows = [rng.integers(1, 40, rng.integers(2, 9)).tolist() for _ in range(count)]
    ids, mask = pad_ids(rows, 0)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("branch", ["image", "text"])
def test_an_item_gives_the_same_alone_and_in_a_batch(opener: Opener, branch: Branch) -> None:
    runner = opener(branch)
    feeds = feeds_of(runner, branch)
    before = {name: array.copy() for name, array in feeds.items()}
    for array in feeds.values():
        array.flags.writeable = False  # a runner has no business writing into what it is fed
    (name,) = (spec.name for spec in runner.outputs)
    assert name == f"{branch}_embedding"
    together = runner.run(feeds)[name]
    kept = together.copy()
    for index in range(4):
        alone = runner.run({key: array[index : index + 1] for key, array in feeds.items()})[name]
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)
    np.testing.assert_array_equal(together, kept)  # later runs leave earlier outputs alone
    assert together.dtype == np.float32 and np.isfinite(together).all()
    assert np.abs(together[0] - together[1]).max() > 1e-4
    for key, array in feeds.items():
        np.testing.assert_array_equal(array, before[key])
    reversed_view = {key: array[::-1] for key, array in feeds.items()}  # not contiguous
    np.testing.assert_allclose(runner.run(reversed_view)[name], together[::-1], atol=1e-5)
    runner.close()


def test_filling_does_not_count(opener: Opener) -> None:
    runner = opener("text")
    rows = [[2, 17, 23, 3], [2, 30, 3]]
    narrow, wide = (
        runner.run(dict(zip(("input_ids", "attention_mask"), pad_ids(rows, 0, n), strict=True))) for n in (4, 11)
    )
    np.testing.assert_allclose(narrow["text_embedding"], wide["text_embedding"], atol=1e-5)
    runner.close()


@pytest.mark.parametrize("branch", ["image", "text"])
def test_a_wrong_feed_and_a_closed_runner_are_refused(opener: Opener, branch: Branch) -> None:
    runner = opener(branch)
    feeds = feeds_of(runner, branch)
    first = runner.inputs[0].name
    with pytest.raises(FeedError, match=f"want {first}: .*got float32"):
        runner.run({**feeds, first: feeds[first].astype(np.float32)})
    with pytest.raises(FeedError, match="want inputs"):
        runner.run({**feeds, "more": feeds[first]})
    with pytest.raises(FeedError, match="empty array"):
        runner.run({name: array[:0] for name, array in feeds.items()})
    assert runner.description
    runner.close()
    runner.close()
    with pytest.raises(FeedError, match="closed"):
        runner.run(feeds)


def test_threads_of_a_session_on_the_cpu_sleep_while_they_wait(graphs: Path) -> None:
    from tbps_infer.runners.onnxruntime_runner import open_session

    _, session = open_session(graphs / "text.onnx", Device("cpu"))
    settings = session.get_session_options()
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_onnxruntime_computes_what_numpy_does(graphs: Path) -> None:
    from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner

    weights = np.load(graphs / "weights.npz")
    image = OnnxRuntimeRunner(graphs / "image.onnx", RunOptions(threads=1))
    pixels = feeds_of(image, "image")["pixels"]
    expected = pixels.reshape(4, -1).astype(np.float64) @ weights["pixels"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(image.run({"pixels": pixels})["image_embedding"], expected, atol=1e-5)

    text = OnnxRuntimeRunner(graphs / "text.onnx", RunOptions(threads=1))
    feeds = feeds_of(text, "text")
    expected = (weights["tokens"][feeds["input_ids"]] * feeds["attention_mask"][..., None]).sum(axis=1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(text.run(feeds)["text_embedding"], expected, atol=1e-5)
    assert text.inputs == (
        TensorSpec("input_ids", np.dtype(np.int32), ("batch", "length")),
        TensorSpec("attention_mask", np.dtype(np.int32), ("batch", "length")),
    )


@pytest.mark.parametrize("branch", ["image", "text"])
def test_torch_computes_what_the_model_does(checkpoint: Path, branch: Branch) -> None:
    import torch

    from tbps_infer.reference.checkpoint import load_checkpoint

    runner = open_runner(checkpoint, branch, RunOptions(backend="torch"))
    feeds = feeds_of(runner, branch)
    model = load_checkpoint(checkpoint).model.double()
    tensors = [torch.from_numpy(feeds[spec.name]) for spec in runner.inputs]
    expected = (model.encode_image if branch == "image" else model.encode_text)(*tensors)
    np.testing.assert_allclose(runner.run(feeds)[f"{branch}_embedding"], expected.numpy(), atol=1e-5)


def test_bound_runs_equal_plain_ones(graphs: Path) -> None:
    """The path that CUDA takes, with the CPU in its place."""
    import onnxruntime

    from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner, run_bound

    session = onnxruntime.InferenceSession(graphs / "image.onnx", providers=["CPUExecutionProvider"])
    runner = OnnxRuntimeRunner(graphs / "image.onnx", RunOptions(threads=1))
    feeds = {"pixels": feeds_of(runner, "image")["pixels"][::-1]}
    (bound,), times = run_bound(session, ["image_embedding"], feeds, Device("cpu"))
    assert min(times.host_to_device_ms, times.compute_ms, times.device_to_host_ms) > 0
    again = run_bound(session, ["image_embedding"], feeds_of(runner, "image"), Device("cpu"))[0][0]
    np.testing.assert_array_equal(bound, runner.run(feeds)["image_embedding"])
    np.testing.assert_array_equal(again, bound[::-1])


def test_a_stream_equals_single_runs(opener: Opener) -> None:
    for branch in ("image", "text"):
        runner = opener(branch)
        runner.warm(4, 5)
        batches = [feeds_of(runner, branch, count) for count in (3, 1, 4)]
        for feeds, outputs in zip(batches, runner.run_stream(iter(batches)), strict=True):
            np.testing.assert_array_equal(outputs[f"{branch}_embedding"], runner.run(feeds)[f"{branch}_embedding"])
        runner.close()
        with pytest.raises(FeedError, match="closed"):
            next(runner.run_stream(batches))


def test_batches_on_cuda_are_filled_up_to_buckets(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU in a CUDA device's place."""
    from tbps_infer.runners import onnxruntime_runner as ours

    runner = ours.OnnxRuntimeRunner(graphs / "text.onnx", RunOptions(threads=1))
    expected = {count: runner.run(feeds_of(runner, "text", count)) for count in (1, 3, 32, 70)}
    sizes: list[int] = []
    run_bound = ours.run_bound

    def on_the_cpu(session: Any, names: list[str], feeds: Any, device: Device) -> Any:
        assert device == Device("cuda") and feeds["attention_mask"].any(axis=1).all()
        sizes.append(len(feeds["input_ids"]))
        return run_bound(session, names, feeds, Device("cpu"))

    monkeypatch.setattr(ours, "run_bound", on_the_cpu)
    monkeypatch.setattr(runner, "_device", Device("cuda"))
    for count, wanted in expected.items():
        found, times = runner.run_timed(feeds_of(runner, "text", count))
        np.testing.assert_allclose(found["text_embedding"], wanted["text_embedding"], atol=1e-6)
        assert times is not None and times.compute_ms > 0
    assert sizes == [1, 4, 32, 96]
    sizes.clear()
    runner.warm(40, 7)
    assert sizes == [1, 2, 4, 8, 16, 32, 64]


def test_the_description_is_read_back(graphs: Path, checkpoint: Path) -> None:
    import onnxruntime

    from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner

    runner = OnnxRuntimeRunner(graphs / "text.onnx", RunOptions(threads=3))
    version = onnxruntime.__version__
    assert runner.description == f"onnxruntime {version}, CPUExecutionProvider on cpu, fp32, 3 threads"
    default = OnnxRuntimeRunner(graphs / "text.onnx", RunOptions())
    assert default.description.endswith(f"{usable_cores()} threads")
    reference = open_runner(checkpoint, "text", RunOptions(backend="torch"))
    assert reference.description.startswith("torch 2.") and "cpu, fp32" in reference.description


def test_the_fake_keeps_its_layout_counts_calls_and_fails_when_told() -> None:
    facts = fake_facts()
    runner = FakeRunner(facts, "image", error=BackendError("out of memory"), fail_after=2)
    feeds = feeds_of(runner, "image")
    vectors = runner.run(feeds)["image_embedding"]
    runner.run({"pixels": feeds["pixels"][:1]})
    for segment in facts.layout.segments:
        norms = np.linalg.norm(vectors[:, facts.layout.slices[segment.name]], axis=1)
        np.testing.assert_allclose(norms**2, segment.weight, rtol=1e-5)
    assert runner.batch_sizes == [4, 1]
    for _ in range(2):
        with pytest.raises(BackendError, match="out of memory"):
            runner.run(feeds)
    assert runner.batch_sizes == [4, 1]


@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((2, 12, 5, 3), np.uint8, r"want pixels: uint8\[batch, 12, 4, 3\], got uint8\[2, 12, 5, 3\]"),
        ((2, 3, 12, 4), np.float32, r"want pixels: uint8\[batch, 12, 4, 3\], got float32\[2, 3, 12, 4\]"),
        ((12, 4, 3), np.uint8, r"got uint8\[12, 4, 3\]"),
    ],
)
def test_the_sentence_of_a_wrong_feed(shape: tuple[int, ...], dtype: type, sentence: str) -> None:
    specs = FakeRunner(fake_facts(), "image").inputs
    with pytest.raises(FeedError, match=sentence):
        check_feeds(specs, {"pixels": np.zeros(shape, dtype)})


def test_dynamic_axes_of_two_inputs_must_agree() -> None:
    specs = FakeRunner(fake_facts(), "text").inputs
    feeds = {"input_ids": np.ones((2, 5), np.int32), "attention_mask": np.ones((2, 6), np.int32)}
    with pytest.raises(FeedError, match="attention_mask: length is 6, and 5 in another input"):
        check_feeds(specs, feeds)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cuda:1:2", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"device .* is not known"):
        RunOptions(device=name)


def test_options_are_checked() -> None:
    assert Device.parse("cuda:1") == Device("cuda", 1) and str(Device.parse("cuda")) == "cuda:0"
    assert str(Device.parse("cpu")) == "cpu"
    with pytest.raises(UsageError, match="backend 'tensorflow' is not known"):
        RunOptions(backend="tensorflow")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="precision 'fp64' is not known"):
        RunOptions(precision="fp64")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threads is 0"):
        RunOptions(threads=0)


def machine(root: Path, cores: dict[int, str], files: dict[str, str]) -> Path:
    for cpu, siblings in cores.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    return write_files(root, files)


V2 = "0::/user/job\n"
V1 = "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/user/job/cpu.max": "max 100000\n"}, 4),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/user/job/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/user/cpu.max": "300000 100000\n"}, 3),  # the parent's quota
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),  # seen from inside a container
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/user/job/cpu.max": "900000 100000\n"}, 4),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n"}, 4),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
          "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)  # fmt: skip
def test_cores_are_physical_and_within_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    siblings = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(machine(tmp_path, siblings, files)) == expected


def test_cores_keep_to_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}, {})
    for allowed, expected in (({0, 4}, 1), ({0, 1, 5}, 2), ({3}, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=allowed: cpus)
        assert usable_cores(root) == expected
    assert usable_cores(tmp_path / "nowhere") == 1


def test_importing_loads_no_backend() -> None:
    program = """
import sys
import tbps_infer.encoder, tbps_infer.runners, tbps_infer.runners.fake, tbps_infer.cores
heavy = {"torch", "onnxruntime", "onnx", "PIL", "tokenizers", "transformers", "rich", "click"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_runner_on_another_device_leaves_the_checkpoints_modules_where_they_are(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device meta stands for a GPU, which would take the modules from a runner on the CPU."""
    import torch

    from tbps_infer.runners import open_model, torch_runner

    source = open_model(checkpoint, RunOptions("torch"))
    on_cpu = torch_runner.TorchRunner(source, "image", RunOptions("torch"))  # type: ignore[arg-type]
    shape = (2, *(size for size in on_cpu.inputs[0].shape if isinstance(size, int)))
    feeds = {"pixels": np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)}
    before = on_cpu.run(feeds)["image_embedding"]
    device = torch.device
    monkeypatch.setattr(torch_runner, "_check_device", lambda _device: None)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "device", lambda name: device("meta" if "cuda" in str(name) else name))
        moved = {
            branch: torch_runner.TorchRunner(source, branch, RunOptions("torch", "cuda"))._module  # type: ignore[arg-type]
            for branch in ("image", "text", "image")
        }
    assert {tensor.device.type for module in moved.values() for tensor in module.parameters()} == {"meta"}
    assert moved["image"].model is moved["text"].model  # one copy for both branches
    assert not any(module.training for module in moved["image"].modules())
    np.testing.assert_array_equal(on_cpu.run(feeds)["image_embedding"], before)


def test_a_memory_is_chosen_for_engines_alone() -> None:
    assert RunOptions("tensorrt", "cuda", memory="pycuda").memory == "pycuda"
    with pytest.raises(UsageError, match="the backend onnxruntime has memory of its own"):
        RunOptions(memory="pycuda")
