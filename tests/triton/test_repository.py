"""A bundle as a repository of Triton: what its models are configured as, and which engines they load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import fail, succeed
from places import SHIPPED_BUNDLE

from tbps_infer.bundle import Bundle, file_sha256
from tbps_infer.errors import BackendError, BundleError, UsageError
from tbps_infer.runners.options import RunOptions
from tbps_infer.tensorrt.engine_folder import EngineFacts, PlanFacts, write_facts
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.triton.options import TritonOptions
from tbps_infer.triton.repository import write_repository

GPU = GpuFacts("Orin", "sm87", 8 << 30, 7 << 30, "12.6", "12.6")
TENSORRT = TritonOptions(RunOptions("tensorrt", "cuda", "fp16"))


def test_the_command_writes_four_models_with_the_bundles_own_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "repository"
    done = succeed("deploy", "triton", SHIPPED_BUNDLE, "-o", out, "--max-batch", "8", "--instances", "2")
    assert done.stdout == f"{out}: tbps_image, tbps_text, tbps_tokenizer, tbps_text_graph\n"
    bundle = Bundle.open(SHIPPED_BUNDLE)
    copies = {"tbps_image/1/image.onnx", "tbps_text_graph/1/text.onnx", "tbps_tokenizer/1/tokenizer.json"}
    for copy in copies:
        assert file_sha256(out / copy) == bundle.files[Path(copy).name].sha256
    configs = {f"tbps_{part}/config.pbtxt" for part in ("image", "text", "text_graph", "tokenizer")}
    found = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert found == copies | configs | {"tbps_tokenizer/1/model.py"}
    for config in configs:
        assert bundle.model.fingerprint in (out / config).read_text(encoding="utf-8")
    assert (out / "tbps_image" / "config.pbtxt").read_text(encoding="utf-8").splitlines()[:-1] == [
        'name: "tbps_image"',
        'backend: "onnxruntime"',
        "max_batch_size: 8",
        'input [ { name: "pixels" data_type: TYPE_UINT8 dims: [96, 32, 3] } ]',
        'output [ { name: "image_embedding" data_type: TYPE_FP32 dims: [832] } ]',
        'default_model_filename: "image.onnx"',
        "dynamic_batching { max_queue_delay_microseconds: 2000 }",
        "instance_group [ { count: 2 kind: KIND_CPU } ]",
        'parameters { key: "precision" value { string_value: "fp32" } }',
    ]
    again = fail(2, "deploy", "triton", SHIPPED_BUNDLE, "-o", out)
    assert "already exists" in again.stderr


def test_an_altered_graph_is_not_deployed(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(SHIPPED_BUNDLE, tmp_path / "bundle"))
    content = bytearray((bundle / "text.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "text.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"text\.onnx is not the file"):
        write_repository(Bundle.open(bundle), tmp_path / "repository", TritonOptions(RunOptions()))
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fp16",), "no FP16 kernels for the CPU"),
        (("--int8", "--device", "cuda"), "no INT8 kernels for a GPU"),
        (("--backend", "tensorrt", "--device", "cpu"), "does not run on the CPU"),
        (("--engines", "x"), "Engines were chosen, and onnxruntime runs graphs"),
        (("--name", "a/b"), "'a/b' cannot begin a model's name"),
    ],
)
def test_what_triton_cannot_run_is_refused(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = fail(2, "deploy", "triton", SHIPPED_BUNDLE, "-o", tmp_path / "out", *arguments)
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_graphs_that_were_not_exported_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="holds no fp16 graph"):
        write_repository(
            Bundle.open(SHIPPED_BUNDLE), tmp_path / "out", TritonOptions(RunOptions(device="cuda", precision="fp16"))
        )
    with pytest.raises(UsageError, match="does not load torch"):
        TritonOptions(RunOptions("torch"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED_BUNDLE, tmp_path / "bundle"))


def plant_engines(bundle: Path, *, texts: tuple[tuple[int, ...], ...] = ((32, 100),), **changes: Any) -> str:
    """A folder of engines as `tbps build` writes it, of a few bytes; returns its name."""
    branches = [("image", ()), *(("text", lengths) for lengths in texts)]
    names = ["image.plan", *("text.plan" if len(texts) == 1 else f"text-{one[0]}.plan" for one in texts)]
    files = Bundle.open(bundle).files
    batch = {branch: {"minimum": 1, "optimum": 8, "maximum": 16} for branch in ("image", "text")}
    spec = {"graphs": {name: files[name].sha256 for name in ("image.onnx", "text.onnx")}, "batch": batch}
    facts: dict[str, Any] = {
        "flavour": "tensorrt",
        "version": "10.16.1",
        "precision": "fp16",
        "target": None,
        "gpu": GPU,
        "spec": spec,
    }
    facts |= {
        "plans": (),
        "mixed_precision": {},
        "self_check": {"executed": False},
        "created": "2026-01-01",
    } | changes
    made = EngineFacts(**facts)
    folder = bundle / "engines" / made.folder_name
    folder.mkdir(parents=True)
    plans = []
    for name, (branch, lengths) in zip(names, branches, strict=True):
        (folder / name).write_bytes(name.encode())
        sha256 = file_sha256(folder / name)
        plans.append(PlanFacts(name, branch, lengths, len(name), sha256, 1.0, 0, None, ()))  # type: ignore[arg-type]
    write_facts(folder, EngineFacts(**{**facts, "plans": tuple(plans)}))
    return folder.name


def test_engines_are_served_with_their_own_batch_and_lengths(bundle: Path, tmp_path: Path) -> None:
    plant_engines(bundle)
    plant_engines(bundle, flavour="tensorrt-rtx", version="1.7.1", target="sm87")
    write_repository(Bundle.open(bundle), tmp_path / "out", TENSORRT)
    text = (tmp_path / "out" / "tbps_text_graph" / "config.pbtxt").read_text(encoding="utf-8")
    for line in ('backend: "tensorrt"', "max_batch_size: 16", 'default_model_filename: "text.plan"'):
        assert f"{line}\n" in text
    assert "instance_group [ { count: 1 kind: KIND_GPU gpus: [0] } ]" in text
    assert (tmp_path / "out" / "tbps_text_graph" / "1" / "text.plan").read_bytes() == b"text.plan"
    tokenizer = (tmp_path / "out" / "tbps_tokenizer" / "config.pbtxt").read_text(encoding="utf-8")
    assert 'key: "lengths" value { string_value: "32,100" }' in tokenizer
    assert "max_batch_size: 16\n" in tokenizer


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flavour": "tensorrt-rtx", "target": "sm87"}, "holds no engines of TensorRT in fp16; those for RTX"),
        ({"texts": ((32,), (100,))}, "are one for each text length"),
        ({"spec": {"graphs": {"image.onnx": "0" * 64}, "batch": {}}}, "made from another image.onnx"),
    ],
)
def test_engines_that_triton_cannot_serve_are_refused(
    bundle: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    plant_engines(bundle, **changes)
    with pytest.raises(BackendError, match=said):
        write_repository(Bundle.open(bundle), tmp_path / "out", TENSORRT)
    assert not (tmp_path / "out").exists()


def test_of_several_engines_one_is_chosen(bundle: Path, tmp_path: Path) -> None:
    names = [plant_engines(bundle), plant_engines(bundle, version="10.16.2")]
    with pytest.raises(BackendError, match="holds several engines: ") as caught:
        write_repository(Bundle.open(bundle), tmp_path / "out", TENSORRT)
    assert all(name in caught.value.message for name in names)
    write_repository(Bundle.open(bundle), tmp_path / "out", TritonOptions(TENSORRT.run, names[1]))
    assert (tmp_path / "out" / "tbps_image" / "1" / "image.plan").exists()
