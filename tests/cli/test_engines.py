"""`tbps build`, `tbps doctor` and `tbps export` with engines, from outside, with the real TensorRT for RTX."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fail, run, succeed

from tbps_infer.bundle import Bundle
from tbps_infer.cli import build as build_command
from tbps_infer.cli.shared.parameter_types import Numbers, Size
from tbps_infer.errors import BackendError
from tbps_infer.export.engines import build
from tbps_infer.runners import RunOptions, open_runner
from tbps_infer.tensorrt.library import open_library

pytestmark = pytest.mark.usefixtures("no_driver")


@pytest.fixture(scope="module")
def built(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with engines in FP16 for sm86."""
    pytest.importorskip("tensorrt_rtx")
    bundle = tmp_path_factory.mktemp("cli-engines") / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    done = succeed(
        *("build", bundle, "--backend", "tensorrt-rtx", "--fp16", "--target", "sm86", "--text-lengths", "32,100"),
        *("--max-batch", "16", "--workspace", "1GiB", "--keep-fp32", "Softmax"),
    )
    assert "Building image.plan: about 2 MB of activations at batch 16" in done.stderr
    assert re.search(r"kernels use FP16, (\d+) of \1 attentions are fused", done.stderr)
    assert done.stdout.startswith(f"{bundle}/engines/tensorrt-rtx-")
    assert "2 engines" in done.stdout
    return bundle


def test_options_reach_the_engines(built: Path) -> None:
    (folder,) = (built / "engines").iterdir()
    told = json.loads(run("info", built, "--json").stdout)["engines"][folder.name]
    assert (told["plans"], told["executed"]) == (2, False)
    assert told["bytes"] == sum(plan.stat().st_size for plan in folder.glob("*.plan"))
    values = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    assert values["spec"]["batch"] == {
        "image": {"minimum": 1, "optimum": 16, "maximum": 16},
        "text": {"minimum": 1, "optimum": 1, "maximum": 16},
    }
    assert values["spec"]["settings"] == {"workspace_bytes": 1 << 30, "optimization_level": None, "target": "sm86"}
    assert values["spec"]["text_lengths"] == [32, 100]
    assert set(values["mixed_precision"]["text"]["islands"].values()) == {"named by the pattern Softmax"}


def test_building_and_examining_without_a_gpu_say_so(built: Path) -> None:
    done = succeed("doctor", built)
    for line in (
        "tokenizer: 4 golden captions become the same tokens",
        "resizing: 4 golden crops have the same pixels",
        "onnxruntime cpu fp32 text: golden cosine 1.0000000 at least",
        "2 plans as they were built",
        "never executed",
        "not tried: no GPU here",
    ):
        assert line in done.stdout
    assert "PROBLEM" not in done.stdout
    assert "not executed: there was no GPU" in json.dumps(
        [json.loads(f.read_text())["self_check"] for f in (built / "engines").glob("*/engine.json")]
    ).replace('"reason": "', "not executed: ")


def test_a_machine_without_a_bundle_is_examined_as_json() -> None:
    done = run("doctor", "--json")
    values = json.loads(done.stdout)
    assert values["problems"] == sum(finding["status"] == "problem" for finding in values["findings"])
    subjects = [finding["subject"] for finding in values["findings"]]
    assert subjects[:4] == ["machine", "processor", "GPU", "CUDA from Python"]
    assert {"tensorrt", "tensorrt-rtx", "onnxruntime", "exporting"} <= set(subjects)


