"""What is written is there whole or not at all: after an error, an interruption, a kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_disk import RecordedDisk

from tbps_infer import atomic
from tbps_infer.atomic import leftover_of, new_file, new_folder, remove_leftovers, sync, write_bytes, write_text
from tbps_infer.errors import BundleError, UsageError


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> RecordedDisk:
    return RecordedDisk(monkeypatch)


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def shown(disk: RecordedDisk, folder: Path) -> list[str]:
    """The recorded calls, with ``*`` before the name that a temporary name is for."""

    def name(path: Path) -> str:
        parts = path.relative_to(folder).parts
        return "/".join(f"*{found}" if (found := leftover_of(part)) else part for part in parts) or "."

    return [" ".join([c.name, name(c.path), *([] if c.target is None else [name(c.target)])]) for c in disk.calls]


def write_version(folder: Path, version: str) -> None:
    with new_folder(folder, BundleError, replace=True) as new:
        (new / "a").write_text(version)
        (new / "sub").mkdir()
        (new / "sub" / "b").write_text(version)


def version_of(folder: Path) -> str:
    """The version of a folder whose files are all of one."""
    (version,) = {(folder / name).read_text() for name in ("a", "sub/b")}
    return version


def test_a_file_is_synced_then_named_then_its_folder_is_synced(tmp_path: Path, disk: RecordedDisk) -> None:
    write_text(tmp_path / "a", "é\r\n")
    assert (tmp_path / "a").read_bytes() == "é\r\n".encode()
    assert shown(disk, tmp_path) == ["sync *a", "rename *a a", "sync ."]
    disk.assert_durable(tmp_path / "a")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_is_in_a_folder_is_synced_before_it_and_new_parents_are_too(tmp_path: Path, disk: RecordedDisk) -> None:
    write_version(tmp_path / "parent" / "f", "1")
    assert shown(disk, tmp_path) == [
        *("sync .", "sync parent/*f/sub/b", "sync parent/*f/sub", "sync parent/*f/a"),
        *("sync parent/*f", "rename parent/*f parent/f", "sync parent"),
    ]
    disk.assert_durable(tmp_path / "parent" / "f" / "sub" / "b")
    assert version_of(tmp_path / "parent" / "f") == "1"


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchanged", "renamed twice"])
def test_a_folder_is_replaced_whole(
    tmp_path: Path, disk: RecordedDisk, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if exchanges and not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange names")
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda _one, _other: False)
    write_version(tmp_path / "f", "old")
    (tmp_path / "f" / "left over").touch()
    disk.calls.clear()
    write_version(tmp_path / "f", "new")
    assert version_of(tmp_path / "f") == "new"
    assert everything_below(tmp_path) == ["f", "f/a", "f/sub", "f/sub/b"]
    renames = ["exchange *f f"] if exchanges else ["rename f *f", "rename *f f"]
    assert shown(disk, tmp_path)[4:] == [*renames, "sync ."]


def can_exchange(folder: Path) -> bool:
    for name in ("one", "other"):
        (folder / name).mkdir()
    done = atomic._exchange(folder / "one", folder / "other")
    for name in ("one", "other"):
        (folder / name).rmdir()
    return done


def test_the_recorder_notices_what_is_not_durable(tmp_path: Path, disk: RecordedDisk) -> None:
    """The check of every writer below can fail."""
    (tmp_path / "plain").write_text("x")
    with pytest.raises(AssertionError, match="not written under a temporary name"):
        disk.assert_durable(tmp_path / "plain")
    (tmp_path / "unsynced").write_text("x")
    (tmp_path / "unsynced").rename(tmp_path / "a")
    with pytest.raises(AssertionError, match="not synced as it is"):
        disk.assert_durable(tmp_path / "a")
    (tmp_path / "unnamed").write_text("x")
    sync(tmp_path / "unnamed")
    (tmp_path / "unnamed").rename(tmp_path / "b")
    with pytest.raises(AssertionError, match=r"the name .*b was not synced"):
        disk.assert_durable(tmp_path / "b")
    write_text(tmp_path / "c", "x")
    (tmp_path / "c").write_text("changed since")
    with pytest.raises(AssertionError, match="not synced as it is"):
        disk.assert_durable(tmp_path / "c")


FAILURES = {"full": errno.ENOSPC, "broken": errno.EIO, "interrupted": KeyboardInterrupt()}
failures = pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)


def raised(failure: int | BaseException) -> type[BaseException]:
    return BundleError if isinstance(failure, int) else type(failure)


@failures
@pytest.mark.parametrize(("call", "name"), [(1, "sync"), (2, "rename")])
def test_a_file_stays_as_it_was_when_a_call_fails(
    tmp_path: Path, disk: RecordedDisk, failure: int | BaseException, call: int, name: str
) -> None:
    write_text(tmp_path / "a", "old")
    disk.fail_at, disk.failure = len(disk.calls) + call, failure
    with pytest.raises(raised(failure)):
        write_text(tmp_path / "a", "new", BundleError)
    assert disk.calls[-1].name == name
    assert (tmp_path / "a").read_text() == "old"
    assert everything_below(tmp_path) == ["a"]


@failures
def test_a_file_stays_as_it_was_when_its_writing_fails(tmp_path: Path, failure: int | BaseException) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(raised(failure)), new_file(tmp_path / "a", BundleError) as temporary:
        temporary.write_text("half of it")
        raise OSError(failure, "no", str(temporary)) if isinstance(failure, int) else failure
    assert (tmp_path / "a").read_text() == "old"
    assert everything_below(tmp_path) == ["a"]


@failures
@pytest.mark.parametrize(
    ("exchanges", "call"), [*((True, n) for n in range(1, 6)), *((False, n) for n in range(1, 7))]
)
def test_a_folder_stays_as_it_was_whichever_call_fails(
    tmp_path: Path,
    disk: RecordedDisk,
    monkeypatch: pytest.MonkeyPatch,
    failure: int | BaseException,
    exchanges: bool,
    call: int,
) -> None:
    """Four syncs, then the exchange or two renames."""
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda _one, _other: False)
    write_version(tmp_path / "f", "old")
    disk.calls.clear()
    disk.fail_at, disk.failure = call, failure
    with pytest.raises(raised(failure)):
        write_version(tmp_path / "f", "new")
    assert version_of(tmp_path / "f") == "old"
    assert everything_below(tmp_path) == ["f", "f/a", "f/sub", "f/sub/b"]


def test_the_parents_of_what_came_to_nothing_are_removed(tmp_path: Path) -> None:
    for write in (new_folder(tmp_path / "p" / "q" / "f"), new_file(tmp_path / "p" / "q" / "f", parents=True)):
        with pytest.raises(RuntimeError), write as temporary:
            assert temporary.parent == tmp_path / "p" / "q"
            raise RuntimeError
        assert everything_below(tmp_path) == []
    with new_folder(tmp_path / "p" / "f") as temporary, pytest.raises(RuntimeError):
        raise RuntimeError  # seen to inside the block: the folder is wanted
    assert everything_below(tmp_path) == ["p", "p/f"]


def test_a_folder_that_appeared_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match="f cannot be written: Directory not empty"),
        new_folder(tmp_path / "f", BundleError) as new,
    ):
        (new / "a").write_text("mine")
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / "thesis.txt").write_text("theirs")
    assert everything_below(tmp_path) == ["f", "f/thesis.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tbps_infer import atomic

folder, last, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
calls = 0

def killing(call):
    def counted(*arguments):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return counted

os.fsync, Path.rename = killing(os.fsync), killing(Path.rename)
atomic._exchange = killing(atomic._exchange) if way == "exchanged" else lambda one, other: False
with atomic.new_folder(folder, replace=True) as new:
    (new / "sub").mkdir()
    for name in ("a", "sub/b"):
        (new / name).write_text("new")
"""


