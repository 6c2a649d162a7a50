"""What reaches the terminal: no order from data, one sentence where a stream fails, paths that are not broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import fail, run, run_on_terminal, succeed
from PIL import Image

TBPS = str(Path(sys.executable).parent / "tbps")
EVIL = "\x1b[31mred\x1b]0;own\x07\x9b"
OBEYED = "\x1b\x07\x9b"


@pytest.fixture(scope="module")
def gallery(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, a name and metadata that give orders to a terminal, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("a_folder_whose_name_is_long_for_a_narrow_terminal")
    for name in (f"a{EVIL}.png", "b\nError: x.png"):
        Image.new("RGB", (32, 96), (200, 30, 40)).save(folder / name)
    (folder / f"bad{EVIL}.png").write_bytes(b"junk")
    listing = folder / "list.csv"
    listing.write_text(f"path,camera,note\na{EVIL}.png,cam_a,{EVIL}\nbad{EVIL}.png,cam_a,x\n")
    for source in (folder, listing):
        done = succeed("embed", tiny_bundle, source, "-o", folder / "gallery")
        assert not set(OBEYED) & set(done.output)
        assert r"bad\u001b[31mred\u001b]0;own\u0007\u009b.png" in done.stderr
    return folder / "gallery"


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "GALLERY"],
        ["info", "GALLERY", "--json"],
        ["gallery", "verify", "GALLERY"],
        *(["search", "GALLERY", EVIL[:-1] + " a man", "--format", form] for form in ("table", "json", "csv")),
        ["search", "GALLERY", "a man", "--camera", EVIL],
        ["search", "GALLERY", "a man", "--queries", f"{EVIL}.txt"],
        ["info", EVIL],
        ["info", f"--{EVIL}"],
    ],
)
def test_nothing_from_outside_gives_the_terminal_orders(gallery: Path, arguments: list[str]) -> None:
    done = run(*(str(gallery) if argument == "GALLERY" else argument for argument in arguments))
    assert done.output and not set(OBEYED) & set(done.output)


def test_a_name_stays_within_its_line(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "c\nError: x.png").write_bytes(b"junk")
    done = fail(1, "embed", tiny_bundle, tmp_path, "-o", tmp_path / "gallery")
    shown = done.output + run("info", tmp_path / "gallery").output
    assert shown.count(r"c\u000aError: x.png") == 2 and "\nError" not in shown


def test_a_narrow_terminal_breaks_no_path_and_obeys_nothing(gallery: Path) -> None:
    shown = run_on_terminal("search", gallery, "a man", columns=80, colours=False)
    lines = [line.strip() for line in shown.splitlines()]
    assert str(gallery.parent / r"a\u001b[31mred\u001b]0;own\u0007\u009b.png") in lines
    assert str(gallery.parent / r"b\u000aError: x.png") in lines
    assert not set(OBEYED) & set(shown)


CLOSED = "Error: Standard output cannot be written: it is closed.\n"
FULL = "Error: Standard output cannot be written: No space left on device.\nHint: Make room on the disk.\n"
NO_INPUT = "Error: Standard input cannot be read: it is closed.\nHint: Give it a file or a pipe.\n"


@pytest.mark.parametrize(
    ("command", "code", "stderr"),
    [
        *((command, 1, CLOSED) for command in ("--help >&-", "info GALLERY >&-", "search GALLERY x >&-")),
        ("search GALLERY x --format csv >&-", 1, CLOSED),
        ("search GALLERY x >/dev/full", 1, FULL),
        ("doctor >/dev/full", 1, FULL),
        ("search GALLERY --queries - <&-", 1, NO_INPUT),
        ("search GALLERY --queries - <&- >&-", 1, NO_INPUT),
        ("search GALLERY x <&-", 0, ""),
        ("search GALLERY x 2>&-", 0, ""),
        ("search GALLERY 穿 2>/dev/full", 0, ""),
        ("info GALLERY | head -c 1", 0, ""),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_stream_that_fails_is_one_sentence(
    gallery: Path, command: str, code: int, stderr: str, unbuffered: str
) -> None:
    script = f"{TBPS} {command.replace('GALLERY', str(gallery))}"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_what_the_model_cannot_read_is_told_and_strict_refuses(gallery: Path) -> None:
    sentence = "Query 1: The model knows no word of the sentence ('穿红色外套的女人'): the results mean nothing.\n"
    done = succeed("search", gallery, "穿红色外套的女人", "--format", "jsonl")
    assert done.stderr == sentence
    assert sentence[9:-1] in done.stdout
    assert fail(1, "search", gallery, "穿红色外套的女人", "--strict").stderr.startswith(f"Error: {sentence}")
    assert succeed("search", gallery, "a\u00a0man\tin\u3000red", "--strict").stderr == ""


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_an_empty_result_names_the_cameras(gallery: Path, form: str) -> None:
    done = succeed("search", gallery, "a man", "--camera", "cam9", "--format", form)
    assert done.output.count("No picture has camera cam9; there is cam_a.") == 1


def test_a_dash_is_no_file(gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for option in ("--html", "--sheet"):
        assert "standard output" in fail(2, "search", gallery, "a man", option, "-").stderr
    assert not list(tmp_path.iterdir())
