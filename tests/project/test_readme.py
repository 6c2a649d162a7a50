"""The README is run: its console transcripts in order, in one folder, and its Python."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from tbps_infer.data.synth import SynthOptions, write_dataset, write_people

README = (ROOT / "README.md").read_text(encoding="utf-8")
_NUMBER = re.compile(r"\d+\.\d+")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def _transcript() -> list[tuple[str, list[str]]]:
    """Commands with the output that the README shows below each."""
    steps: list[tuple[str, list[str]]] = []
    for line in "".join(_blocks("console")).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's reader has before the first command."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "tbps_infer").symlink_to(ROOT / "tbps_infer")
    write_people(folder / "people", 60, seed=7)
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "id", "camera", "floor"])
        for file in sorted((folder / "people").glob("*.jpg")):
            rows.writerow([f"people/{file.name}", int(file.name[:4]), file.name[5:10], int(file.name[:4]) % 3])
    return folder


def _run(command: str, folder: Path) -> list[str]:
    """A command's standard output, with this environment's console scripts first on the path."""
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", f'PATH="{scripts}:$PATH"; {command}'], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout.splitlines()


def _assert_alike(got: list[str], want: list[str]) -> None:
    """Equal but for what varies between machines: decimals by two thousandths, seconds by any amount."""
    masked = [[_NUMBER.sub("#", line) for line in lines] for lines in (got, want)]
    assert masked[0] == masked[1]
    for left, right in zip(got, want, strict=True):
        if not left.endswith(" s"):
            numbers = [[float(number) for number in _NUMBER.findall(line)] for line in (left, right)]
            assert numbers[0] == pytest.approx(numbers[1], abs=2e-3)


def test_the_transcripts_are_what_the_commands_print(folder: Path) -> None:
    steps = [step for step in _transcript() if "synthetic" not in step[0]]
    assert len(steps) >= 5
    for command, output in steps:
        _assert_alike(_run(command, folder), output)


def test_the_python_runs(folder: Path) -> None:
    (program,) = _blocks("python")
    if not (folder / "bundle").exists():
        for command in ("tbps export tbps_infer/assets/tiny -o bundle", "tbps embed bundle people/ -o gallery"):
            _run(command, folder)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\d\.\d{3}  \d{4}_cam_[a-f]_\d\.jpg  global -?\d\.\d{3}", line) for line in lines)


def test_what_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", README))
    assert named
    assert named <= targets


def test_every_command_is_listed() -> None:
    from tbps_infer.cli.main import COMMANDS

    for name in COMMANDS:
        assert f"| `tbps {name}" in README, name


@pytest.mark.slow
def test_the_evaluation_it_shows_is_reproduced(folder: Path) -> None:
    write_dataset(folder / "synthetic", SynthOptions(only=("test",), workers=1))
    if not (folder / "bundle").exists():
        _run("tbps export tbps_infer/assets/tiny -o bundle", folder)
    steps = [step for step in _transcript() if "synthetic" in step[0]]
    assert len(steps) == 1
    got = _run(steps[0][0], folder)
    # One query of 1600 may fall the other side of a near tie on another machine: 0.07 points.
    assert [_NUMBER.sub("#", line) for line in got] == [_NUMBER.sub("#", line) for line in steps[0][1]]
    for left, right in zip(got, steps[0][1], strict=True):
        numbers = [[float(number) for number in _NUMBER.findall(line)] for line in (left, right)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.3)
