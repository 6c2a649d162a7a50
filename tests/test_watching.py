"""Following folders: what comes is embedded, half-written files are waited for, and a source may be away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from embedded_folders import contents, embed_items, picture, write_pictures

from tbps_infer.embedding import EmbedReport
from tbps_infer.errors import BackendError
from tbps_infer.gallery import Gallery, is_gallery
from tbps_infer.pruning import prune_gallery
from tbps_infer.sources import SourceItem, SourceOptions, read_sources
from tbps_infer.watching import WatchOptions, is_network, watch_sources

FAST = WatchOptions(poll_seconds=0.05, settle_seconds=0.2)
TOLD = WatchOptions(settle_seconds=0.2)


class Watched:
    """A folder, a gallery, and what was embedded at once."""

    def __init__(self, place: Path) -> None:
        self.folder, self.gallery = place / "pictures", place / "gallery"
        self.embedded: list[list[str]] = []

    def read(self) -> list[SourceItem]:
        return read_sources([str(self.folder)])

    def embed(self, items: Sequence[SourceItem]) -> EmbedReport:
        report = embed_items(self.gallery, list(items), [self.folder])
        self.embedded.append([item.path.name for item in items])
        return report

    def names(self) -> set[str]:
        return {Path(path).name for path in contents(self.gallery)} if is_gallery(self.gallery) else set()

    @contextmanager
    def watch(self, options: WatchOptions, prune: bool = False) -> Iterator[None]:
        stop, failures = threading.Event(), []

        def follow() -> None:
            try:
                gone = (lambda: prune_gallery(self.gallery, [self.folder], "yes")) if prune else None
                watch_sources(self.read, self.embed, [self.folder], stop, options, gone)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive()
        assert failures == []


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


OPTIONS = [
    pytest.param(FAST, id="polling"),
    pytest.param(TOLD, id="told"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_what_comes_changes_and_goes_is_followed(watched: Watched, options: WatchOptions) -> None:
    if options is TOLD:
        pytest.importorskip("watchfiles")
    write_pictures(watched.folder, range(3))
    with watched.watch(options, prune=True):
        until(lambda: len(watched.names()) == 3)
        write_pictures(watched.folder / "later", [10, 11])
        until(lambda: len(watched.names()) == 5)
        (watched.folder / "0001.ppm").write_bytes(picture(99))
        until(lambda: sum(names.count("0001.ppm") for names in watched.embedded) == 2)
        (watched.folder / "0002.ppm").unlink()
        until(lambda: "0002.ppm" not in watched.names())
    assert watched.names() == {"0000.ppm", "0001.ppm", "0010.ppm", "0011.ppm"}
    every = [name for names in watched.embedded for name in names]
    assert sorted(every) == ["0000.ppm", "0001.ppm", "0001.ppm", "0002.ppm", "0010.ppm", "0011.ppm"]


def test_new_metadata_of_the_same_pictures_are_taken(watched: Watched) -> None:
    write_pictures(watched.folder, range(3))
    person = "1"

    def read() -> list[SourceItem]:
        return [SourceItem(path, {"id": person}) for path in sorted(watched.folder.iterdir())]

    watched.read = read  # type: ignore[method-assign]
    with watched.watch(FAST):
        until(lambda: len(watched.names()) == 3)
        person = "42"
        until(lambda: len(watched.embedded) == 2)
    with Gallery.open(watched.gallery) as gallery:
        assert [record.metadata["id"] for record in gallery.records()] == ["42"] * 3


def test_what_could_not_be_read_is_tried_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(watched.folder, range(3))
    really_open, refused = Path.open, ["0001.ppm"]

    def refuse(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.name in refused:
            raise PermissionError(13, "Permission denied")
        return really_open(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with watched.watch(replace(FAST, rescan_seconds=0.3)):
        until(lambda: len(watched.names()) == 2)
        refused.clear()
        until(lambda: len(watched.names()) == 3)
    assert watched.embedded[0] == ["0000.ppm", "0001.ppm", "0002.ppm"]
    assert {name for names in watched.embedded[1:] for name in names} == {"0001.ppm"}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_list_that_is_replaced_is_followed(tmp_path: Path, options: WatchOptions) -> None:
    if options is TOLD:
        pytest.importorskip("watchfiles")
    watched, stop = Watched(tmp_path), threading.Event()
    crops, reading = tmp_path / "crops.csv", SourceOptions(empty_lists=True)

    def write_list(new: range) -> None:
        write_pictures(watched.folder, new)
        rows = "".join(f"pictures/{number:04}.ppm,gate/{number}\n" for number in range(new.stop))
        (tmp_path / "new.csv").write_text(f"path,id\n{rows}")
        (tmp_path / "new.csv").replace(crops)

    thread = threading.Thread(
        target=watch_sources,
        args=(lambda: read_sources([str(crops)], reading), watched.embed, [crops], stop, options),
    )
    thread.start()
    try:
        write_list(range(0))  # nobody has come yet
        write_list(range(2))
        until(lambda: len(watched.names()) == 2)
        write_list(range(2, 4))
        until(lambda: len(watched.names()) == 4)
    finally:
        stop.set()
        thread.join(20)
    assert [name for names in watched.embedded for name in names] == [f"{number:04}.ppm" for number in range(4)]


def test_a_half_written_file_is_waited_for(watched: Watched) -> None:
    write_pictures(watched.folder, [0])
    content = picture(5)
    with watched.watch(FAST):
        until(lambda: len(watched.names()) == 1)
        for end in range(20, len(content) + 1, 10):
            (watched.folder / "5.ppm").write_bytes(content[:end])
            time.sleep(0.08)
            assert "5.ppm" not in watched.names()
        (watched.folder / "5.ppm").write_bytes(content)
        until(lambda: "5.ppm" in watched.names())
    assert watched.embedded == [["0000.ppm"], ["5.ppm"]]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_absence_of_a_source_is_survived(watched: Watched, options: WatchOptions) -> None:
    if options is TOLD:
        pytest.importorskip("watchfiles")
    with watched.watch(options, prune=True):  # it is not there at the beginning either
        time.sleep(0.3)
        write_pictures(watched.folder, range(4))
        until(lambda: len(watched.names()) == 4)
        before = contents(watched.gallery)
        watched.folder.rename(watched.folder.with_name("off"))
        time.sleep(0.5)
        watched.folder.with_name("off").rename(watched.folder)
        write_pictures(watched.folder, [7])
        until(lambda: len(watched.names()) == 5)
    assert before.items() <= contents(watched.gallery).items()
    assert watched.embedded[-1] == ["0007.ppm"]


def test_pruning_that_is_refused_ends_nothing(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(watched.folder, range(4))
    with watched.watch(FAST, prune=True):
        until(lambda: len(watched.names()) == 4)
        for number in range(3):
            (watched.folder / f"{number:04}.ppm").unlink()
        until(lambda: any("more than half" in record.message for record in caplog.records))
        write_pictures(watched.folder, [9])
        until(lambda: "0009.ppm" in watched.names())
    assert len(watched.names()) == 5


def test_without_watchfiles_a_sentence_says_what_to_do(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(watched.folder, [0])
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(BackendError, match="watchfiles, which is not installed") as told:
        watch_sources(watched.read, watched.embed, [watched.folder], threading.Event(), TOLD)
    assert "tbps-infer[watch]" in told.value.hint
    assert "--poll" in told.value.hint


def test_network_shares_are_known(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    lines = ("/dev/sda1 / ext4 rw 0 0", r"nas:/x /mnt/my\040nas nfs4 rw 0 0", "u@h: /mnt/ssh fuse.sshfs rw 0 0")
    mounts.write_text("\n".join(lines))
    assert is_network(Path("/mnt/my nas/cam_a"), mounts)
    assert is_network(Path("/mnt/ssh"), mounts)
    assert not is_network(Path("/mnt/other"), mounts)
    assert not is_network(Path("/mnt"), tmp_path / "nothing")


def test_sigterm_ends_it_with_everything_committed(tmp_path: Path, tiny_bundle: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", range(6))
    command = [Path(sys.executable).with_name("tbps"), "embed", tiny_bundle, folder, "-o", tmp_path / "gallery"]
    process = subprocess.Popen(
        [*map(str, command), "--watch", "--poll", "0.2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        assert "6 pictures = 6 embedded" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, problems = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, problems
    assert "everything that was embedded is committed" in problems
    assert len(contents(tmp_path / "gallery")) == 6