@pytest.mark.parametrize("way", ["exchanged", "twice"])
def test_a_kill_at_any_call_leaves_one_version_and_a_name_that_tells(tmp_path: Path, way: str) -> None:
    if way == "exchanged" and not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange names")
    for call in range(1, 10):
        write_version(tmp_path / "f", "old")
        command = [sys.executable, "-c", KILLED, str(tmp_path / "f"), str(call), way]
        done = subprocess.run(command)
        left = {path.name for path in tmp_path.iterdir()} - {"f"}
        assert {leftover_of(name) for name in left} <= {"f"}
        if (tmp_path / "f").exists():
            assert version_of(tmp_path / "f") in ("old", "new")
        else:  # between the two renames, where names cannot be exchanged: both versions are there, under other names
            assert way == "twice"
            assert {version_of(tmp_path / name) for name in left} == {"old", "new"}
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"f"}
        if done.returncode == 0:
            assert version_of(tmp_path / "f") == "new"
            break
        assert done.returncode == -signal.SIGKILL
    else:
        pytest.fail("it was not written without being killed")


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "Make room on the disk."),
        (errno.EDQUOT, "Make room on the disk."),
        (errno.EACCES, "Choose a place where you may write."),
        (errno.EROFS, "Choose a place where you may write."),
        (errno.EIO, "Choose another place."),
    ],
)
def test_errors_name_the_place_the_trouble_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        write_bytes(Path("page.html"), b"x", UsageError)
    assert caught.value.message == f"page.html cannot be written: {os.strerror(code)}."
    assert caught.value.hint == hint
    with pytest.raises(OSError, match=r"page\.html") as raw:
        write_bytes(Path("page.html"), b"x")
    assert raw.value.errno == code


