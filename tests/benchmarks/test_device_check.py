"""The device check: its sections over fakes, what stops a section, and a dry run on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_memory import FakeMemory

from tbps_infer.benchmarks import device_check
from tbps_infer.benchmarks.device_check import SECTIONS, Section, main
from tbps_infer.benchmarks.device_report import Outcome, report_text, summary_lines
from tbps_infer.benchmarks.device_sections.context import checked, noted, skipped, timed
from tbps_infer.benchmarks.device_sections.memory import memory_facts


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


def test_a_check_that_fails_is_said_and_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_check, "SECTIONS", (Section("onnxruntime", 60),))
    assert main(["-o", str(tmp_path), "--cpu", "--bundle", str(tmp_path / "none")]) == 1
    assert "is not a bundle" in capsys.readouterr().out
    assert "is not a bundle" in (tmp_path / "report.md").read_text()


def test_sections_without_time_left_are_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_check, "SECTIONS", (Section("limits", 60),))
    assert main(["-o", str(tmp_path), "--cpu", "--budget", "0"]) == 0
    assert "no time left" in capsys.readouterr().out


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
