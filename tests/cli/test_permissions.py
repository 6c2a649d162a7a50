"""Files and folders that may not be read or written: one sentence that names the place, and no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import run, succeed
from PIL import Image
from privileges import bound_by_permissions


@pytest.fixture(scope="module")
def world(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a picture and a gallery."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny_bundle, folder / "bundle")
    (folder / "pictures").mkdir()
    Image.new("RGB", (32, 96), (200, 30, 40)).save(folder / "pictures" / "a.png")
    succeed("embed", folder / "bundle", folder / "pictures", "-o", folder / "gallery")
    return folder


@pytest.mark.parametrize(
    ("closed", "command"),
    [
        ("bundle/bundle.json", "embed bundle pictures -o new"),
        ("bundle/image.onnx", "embed bundle pictures -o new"),
        ("bundle/tokenizer.json", "search gallery man --bundle bundle"),
        ("bundle/text.onnx", "search gallery man --bundle bundle"),
        ("bundle/golden", "doctor bundle"),
        ("bundle/bundle.json", "info bundle"),
        ("bundle", "search gallery man --bundle bundle"),
        ("pictures", "embed bundle pictures -o new"),
        ("gallery/gallery.json", "search gallery man --bundle bundle"),
        ("gallery/records.sqlite", "search gallery man --bundle bundle"),
        ("gallery/vectors.f16", "search gallery man --bundle bundle"),
        ("gallery/records.sqlite", "gallery rm gallery --record 1"),
    ],
)
def test_what_may_not_be_read_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str, command: str
) -> None:
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    Path(closed).chmod(0)
    with bound_by_permissions():
        done = run(*command.split())
    Path(closed).chmod(0o700)
    _assert_told(done.exit_code, done.output, closed.split("/")[0])


@pytest.mark.parametrize(
    "command",
    [
        "embed bundle pictures -o new",
        "embed bundle pictures -o gallery",
        "search gallery man --bundle bundle --html hits.html",
        "search gallery man --bundle bundle --sheet hits.png",
        "gallery rm gallery --record 1",
        "gallery compact gallery",
        "gallery copy gallery new",
        "gallery index gallery",
        "gallery export gallery -o new",
        "gallery merge gallery -o new",
        "data synth -o new --only test",
        "demo -o new",
        "verify bundle",
    ],
)
def test_where_nothing_may_be_written_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    places = [folder, *(place for place in folder.rglob("*") if place.is_dir() or place.parent.name == "gallery")]
    for place in places:
        place.chmod(0o555)
    with bound_by_permissions():
        done = run(*command.split())
    for place in places:
        place.chmod(0o755)
    name = next(name for name in ("gallery", "new", "hits", "bundle") if name in command)
    _assert_told(done.exit_code, done.output, name)


def _assert_told(code: int, output: str, name: str) -> None:
    error = next((line for line in output.splitlines() if line.startswith("Error: ")), "")
    assert code in (1, 2) and name in error and "Traceback" not in output, output
    assert any(word in error for word in ("ermission", "not readable", "unable to open", "readonly")), error
