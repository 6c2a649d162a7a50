"""What is skipped in folders and globs is counted, and never stops the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbps_infer import folders
from tbps_infer.errors import SourceError
from tbps_infer.sources import SourceOptions, SourceReport, read_sources, read_sources_with_report

NAMES = (
    *("a.jpg", "b.mpo", "IMG_1.HEIC", "raw.cr2", "notes.md", ".hidden.jpg", ".DS_Store", "._a.jpg", "a_mask.png"),
    *("@eaDir/a.jpg/thumb.jpg", ".thumbnails/x.png", ".cache/e.jpg", "lost+found/f.jpg", "night/2/g.jpg"),
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_readable", lambda: folders.PICTURE_EXTENSIONS - {".heic"})


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lost+found` and `private` cannot be read, whoever runs the test."""
    scan = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name in ("lost+found", "private"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)


def found(report: SourceReport, root: Path) -> list[str]:
    return [item.path.relative_to(root).as_posix() for item in report.items]


@pytest.mark.usefixtures("without_heif", "locked")
def test_what_is_skipped_is_counted_by_reason(pictures: Path) -> None:
    report = read_sources_with_report([str(pictures)], SourceOptions(exclude=("*_mask.png", "night/2")))
    assert found(report, pictures) == ["a.jpg", "b.mpo"]
    counts = {reason: count for reason, (count, _) in report.skipped.items()}
    assert counts == {
        "hidden": 2,  # .hidden.jpg and .cache
        "excluded": 5,  # ._a.jpg, a_mask.png, @eaDir, .thumbnails, night/2
        "HEIC, which needs pip install 'tbps-infer[heif]'": 1,
        "CR2, which is not read": 1,
        "folders that cannot be read": 1,
    }
    assert report.skipped["folders that cannot be read"][1] == str(pictures / "lost+found")
    assert report.skipped["HEIC, which needs pip install 'tbps-infer[heif]'"][1] == str(pictures / "IMG_1.HEIC")


@pytest.mark.usefixtures("without_heif")
def test_globs_skip_and_count_likewise(pictures: Path) -> None:
    report = read_sources_with_report([f"{pictures}/**/*"], SourceOptions(exclude=("night/*",)))
    assert found(report, pictures) == ["a.jpg", "a_mask.png", "b.mpo", "lost+found/f.jpg"]
    counts = {reason.split(",")[0]: count for reason, (count, _) in report.skipped.items()}
    assert counts == {"HEIC": 1, "CR2": 1, "excluded": 2}
    # A folder that is named is wanted.
    assert len(read_sources([f"{pictures}/@eaDir/*/*.jpg"])) == 1


@pytest.mark.usefixtures("without_heif")
def test_only_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.heic").touch()
    for source in (str(tmp_path), f"{tmp_path}/*"):
        with pytest.raises(SourceError, match=r"no picture \(skipped 1 HEIC, which needs pip install"):
            read_sources([source])
    with pytest.raises(SourceError, match="neither a picture nor") as caught:
        read_sources([str(tmp_path / "a.heic")])
    assert "tbps-infer[heif]" in caught.value.hint


def test_a_folder_that_goes_while_others_are_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    really_stat = os.stat

    def stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if str(path) == str(tmp_path / "a"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return really_stat(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", stat)
    report = read_sources_with_report([str(tmp_path)])
    assert [item.path.parent.name for item in report.items] == ["b"]
    assert report.skipped == {"folders that cannot be read": (1, str(tmp_path / "a"))}


@pytest.mark.usefixtures("locked")
def test_a_source_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    with pytest.raises(SourceError, match=r"private cannot be read: Permission denied"):
        read_sources([str(tmp_path / "private")])