def test_a_missing_folder_and_a_folder_in_the_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a cannot be written: No such file or directory"):
        write_text(tmp_path / "missing" / "a", "", UsageError)
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        write_text(tmp_path, "", UsageError)
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="f cannot be written: File exists"):
        write_version(tmp_path / "file" / "f", "1")
    assert everything_below(tmp_path) == ["file"]


def test_links_in_a_circle_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    for place in (tmp_path / "one", tmp_path / "one" / "below"):
        with pytest.raises(UsageError, match=f"^{place} cannot be written: Too many levels of symbolic links"):
            write_text(place, "new", UsageError)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_symlink()) == ["one", "other"]


def test_an_error_of_what_feeds_the_file_passes_unchanged(tmp_path: Path) -> None:
    for error in (
        PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "gallery" / "records")),
        OSError(errno.EIO, "Input/output error"),
        BlockingIOError("not now"),
    ):
        with pytest.raises(type(error)) as caught, new_file(tmp_path / "page.html", UsageError):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_put_up_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fsync = os.fsync

    def only_files(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    write_version(tmp_path / "f", "1")
    assert version_of(tmp_path / "f") == "1"
    monkeypatch.setattr(os, "fsync", lambda _handle: only_files(os.open(tmp_path, os.O_RDONLY)))
    with pytest.raises(OSError, match="/a"):
        sync(tmp_path / "f" / "a")  # that a file's content is not there is another matter


def test_links_devices_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/a")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere" / "a").read_text() == "x"
    (tmp_path / "folder").symlink_to("elsewhere")
    write_version(tmp_path / "folder", "1")
    assert (tmp_path / "folder").is_symlink() and version_of(tmp_path / "elsewhere") == "1"
    write_text(Path(os.devnull), "x")
    assert Path(os.devnull).is_char_device()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_leftovers_are_known_by_their_names(tmp_path: Path) -> None:
    assert leftover_of(".state.ckpt.0123abcd.partial") == "state.ckpt"
    for name in ("state.ckpt", ".state.ckpt.partial", "state.ckpt.0123abcd.partial", ".state.ckpt.0123ABCD.partial"):
        assert leftover_of(name) is None
    for name in (".a.00000000.partial", ".hidden", ".mine.partial"):
        (tmp_path / name).touch()
    (tmp_path / ".f.00000000.partial" / "sub").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert everything_below(tmp_path) == [".hidden", ".mine.partial"]
    remove_leftovers(tmp_path / "missing")


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as first:
        first.write_text("first")
        with new_file(tmp_path / "a") as second:
            second.write_text("second")
        assert (tmp_path / "a").read_text() == "second"
    assert (tmp_path / "a").read_text() == "first"
    assert everything_below(tmp_path) == ["a"]
