"""Pictures that are away, deleted, renamed, moved or copied: what embedding them again makes of their records."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import IO, Any

import pytest
from embedded_folders import contents, embed, picture, write_pictures

from tbps_infer.errors import GalleryError, SourceError
from tbps_infer.gallery import Gallery, Removal, relocate_gallery, remove_records
from tbps_infer.moves import is_gone
from tbps_infer.pruning import prune_gallery, source_folder, source_scope
from tbps_infer.sources import read_sources


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return tmp_path / "gallery"


def test_a_share_that_is_away_keeps_its_records_and_their_numbers(tmp_path: Path, gallery: Path) -> None:
    write_pictures(tmp_path / "nas", [1])
    (tmp_path / "l.csv").write_text("path,id\nnas/0001.ppm,1\n")
    embed(gallery, tmp_path / "l.csv")
    before = contents(gallery)
    (tmp_path / "nas").rename(tmp_path / "off")
    report = embed(gallery, tmp_path / "l.csv")
    assert (report.total, report.embedded, report.rejected, len(report.unreachable)) == (1, 0, 0, 1)
    assert not report.all_rejected
    assert contents(gallery) == before
    with Gallery.open(gallery) as opened:
        (problem,) = opened.unreachable
        assert problem.path == tmp_path / "nas" / "0001.ppm"
        assert problem.reason == "It cannot be read: No such file or directory."
    (tmp_path / "off").rename(tmp_path / "nas")
    assert embed(gallery, tmp_path / "l.csv").unchanged == 1
    assert contents(gallery) == before
    with Gallery.open(gallery) as opened:
        assert opened.unreachable == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOENT])
def test_an_error_in_reading_keeps_the_record_and_only_a_broken_picture_loses_it(
    tmp_path: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = write_pictures(tmp_path / "pictures", range(5))
    embed(gallery, folder)
    before = contents(gallery)
    really_open = Path.open

    def failing(self: Path, mode: str = "r", *arguments: Any, **named: Any) -> IO[Any]:
        if self.name in ("0001.ppm", "0003.ppm"):
            raise OSError(number, os.strerror(number), str(self))
        return really_open(self, mode, *arguments, **named)

    monkeypatch.setattr(Path, "open", failing)
    (folder / "0002.ppm").write_bytes(b"no picture")
    report = embed(gallery, folder, rehash=True)
    assert [problem.path.name for problem in report.unreachable] == ["0001.ppm", "0003.ppm"]
    assert [reject.path.name for reject in report.rejects] == ["0002.ppm"]
    assert contents(gallery) == {path: row for path, row in before.items() if "0002" not in path}


def test_a_source_that_is_gone_entirely_is_an_error_and_changes_nothing(tmp_path: Path, gallery: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", range(3))
    embed(gallery, folder)
    before = contents(gallery)
    folder.rename(tmp_path / "off")
    with pytest.raises(SourceError, match="does not exist"):
        embed(gallery, folder)
    with pytest.raises(GalleryError, match="is not there, so nothing was pruned"):
        prune_gallery(gallery, [folder], "all")
    folder.mkdir()  # a mount point without its disk
    with pytest.raises(SourceError, match="contains no picture"):
        embed(gallery, folder)
    with pytest.raises(GalleryError, match="more than half"):
        prune_gallery(gallery, [folder], "yes")
    assert contents(gallery) == before


def test_when_everything_is_rejected_the_report_says_so(tmp_path: Path, gallery: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", [])
    (folder / "a.ppm").write_bytes(b"no picture")
    assert embed(gallery, folder).all_rejected


def test_a_file_that_moved_keeps_its_record_number_and_vector(tmp_path: Path, gallery: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", range(6))
    embed(gallery, folder)
    before = contents(gallery)
    (folder / "0001.ppm").rename(folder / "renamed.ppm")
    (folder / "sub").mkdir()
    (folder / "0002.ppm").rename(folder / "sub" / "0002.ppm")
    shutil.copy(folder / "0003.ppm", folder / "copy.ppm")  # the old path is still there: a new picture
    report = embed(gallery, folder)
    assert (report.moved, report.embedded, report.unchanged) == (2, 1, 4)
    after = contents(gallery)
    assert after[str(folder / "renamed.ppm")] == before[str(folder / "0001.ppm")]
    assert after[str(folder / "sub" / "0002.ppm")] == before[str(folder / "0002.ppm")]
    assert after[str(folder / "copy.ppm")][0] == 7
    assert len(after) == 7
    assert embed(gallery, folder).unchanged == 7


def test_pruning_shows_first_then_removes_what_is_gone_rejects_too(tmp_path: Path, gallery: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", range(6))
    other = write_pictures(tmp_path / "other", [50])
    for name in ("bad.ppm", "still bad.ppm"):
        (folder / name).write_bytes(b"no picture")
    embed(gallery, folder, other)
    for name in ("0001.ppm", "0002.ppm", "bad.ppm"):
        (folder / name).unlink()
    (other / "0050.ppm").unlink()
    (folder / "0003.ppm").unlink()
    (folder / "0003.ppm").symlink_to(tmp_path / "away" / "0003.ppm")  # a link whose target is away is not gone
    before = contents(gallery)
    report = prune_gallery(gallery, [folder])
    assert ([path.name for path in report.gone], report.recorded, report.removed) == (
        ["0001.ppm", "0002.ppm"],
        6,
        False,
    )
    assert [path.name for path in report.rejects] == ["bad.ppm"]
    assert contents(gallery) == before
    assert prune_gallery(gallery, [folder], "yes").removed
    assert set(before) - set(contents(gallery)) == {str(folder / "0001.ppm"), str(folder / "0002.ppm")}
    with Gallery.open(gallery) as opened:
        assert [reject.path.name for reject in opened.rejects] == ["still bad.ppm"]
    write_pictures(folder, [1])  # pruned, not removed by somebody: it may come back
    assert embed(gallery, folder).removed_earlier == 0
    assert str(folder / "0001.ppm") in contents(gallery)


def test_pruning_refuses_more_than_half_unless_all_is_said(tmp_path: Path, gallery: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", range(4))
    embed(gallery, folder)
    for number in range(3):
        (folder / f"{number:04}.ppm").unlink()
    for mode in ("dry-run", "yes"):
        with pytest.raises(GalleryError, match=r"3 of the 4 records .* more than half") as refused:
            prune_gallery(gallery, [folder], mode)
        assert "--prune=all" in refused.value.hint
    assert len(contents(gallery)) == 4
    prune_gallery(gallery, [folder], "all")
    assert len(contents(gallery)) == 1


def test_the_folders_of_sources(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "a" / "b", [1, 2])
    (tmp_path / "l.csv").write_text("path\na/b/0001.ppm\na/b/0002.ppm\n")
    assert source_folder(str(folder)) == folder
    assert source_folder(str(folder / "0001.ppm")) == folder
    assert source_folder(str(tmp_path / "l.csv")) == tmp_path
    assert source_folder(f"{tmp_path}/a/*/0*.ppm") == tmp_path / "a"
    assert source_scope(str(tmp_path / "l.csv"), read_sources([str(tmp_path / "l.csv")])) == folder
    assert not is_gone(folder / "0001.ppm")
    assert is_gone(folder / "no" / "such.ppm")


def test_a_gallery_and_its_pictures_move_to_another_disk(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "old" / "pictures", range(5))
    embed(tmp_path / "old" / "gallery", folder)
    before = contents(tmp_path / "old" / "gallery")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    gallery, moved = tmp_path / "new" / "gallery", tmp_path / "new" / "pictures"
    with pytest.raises(GalleryError, match="are recorded below") as told:  # not all of it once more
        embed(gallery, moved)
    assert f"tbps gallery relocate {gallery} {folder} {moved}" in told.value.hint
    shutil.rmtree(tmp_path / "old")
    with Gallery.open(gallery) as opened:
        assert opened.missing_roots() == {folder: 5}
        assert opened.missing() == opened.missing(every_file=True) == 5
    assert relocate_gallery(gallery, folder, moved) == 5
    report = embed(gallery, moved)
    assert (report.unchanged, report.embedded) == (5, 0)
    assert contents(gallery) == {path.replace("/old/", "/new/"): row for path, row in before.items()}
    with Gallery.open(gallery) as opened:
        assert opened.missing(every_file=True) == 0
        assert opened.roots == {moved: 5}


def test_a_part_of_a_root_or_the_folder_above_it_can_be_relocated(tmp_path: Path, gallery: Path) -> None:
    folder = write_pictures(tmp_path / "disk" / "cam_a", range(3)).parent
    write_pictures(folder / "cam_b", range(10, 12))
    embed(gallery, folder)
    (tmp_path / "away").mkdir()
    (folder / "cam_b").rename(tmp_path / "away" / "b")
    assert relocate_gallery(gallery, folder / "cam_b", tmp_path / "away" / "b") == 2
    folder.rename(tmp_path / "away" / "disk")
    with pytest.raises(GalleryError, match="is not a folder"):
        relocate_gallery(gallery, tmp_path, tmp_path / "nowhere")
    with pytest.raises(GalleryError, match="No picture is recorded below"):
        relocate_gallery(gallery, tmp_path / "nowhere", tmp_path)
    relocate_gallery(gallery, folder, tmp_path / "away" / "disk")
    assert all(Path(path).exists() for path in contents(gallery))
    assert len(contents(gallery)) == 5


@pytest.mark.parametrize("down", [True, False])
def test_nested_roots_are_relocated_once(tmp_path: Path, gallery: Path, down: bool) -> None:
    outer, inner = tmp_path / "r" / "a", tmp_path / "r" / "a" / "a"
    write_pictures(outer, [1])
    write_pictures(inner, [2, 3])
    embed(gallery, outer, roots=(inner,) if down else ())
    if not down:
        embed(gallery, tmp_path / "r")
    place = inner if down else tmp_path / "r"
    place.mkdir(exist_ok=True)
    assert relocate_gallery(gallery, outer, place) == 3
    below = {str(place / path) for path in ("0001.ppm", "a/0002.ppm", "a/0003.ppm")}
    assert set(contents(gallery)) == below


def test_what_moved_to_where_something_was_removed_stays(tmp_path: Path, gallery: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", range(4))
    embed(gallery, folder)
    assert remove_records(gallery, Removal(paths=(folder / "0001.ppm",))) == 1
    (folder / "0000.ppm").rename(folder / "0001.ppm")
    assert embed(gallery, folder, forget=True).moved == 1
    (folder / "0001.ppm").write_bytes(picture(77))
    report = embed(gallery, folder)
    assert (report.embedded, report.unchanged, report.rejected) == (1, 2, 0)


def test_the_working_folder_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "cam[1]" / "people", [1])
    monkeypatch.chdir(tmp_path / "cam[1]")
    assert source_folder("people/*.ppm") == folder
    assert source_folder("*/*.ppm") == tmp_path / "cam[1]"


def test_a_root_can_be_named_and_a_picture_recorded_twice_on_purpose(tmp_path: Path, gallery: Path) -> None:
    first = write_pictures(tmp_path / "data" / "a", range(3))
    second = write_pictures(tmp_path / "data" / "b", range(3))
    embed(gallery, first, roots=(tmp_path / "data",))
    with Gallery.open(gallery) as opened:
        assert opened.roots == {tmp_path / "data": 3}
    assert embed(gallery, second).embedded == 3
    assert len(contents(gallery)) == 6
    assert picture(1) in {Path(path).read_bytes() for path in contents(gallery)}