def test_doctor_finds_what_was_altered(built: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(built, bundle)
    (folder,) = (bundle / "engines").iterdir()
    content = bytearray((folder / "text.plan").read_bytes())
    content[-1] ^= 1
    (folder / "text.plan").write_bytes(content)
    done = fail(1, "doctor", bundle)
    assert "text.plan is not the engine that was built" in done.stdout
    assert f"tbps build {bundle} --backend tensorrt-rtx --precision fp16 --target sm86 --rebuild" in done.stdout
    with (bundle / "text.onnx").open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff")
    done = fail(1, "doctor", bundle, "--json")
    (problem,) = (finding for finding in json.loads(done.stdout)["findings"] if finding["status"] == "problem")
    assert "text.onnx is not the file this bundle was written with" in problem["detail"]


def test_doctor_does_not_blame_a_bundle_for_engines_of_another_machine(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tbps_infer import doctor
    from tbps_infer.tensorrt.gpus import GpuFacts

    gpu = GpuFacts("NVIDIA GeForce RTX 4090", "sm89", 24 << 30, 20 << 30, "12.8", "12.8")
    monkeypatch.setattr(doctor, "find_gpu", lambda _device, _kind: gpu)
    found = [finding for finding in doctor.examine_bundle(built) if finding.subject.startswith("engines ")]
    assert [finding.status for finding in found] == ["ok", "absent"]
    assert "were built for sm86, and here is nvidia-geforce-rtx-4090-sm89" in found[1].detail
    assert "--target sm89" in found[1].action


def test_doctor_finds_a_tokenizer_and_pixels_that_changed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbps_infer import doctor
    from tbps_infer.images import load_crop
    from tbps_infer.text import Tokenizer

    monkeypatch.setattr(doctor, "load_crop", lambda source, facts: np.roll(load_crop(source, facts), 1, axis=1))
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, texts: [row[::-1] for row in encode(self, texts)])
    found = {finding.subject: finding for finding in doctor.examine_bundle(tiny_bundle)}
    assert found["tokenizer"].detail == "4 of 4 golden captions become other tokens here"
    assert found["resizing"].detail.startswith("4 of 4 golden crops have other pixels here, by ")
    assert found["tokenizer"].status == found["resizing"].status == "problem"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["build", "BUNDLE", "--device", "cpu"], 2, "Engines do not run on the CPU"),
        (["build", "BUNDLE", "--workspace", "lots"], 2, "'lots' is not a size such as 2GiB"),
        (["build", "BUNDLE", "--text-lengths", "32;64"], 2, "'32;64' is not a list of numbers"),
        (["build", "BUNDLE", "--backend", "tensorrt-rtx", "--text-lengths", "32"], 2, "takes 3 to 100 tokens"),
        (["build", "BUNDLE", "--backend", "tensorrt-rtx", "--auto-islands"], 2, "FP32 islands"),
        (["build", "BUNDLE", "--backend", "tensorrt-rtx", "--optimization-level", "2"], 2, "does not apply to"),
        (["build", "BUNDLE", "--backend", "tensorrt-rtx", "--target", "sm87"], 2, "does not build for 'sm87'"),
        (["build", "BUNDLE", "--min-batch", "4", "--opt-batch", "2"], 2, "want minimum ≤ optimum ≤ maximum"),
        (["build", "BUNDLE", "--opt-batch", "8,64"], 2, "The batch sizes are 1, 64 and 32"),
        (["build", "BUNDLE", "--opt-batch", "8,4,2"], 2, "More than two batch sizes"),
        (["build", "BUNDLE", "--backend", "tensorrt-rtx", "--timing-cache", "t"], 2, "so nothing would be cached"),
        (["embed", "BUNDLE", "x.jpg", "-o", "g", "--backend", "tensorrt"], 2, "does not run on the CPU"),
        (["export", "CHECKPOINT", "-o", "out", "--precision", "int8"], 2, "int8 was asked for"),
        (["export", "CHECKPOINT", "-o", "out", "--keep-fp32", "x"], 2, "FP32 islands"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    names = {"BUNDLE": str(tiny_bundle), "CHECKPOINT": str(tiny_checkpoint)}
    done = run(*(names.get(word, str(tmp_path / word) if word in ("out", "g") else word) for word in arguments))
    assert (done.exit_code, said in done.stderr) == (code, True), done.output
    assert not (tiny_bundle / "engines").exists()


@pytest.mark.parametrize(
    ("arguments", "image", "text"),
    [
        ((), (1, 32, 32), (1, 1, 32)),
        (("--min-batch", "2", "--max-batch", "64"), (2, 64, 64), (2, 2, 64)),
        (("--opt-batch", "8"), (1, 8, 32), (1, 8, 32)),
        (("--opt-batch", "16,4"), (1, 16, 32), (1, 4, 32)),
    ],
)
def test_pictures_are_built_for_full_batches_and_sentences_for_single_ones(
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    image: tuple[int, int, int],
    text: tuple[int, int, int],
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(build_command, "build_and_report", lambda _bundle, options: given.append(options))
    succeed("build", tiny_bundle, *arguments)
    (options,) = given
    found = [(batch.minimum, batch.optimum, batch.maximum) for batch in map(options.batch, ("image", "text"))]
    assert found == [image, text]


def test_an_interruption_leaves_nothing_half_written(built: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(built, bundle)
    before = sorted(path.relative_to(bundle) for path in bundle.rglob("*"))
    command = [sys.executable, "-m", "tbps_infer.cli.main", "build", str(bundle)]
    command += ["--backend", "tensorrt-rtx", "--fp16", "--target", "sm86", "--rebuild"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Building text"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert (process.returncode, rest.strip().splitlines()[-1]) == (130, "Interrupted.")
    assert sorted(path.relative_to(bundle) for path in bundle.rglob("*")) == before


def test_an_engine_of_full_tensorrt_is_not_begun_without_it(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(build, "open_library", open_library.__wrapped__)  # not one that was opened before
    export = ("export", str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--backend", "tensorrt")
    for arguments in (("build", str(tiny_bundle)), export):
        done = fail(1, *arguments)
        assert "The backend tensorrt cannot be imported" in done.stderr
    assert not (tmp_path / "out").exists()


def test_exporting_in_fp16_adds_graphs_that_only_a_gpu_is_given(tiny_checkpoint: Path, tmp_path: Path) -> None:
    succeed("export", tiny_checkpoint, "-o", tmp_path / "bundle", "--fp16", "--auto-islands")
    bundle = Bundle.open(tmp_path / "bundle")
    bundle.check_files()
    report = bundle.verification["fp16"]
    assert report["passed"] is report["emulated"] is True
    assert 0 < report["image"]["largest_difference"] < 5e-3
    for branch in ("image", "text"):
        size = {name: bundle.files[name].bytes for name in (f"{branch}.onnx", f"{branch}.fp16.onnx")}
        assert size[f"{branch}.fp16.onnx"] < 0.62 * size[f"{branch}.onnx"]
        with pytest.raises(BackendError, match="no FP16 kernels for the CPU"):
            open_runner(bundle, branch, RunOptions(precision="fp16"))


def test_sizes_and_lengths_are_read() -> None:
    size, lengths = Size(), Numbers()
    values = [size.convert(text, None, None) for text in ("2GiB", "1.5g", "512 MiB", "512MB", "7k", "1000", "10B")]
    assert values == [2 << 30, 3 << 29, 512 << 20, 512 << 20, 7 << 10, 1000, 10]
    assert lengths.convert("32,48", None, None) == lengths.convert((32, 48), None, None) == (32, 48)
