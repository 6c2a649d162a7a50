"""Files that take their places in a folder that is there: all or none, whatever else is in it, after a kill too."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from recorded_disk import RecordedDisk

from tbps_infer.atomic import finish_new_files, is_vacant, new_files, new_folder, without_room
from tbps_infer.errors import BundleError

OWN = ("a", "sub/b", "main.json")


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def write_version(folder: Path, version: str, *, names: tuple[str, ...] = OWN) -> None:
    with new_files(folder, BundleError, replaces=OWN, last="main.json") as new:
        for name in names:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(version)


def test_files_of_others_stay_and_those_without_a_new_one_go(tmp_path: Path) -> None:
    write_version(tmp_path, "old")
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "notes.txt").write_text("mine")
    write_version(tmp_path, "new", names=("a", "main.json"))
    assert everything_below(tmp_path) == ["a", "gallery", "gallery/notes.txt", "main.json"]
    assert (tmp_path / "a").read_text() == "new"


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("mine")
    with pytest.raises(BundleError, match="cannot be written: c is there, and is somebody else's"):
        write_version(tmp_path, "new", names=("a", "c"))
    assert everything_below(tmp_path) == ["c"] and (tmp_path / "c").read_text() == "mine"


def test_names_are_synced_and_the_file_that_tells_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RecordedDisk(monkeypatch)
    write_version(tmp_path, "new")
    for name in OWN:
        disk.assert_durable(tmp_path / name)
    moved = [call.target.name for call in disk.calls if call.target is not None]
    assert moved[1:] == ["a", "b", "main.json"], "after the journal"


KILLED = """
import os, signal, sys
from pathlib import Path
from tbps_infer import atomic

folder, last = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def killing(call):
    def counted(*arguments, **named):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return counted

os.fsync, Path.replace, Path.unlink = killing(os.fsync), killing(Path.replace), killing(Path.unlink)
with atomic.new_files(folder, replaces=("a", "sub/b", "gone", "main.json"), last="main.json") as new:
    (new / "sub").mkdir()
    for name in ("a", "sub/b", "main.json"):
        (new / name).write_text("new")
"""


def test_a_kill_at_any_call_leaves_one_version(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    versions = set()
    for call in range(1, 40):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_version(folder, "old")
        for name in ("gone", "notes.txt"):
            (folder / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(call)])
        finish_new_files(folder)
        (version,) = {(folder / name).read_text() for name in OWN}
        assert (folder / "gone").exists() == (version == "old")
        assert (folder / "notes.txt").read_text() == "old"
        versions.add((version, done.returncode))
        if done.returncode == 0:
            break
        write_version(folder, "again")
        assert not list(folder.glob(".*.partial")), "the next run sweeps"
    killed = -signal.SIGKILL
    assert versions == {("old", killed), ("new", killed), ("new", 0)}


def test_a_failure_while_files_take_their_places_is_finished_by_whoever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path, "old")
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if target == tmp_path / "sub" / "b":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(BundleError, match="Input/output error"):
        patch.setattr(Path, "replace", refuse)
        write_version(tmp_path, "new")
    finish_new_files(tmp_path, BundleError)
    assert {(tmp_path / name).read_text() for name in OWN} == {"new"}
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("name", ["../outside", "/outside", "link/outside"])
def test_a_journal_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A folder may come from anywhere, and reading it finishes what its journal says."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    staged = folder / ".folder.0123abcd.partial"
    staged.mkdir(parents=True)
    outside.write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    name = str(outside) if name == "/outside" else name
    (staged / ".new-files.json").write_text(json.dumps({"last": "", "removed": [name]}))
    with pytest.raises(BundleError, match="leads out of it"):
        finish_new_files(folder, BundleError)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("journal", ["{", "[]", '{"last": "b"}', '{"last": "b", "removed": [1]}'])
def test_a_damaged_journal_is_named(tmp_path: Path, journal: str) -> None:
    (tmp_path / ".g.00000000.partial").mkdir()
    (tmp_path / ".g.00000000.partial/.new-files.json").write_text(journal)
    with pytest.raises(BundleError, match="is damaged"):
        finish_new_files(tmp_path, BundleError)


def test_what_a_kill_left_is_swept_unless_its_writer_is_alive(tmp_path: Path) -> None:
    for name in (".f.00000000.partial", ".f.11111111.partial", ".g.00000000.partial"):
        (tmp_path / name / "sub").mkdir(parents=True)
    alive = os.open(tmp_path / ".f.11111111.partial", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    with new_folder(tmp_path / "f") as new:
        (new / "a").touch()
    os.close(alive)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".f.11111111.partial", ".g.00000000.partial", "f"]


def test_an_empty_folder_stays_and_is_filled(tmp_path: Path) -> None:
    (tmp_path / "f" / "lost+found").mkdir(parents=True)
    before = (tmp_path / "f").stat().st_ino
    assert is_vacant(tmp_path / "f")
    with new_folder(tmp_path / "f", BundleError) as new:
        (new / "sub").mkdir()
        (new / "sub" / "a").write_text("new")
    assert (tmp_path / "f").stat().st_ino == before
    assert everything_below(tmp_path / "f") == ["lost+found", "sub", "sub/a"]
    assert not is_vacant(tmp_path / "f")


def test_what_is_vacant(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "empty").mkdir()
    found = {name: is_vacant(tmp_path / name) for name in ("missing", "empty", "link", "file", "nowhere", ".")}
    assert found == {"missing": True, "empty": True, "link": True, "file": False, "nowhere": False, ".": False}


class Usage(NamedTuple):
    free: int


def test_the_full_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"/scratch": 0}
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/scratch")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free.get(str(place), 1 << 30)))
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(BundleError, match=r"files \(/scratch\) cannot be written: No space left on device"),
        new_folder(tmp_path / "f", BundleError),
    ):
        raise full
    assert without_room(full) == "The folder for temporary files (/scratch)"
    free["/scratch"] = 1 << 30
    assert without_room(full, tmp_path / "f") == str(tmp_path / "f")
    assert without_room(OSError(errno.ENOSPC, "No space left on device", "/data/x")) == "/data/x"
    assert without_room(OSError(errno.EIO, "Input/output error")) is None
    missing = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/scratch']")
    assert str(without_room(missing)).startswith("The folder for temporary files (")


IN_A_MOUNT = """
import sys
from pathlib import Path
from tbps_infer.atomic import new_folder
with new_folder(Path(sys.argv[1])) as new:
    (new / "sub").mkdir()
    (new / "sub" / "a").write_text("new")
print(sorted(path.name for path in Path(sys.argv[1]).rglob("*")))
"""


def test_a_mount_point_is_filled(tmp_path: Path) -> None:
    """Its folder cannot be renamed over (EBUSY), and what is beside it is on another disk."""
    script = 'mount -t tmpfs none "$1" && exec "$2" -c "$3" "$1"'
    (tmp_path / "mount").mkdir()
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "mount"), sys.executable, IN_A_MOUNT]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode and ("unshare" in done.stderr or "mount:" in done.stderr):
        pytest.skip("this system lets no user mount")
    assert done.stdout == "['a', 'sub']\n", done.stderr
