"""The README is run: its console transcripts in order, in one folder, and its Python."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import README, SLOW, blocks, run, run_block
from places import ROOT
from walk_readme import walk

from tbps_infer.data.synth import SynthOptions, write_dataset

TEXT = README.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's reader is after the first commands: `demo-output` in a clone."""
    clone = tmp_path_factory.mktemp("readme")
    (clone / "tbps_infer").symlink_to(ROOT / "tbps_infer")
    run("tbps demo --no-export", clone)
    return clone / "demo-output"


def test_the_transcripts_are_what_the_commands_print(folder: Path) -> None:
    shown = [block for block in blocks(README, "console") if not block.marker]
    assert sum(len(block.steps) for block in shown) >= 5
    for block in shown:
        assert all(step.output or step.command.startswith("eval ") for step in block.steps), block
        run_block(block, folder)


def test_the_python_runs(folder: Path) -> None:
    (program,) = blocks(README, "python")
    done = subprocess.run([sys.executable, "-c", program.text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\d\.\d{3}  \d{4}_cam_[a-f]_\d\.jpg  global -?\d\.\d{3}", line) for line in lines)


def test_the_demo_is_what_the_readme_begins_with() -> None:
    """Its first lines are typed by `walk_readme`, and end where the fixture begins."""
    first = blocks(README, "console")[0]
    assert [step.command for step in first.steps] == ["make demo", ". .venv/bin/activate", "cd demo-output"]


@pytest.mark.slow
def test_a_newcomer_can_type_all_of_it_in_a_clean_clone(tmp_path: Path) -> None:
    walk(tmp_path / "clone")


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", TEXT))
    assert named
    assert named <= targets


def test_every_command_is_listed() -> None:
    from tbps_infer.cli.main import COMMANDS

    for name in COMMANDS:
        assert f"| `tbps {name}" in TEXT, name


@pytest.mark.slow
def test_the_slow_transcripts_are_what_the_commands_print(folder: Path) -> None:
    write_dataset(folder / "synthetic", SynthOptions(only=("test",), workers=1))
    export, engines, evaluation = [block for block in blocks(README, "console") if block.marker == SLOW]
    assert "tensorrt-rtx" in engines.text and "synthetic" in evaluation.text
    run_block(export, folder)
    if importlib.util.find_spec("tensorrt_rtx") is not None:  # it is installed on x86 alone
        run_block(engines, folder)
        assert list((folder / "tiny-rtx" / "engines").glob("*/image.plan"))
    # One query of 1600 may fall the other side of a near tie on another machine: 0.07 points.
    run_block(evaluation, folder, points=0.3)
