"""The demo is the chain that a newcomer sees first: it must find the people it describes."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import fail, succeed


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
