"""The device check: its sections over fakes, what stops a section, and a dry run on the CPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_force import stored_vectors
from emulated_memory import EmulatedMemory
from fake_memory import FakeMemory
from numpy.typing import NDArray

from tbps_infer.benchmarks import device_check
from tbps_infer.benchmarks.device_check import SECTIONS, Section, main
from tbps_infer.benchmarks.device_report import Outcome, report_text, summary_lines
from tbps_infer.benchmarks.device_sections import accuracy, engine_runner, onnxruntime
from tbps_infer.benchmarks.device_sections.context import SectionContext, checked, noted, skipped, timed
from tbps_infer.benchmarks.device_sections.memory import memory_facts
from tbps_infer.benchmarks.device_sections.search import stage_facts
from tbps_infer.bundle import Bundle
from tbps_infer.data.dataset import Split
from tbps_infer.devices import Device
from tbps_infer.gallery.search.kernel import KernelScan
from tbps_infer.gallery.vectors import StoredVectors
from tbps_infer.model_facts import Branch
from tbps_infer.runners import Feeds, Runner, RunOptions
from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner


def test_memory_that_keeps_its_protocol_passes_and_gives_everything_back() -> None:
    memory = FakeMemory()
    facts = list(memory_facts(memory))
    # The fake cannot break a capture off, so that this one check is left to a device.
    assert {fact["check"] for fact in facts if not fact["ok"]} <= {"a capture that CUDA breaks off answers None"}
    assert len(facts) == 7
    assert memory.held == 0


def test_memory_that_loses_bytes_does_not_pass() -> None:
    class Lossy(FakeMemory):
        def copy_to_host(self, array, address, stream):  # type: ignore[no-untyped-def]
            return super().copy_to_host(array[: len(array) // 2], address, stream)

    wrong = {fact["check"] for fact in memory_facts(Lossy()) if not fact["ok"]}
    assert "bytes are copied there and back" in wrong


def test_a_search_that_finds_the_same_passes_and_one_that_does_not_is_told() -> None:
    vectors = stored_vectors(300, 32, "float16")
    queries = stored_vectors(2, 32, "float32", 1).values
    with closing(KernelScan(vectors, Device("cuda"), memory=EmulatedMemory())) as stage:
        facts = list(stage_facts(stage, vectors, queries, samples=1))
        assert [fact["ok"] for fact in facts if "check" in fact] == [True, True]
        assert [fact["queries"] for fact in facts if "timed" in fact] == [1]
        assert all(fact["read_gb_per_s"] > 0 for fact in facts if "timed" in fact)
        other = StoredVectors(vectors.values[::-1].copy())
        assert not next(stage_facts(stage, other, queries, samples=1))["ok"]


class KernelMemory(FakeMemory):
    """A fake GPU with the stand-in kernel in numpy: it runs late, and signs the scratch memory as the kernel does."""

    def load_kernels(self, source: str, names: Sequence[str]) -> list[Any]:
        assert (source, tuple(names)) == (engine_runner.SOURCE, ("embed",))
        return list(names)

    def launch_kernel(self, kernel: Any, grid: int, block: int, argument: bytes, stream: int) -> None:
        pixels, out, scratch, numbers, dim, signature, _spin = engine_runner.ARGUMENT.unpack(argument)
        assert (kernel, block % 32) == ("embed", 0)

        def work() -> None:
            self.bytes_at(scratch, 4 * grid).view(np.uint32)[:] = signature + np.arange(grid)
            items = self.bytes_at(pixels, grid * numbers).reshape(grid, numbers)
            self.bytes_at(out, 4 * grid * dim).view(np.float32)[:] = engine_runner.reference(items, dim).reshape(-1)

        self.put(stream, work)


@pytest.mark.parametrize("graphs", [True, False])
def test_the_runner_passes_over_a_kernel_that_is_right(graphs: bool) -> None:
    memory = KernelMemory(has_graphs=graphs)
    facts = list(engine_runner.runner_facts(memory, spin=0, samples=3))
    assert [fact["ok"] for fact in facts if "ok" in fact] == [True, True]
    assert len([fact for fact in facts if "timed" in fact]) == 3
    assert (memory.launches > 0) is graphs
    assert memory.closed
    assert memory.held == 0


def test_the_runner_does_not_pass_when_outputs_are_read_too_early() -> None:
    class Hasty(KernelMemory):
        def wait_host(self, event: Any) -> None:
            del event

    facts = list(engine_runner.runner_facts(Hasty(), spin=0, samples=0))
    assert not all(fact["ok"] for fact in facts)


def test_the_stand_in_kernel_compiles(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    file = tmp_path / "embed.cu"
    file.write_text(engine_runner.SOURCE)
    subprocess.run([nvcc, "-arch=sm_90", "-ptx", "-o", str(tmp_path / "embed.ptx"), str(file)], check=True)


def test_a_section_that_crashes_or_hangs_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = (Section("no_such_section", 60), Section("limits", 0.2), Section("memory", 60))
    monkeypatch.setattr(device_check, "SECTIONS", sections)
    assert main(["-o", str(tmp_path), "--cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line for line in lines[lines.index(next(x for x in lines if "result" in x)) + 1 :]}
    assert "exit status 1" in table["no_such_section"]
    assert "stopped at its time limit" in table["limits"]
    assert "needs a GPU" in table["memory"]
    assert "No module named" in (tmp_path / "log.txt").read_text()
    facts = [json.loads(line) for line in (tmp_path / "facts.jsonl").read_text().splitlines()]
    assert {"section": "memory", "skipped": "needs a GPU"} in facts


@pytest.mark.parametrize("harmed", [False, True])
def test_a_graph_passes_only_if_it_agrees_with_its_reference(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmed: bool
) -> None:
    class Harmed(OnnxRuntimeRunner):
        def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
            return {name: array[:, ::-1].copy() for name, array in super().run(feeds).items()}

    def harm(bundle: Bundle, branch: Branch, options: RunOptions) -> Runner:
        kind = Harmed if branch == "image" else OnnxRuntimeRunner
        return kind(bundle.check_graph(branch, "fp32"), options)

    if harmed:
        monkeypatch.setattr(onnxruntime, "open_runner", harm)
    context = SectionContext.of(work=tmp_path, bundle=tiny_bundle, checkpoint=None, device="cpu")
    facts = list(onnxruntime.facts(context))
    (agrees,) = (fact for fact in facts if fact.get("check") == "fp32 agrees with its reference")
    assert agrees["ok"] is not harmed
    assert bool(agrees["report"]["failures"]) is harmed


@pytest.mark.parametrize("harmed", [False, True])
def test_rank_1_that_the_device_loses_is_a_failure(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmed: bool
) -> None:
    """Pictures with the same embedding tie, and ties are lost."""
    embed = accuracy._embed

    def harm(context: SectionContext, run: RunOptions, people: Split) -> Any:
        texts, images, seconds = embed(context, run, people)
        return (texts, images[:1].repeat(len(images), 0) if run.backend == "torch" else images, seconds)

    if harmed:
        monkeypatch.setattr(accuracy, "_embed", harm)
    context = SectionContext.of(work=tmp_path, bundle=tiny_bundle, checkpoint=tiny_checkpoint, device="cpu")
    on_cpu, on_device = accuracy.facts(context)
    assert on_device["rank_1_on_the_cpu"] == on_cpu["rank_1"] > 0
    assert on_device["ok"] is not harmed
    assert "Accuracy" in report_text([Outcome("accuracy", "", (on_cpu, on_device), 1.0)])


def test_a_check_that_fails_is_said_and_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_check, "SECTIONS", (Section("onnxruntime", 60),))
    assert main(["-o", str(tmp_path), "--cpu", "--bundle", str(tmp_path / "none")]) == 1
    assert "is not a bundle" in capsys.readouterr().out
    assert "is not a bundle" in (tmp_path / "report.md").read_text()


def test_a_section_whose_package_is_missing_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lightning_fabric.py").write_text("import lightning_fabric_is_not_here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(device_check, "SECTIONS", (Section("training", 60),))
    assert main(["-o", str(tmp_path / "report"), "--cpu"]) == 0
    assert "the package lightning_fabric_is_not_here is not installed" in capsys.readouterr().out


def test_sections_without_time_left_are_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_check, "SECTIONS", (Section("limits", 60),))
    assert main(["-o", str(tmp_path), "--cpu", "--budget", "0"]) == 0
    assert "no time left" in capsys.readouterr().out


def test_what_is_no_fact_goes_to_the_log_and_what_a_section_starts_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The sections' processes get another program: it prints three broken lines, and starts one that stays."""
    program = (
        "import os, subprocess, sys\n"
        'os.write(1, b\'{not json}\\n[1]\\n\\xff\\n{"check": "x", "ok": true}\\n{"check": "cu\')\n'
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "import time; time.sleep(60)\n"
    )
    really_popen = subprocess.Popen

    def popen(command: Sequence[str], **named: Any) -> Any:
        return really_popen([command[0], "-c", program], **named)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(device_check, "SECTIONS", (Section("limits", 3),))
    started = time.monotonic()
    assert main(["-o", str(tmp_path), "--cpu"]) == 1
    assert time.monotonic() - started < 30
    assert json.loads((tmp_path / "facts.jsonl").read_text()) == {"section": "limits", "check": "x", "ok": True}
    assert "{not json}\n[1]\n\ufffd\n" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "banana"], "banana"),
        (["--budget", "nan"], "The budget is nan seconds"),
        (["--budget", "-5"], "The budget is -5 seconds"),
        (["--only", ""], "There is no section (empty)"),
        (["-o", "/dev/null"], "/dev/null"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    with pytest.raises(SystemExit):
        main(["-o", str(tmp_path), "--cpu", *options])
    assert told in capsys.readouterr().err


def test_an_unknown_section_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-o", str(tmp_path), "--only", "memory,wings"])
    error = capsys.readouterr().err
    assert "There is no section wings" in error
    assert all(section.name in error for section in SECTIONS)


def test_the_report_has_every_section_failure_and_time() -> None:
    outcomes = [
        Outcome("facts", "", (noted("GPU: name H100"), checked("driver", True)), 1.0),
        Outcome("memory", "", (checked("a copy", False, error="it came back other"),), 2.0),
        Outcome("engines", "", (skipped("TensorRT is not installed"),), 0.5),
        Outcome(
            "torch_models", "stopped at its time limit", (timed("image", [9.0, 8.0, 1.0, 3.0], way="eager"),), 60.0
        ),
    ]
    text = report_text(outcomes)
    assert "GPU: name H100" in text
    assert "memory: a copy: it came back other" in text
    assert "| engines | 0 | 0 | 0.5 | TensorRT is not installed |" in text
    assert "| image | 2.000 | 9.000 | way eager |" in text
    assert [outcome.failed for outcome in outcomes] == [False, True, False, True]
    assert len(list(summary_lines(outcomes))) == 5


@pytest.mark.slow
def test_the_whole_check_runs_dry_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["-o", str(tmp_path), "--cpu", "--budget", "600"])
    output = capsys.readouterr().out
    assert status == 0, output
    facts = [json.loads(line) for line in (tmp_path / "facts.jsonl").read_text().splitlines()]
    agreed = [fact for fact in facts if fact.get("check") == "fp32 agrees with its reference"]
    assert len(agreed) == 1
    assert {fact["section"] for fact in facts} == {section.name for section in SECTIONS}
