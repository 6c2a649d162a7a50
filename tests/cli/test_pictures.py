"""What the command line shows: sheets, bars, marks, and nothing but text where colours are not wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_on_terminal, succeed
from PIL import Image

from tbps_infer.data.synth import SynthOptions, write_dataset


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheets") / "people"
    write_dataset(folder, SynthOptions(train=1, val=1, test=6, pictures=2, workers=1))
    return folder


@pytest.fixture(scope="module")
def gallery(tiny_bundle: Path, people: Path) -> Path:
    entries = json.loads((people / "reid_raw.json").read_text())
    rows = [f"{people / 'imgs' / entry['file_path']},{entry['id']}" for entry in entries]
    listing = people.parent / "list.csv"
    listing.write_text("\n".join(["path,id", *rows]))
    succeed("embed", tiny_bundle, listing, "-o", people.parent / "gallery")
    return people.parent / "gallery"


def test_evaluation_draws_cases(tiny_bundle: Path, people: Path, tmp_path: Path) -> None:
    done = succeed("eval", tiny_bundle, people, "--sheet", tmp_path / "cases.png", "--cases", "10")
    assert done.stderr.splitlines()[-1] == f"Wrote {tmp_path / 'cases.png'}, {tmp_path / 'cases-2.png'}"
    with Image.open(tmp_path / "cases.png") as one, Image.open(tmp_path / "cases-2.png") as two:
        assert (one.width, one.height) == (two.width, 4 * two.height)


def test_a_search_draws_strips_and_bars(gallery: Path, tmp_path: Path) -> None:
    done = succeed("search", gallery, "a man", "a woman", "-k", "2", "--explain", "--sheet", tmp_path / "strip.png")
    bars = [line for line in done.stdout.splitlines() if "█" in line or "░" in line]
    assert len(bars) == 2 * 2 * 8  # global, coarse and six parts of every hit
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.width > 400


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_files_for_programs_have_plain_line_ends(gallery: Path, form: str) -> None:
    command = [sys.executable, "-m", "tbps_infer.cli.main", "search", str(gallery), "a man", "--format", form]
    out = subprocess.run(command, capture_output=True, check=True).stdout
    assert out.endswith(b"\n") and b"\r" not in out


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_without_colours_gets_no_escapes(gallery: Path, colours: bool) -> None:
    shown = run_on_terminal("search", gallery, "a man", "-k", "2", colours=colours)
    assert "a man" in shown
    assert ("\x1b" in shown) == colours
