"""What lands in an installation: one import name, its data files, and console scripts that start anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from places import ROOT

from tbps_infer import __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the repository."""
    copy = tmp_path_factory.mktemp("source") / "copy"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, copy], check=True)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(copy),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (file,) = out.glob("*.whl")
    return file


def test_the_only_top_level_name_is_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tbps_infer"}
    for wanted in (
        "export/bundle.py",
        "cli/main.py",
        "benchmarks/studies/metrics.py",
        "py.typed",
        "assets/tiny/model.safetensors",
        "assets/tiny-bundle/golden/crops/0.png",
        "assets/tiny-bundle/image.onnx",
    ):
        assert f"tbps_infer/{wanted}" in names


def test_the_version_is_the_packages_own_and_the_changelogs_first(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert Parser().parsestr(archive.read(metadata).decode())["Version"] == __version__
    first, state = re.findall(r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    assert __version__ == (f"{first}.dev0" if state == "Unreleased" else first)


def brought_by(extras: tuple[str, ...], machine: str, metadata: Message) -> set[str]:
    """The packages that extras bring on a machine, by name."""
    found = set()
    for text in metadata.get_all("Requires-Dist", ()):
        requirement = Requirement(text)
        environments = ({"extra": extra, "platform_machine": machine} for extra in extras)
        if requirement.marker is not None and any(map(requirement.marker.evaluate, environments)):
            found.add(requirement.name)
    return found


def test_extras_bring_what_their_commands_need(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    build = {"onnx", "onnxruntime", "cuda-bindings"}
    assert brought_by(("tensorrt",), "x86_64", metadata) == {"tensorrt", *build}
    assert brought_by(("tensorrt",), "aarch64", metadata) == build
    assert brought_by(("rtx",), "x86_64", metadata) == {"tensorrt-rtx", *build}
    assert brought_by(("gpu",), "x86_64", metadata) == {"onnxruntime-gpu", "cuda-bindings"}
    assert brought_by(("pycuda",), "x86_64", metadata) == {"pycuda"}
    extras = set(metadata.get_all("Provides-Extra", ())) - {"pycuda"}
    for extra in extras:  # none fails where CUDA's headers are not, and none installs two packages over each other
        brought = brought_by((extra,), "x86_64", metadata)
        assert "pycuda" not in brought
        assert not {"onnxruntime", "onnxruntime-gpu"} <= brought
    oldest = {
        Requirement(text).specifier for text in metadata.get_all("Requires-Dist", ()) if "cuda-bindings" in text
    }
    assert [str(each) for each in oldest] == [">=12.9.1"]


@pytest.mark.slow
def test_the_wheel_runs_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    bin_ = tmp_path / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    subprocess.run([bin_ / "pip", "install", "-q", "-c", constraints, f"{wheel}[cpu]"], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for arguments in (["tbps", "--help"], ["tbps-search", "--help"], ["tbps-export", "-h"], ["tbps", "--version"]):
        done = subprocess.run([bin_ / arguments[0], *arguments[1:]], cwd=elsewhere, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [bin_ / "tbps", "export", ROOT / "tbps_infer" / "assets" / "tiny", "-o", "bundle"],
        cwd=elsewhere, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "torch" in done.stderr
    assert "Hint: " in done.stderr


def test_a_clone_that_is_not_installed_finds_all_packages(tmp_path: Path) -> None:
    """There, `tbps_infer` is a folder with three others beside it instead of inside it."""
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, copy], check=True)
    code = (
        "import tbps_infer.benchmarks.measure, tbps_infer.cli.main, tbps_infer.export.options as o; print(o.__file__)"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[1:] += {sys.path!r}; {code}"],
        cwd=copy,
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()) == copy / "export" / "options.py"
