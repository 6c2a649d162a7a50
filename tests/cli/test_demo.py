"""The demo is the chain that a newcomer sees first: it must find the people it describes."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from command_line import fail, succeed

pytestmark = pytest.mark.usefixtures("exports_once")


def test_the_demo_finds_its_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = succeed("demo", "-o", "out", "--people", "40")
    ranks = done.stdout.split("is at rank ")[1].split(" of ")[0].split(", ")
    assert len(ranks) == 5
    assert sum(int(rank) <= 3 for rank in ranks) >= 4
    for command in ("$ tbps export ", "$ tbps embed ", "$ tbps search "):
        assert command in done.stdout
    assert (tmp_path / "out" / "search.html").read_text().count("data:image/jpeg") == 25
    again = fail(2, "demo", "-o", "out")
    assert "already exists" in again.stderr


def test_without_pytorch_it_takes_the_packages_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    done = succeed("demo", "--people", "5")
    assert "tiny-bundle demo-output/bundle" in done.stdout and "$ tbps export " not in done.stdout
    *_, activate, search = done.stdout.splitlines()
    assert activate == f"  . {Path(sys.prefix) / 'bin' / 'activate'}", "tbps is not on the path"
    assert search.startswith("  tbps search demo-output/gallery '")
    with (tmp_path / "demo-output" / "people.csv").open(encoding="utf-8") as stream:
        assert next(csv.reader(stream)) == ["path", "id", "camera", "floor"]


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"), [("torch", ["--export"], "export"), ("onnxruntime", [], "cpu")]
)
def test_what_it_lacks_is_told_before_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, arguments: list[str], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = fail(1, "demo", "-o", tmp_path / "out", *arguments)
    assert missing in done.stderr and f"tbps-infer[{extra}]" in done.stderr
    assert not (tmp_path / "out").exists()
