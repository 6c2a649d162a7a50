"""What an operator types in the years of a gallery, and what is printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from embedded_folders import write_pictures

from tbps_infer.cli.main import cli


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(tiny_bundle)
    return tmp_path


def tbps(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [*map(str, words)], standalone_mode=False)
    got = result.return_value if result.exception is None else 1
    assert (got or 0) == code, (result.output, result.exception)
    return result


def test_a_share_that_is_away(place: Path) -> None:
    write_pictures(place / "nas", [1])
    (place / "l.csv").write_text("path,id\nnas/0001.ppm,1\n")
    tbps("embed", "bundle", "l.csv", "-o", "g")
    (place / "nas").rename(place / "off")
    told = tbps("embed", "bundle", "l.csv", "-o", "g")
    assert "0 embedded + 0 unchanged + 0 rejected + 1 not reachable, records kept" in told.output
    assert "not reachable " in told.output
    tbps("embed", "bundle", "l.csv", "-o", "g", "--strict", code=1)
    facts = info()
    assert facts["records"] == 1
    assert list(facts["unreachable"].values()) == ["It cannot be read: No such file or directory."]
    searched = tbps("search", "g", "a man")
    assert "1 picture is not there any more" in searched.output


def info(*options: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(tbps("info", "g", "--json", *options).stdout)
    return facts


def test_everything_rejected_is_no_success(place: Path) -> None:
    write_pictures(place / "p", [])
    (place / "p" / "a.jpg").write_bytes(b"no picture")
    told = tbps("embed", "bundle", "p", "-o", "g", code=1)
    assert "No picture could be embedded" in told.output


def test_pruning(place: Path) -> None:
    write_pictures(place / "p", range(5))
    tbps("embed", "bundle", "p", "-o", "g")
    (place / "p" / "0003.ppm").unlink()
    shown = tbps("embed", "bundle", "p", "-o", "g", "--prune").output
    assert "g: 1 of 5 records and 0 rejects would be removed: their files are gone" in shown
    assert "0003.ppm" in shown
    assert "--prune=yes" in shown
    assert info()["records"] == 5
    assert "1 of 5 records and 0 rejects removed" in tbps("embed", "bundle", "p", "-o", "g", "--prune=yes").output
    assert info()["records"] == 4


def test_removal_that_holds(place: Path) -> None:
    write_pictures(place / "p", range(5))
    rows = "".join(f"p/{n:04}.ppm,{694 if n < 3 else n}\n" for n in range(5))
    (place / "l.csv").write_text(f"path,id\n{rows}")
    tbps("embed", "bundle", "l.csv", "-o", "g")
    assert "3 of 5 records would be removed" in tbps("gallery", "rm", "g", "--id", "694", "--dry-run").output
    assert "3 records removed" in tbps("gallery", "rm", "g", "--id", "694").output
    assert "3 removed earlier, left out" in tbps("embed", "bundle", "p", "-o", "g").output
    assert info()["removed"] == 3
    assert "3 embedded" in tbps("embed", "bundle", "p", "-o", "g", "--forget-tombstones").output
    (place / "hits.csv").write_text("rank,record\n1,4\n")
    assert "1 records removed" in tbps("gallery", "rm", "g", "--from", "hits.csv").output
    numbers = ("--record", "5,6", "--record", "99")
    assert "2 of 4 records would" in tbps("gallery", "rm", "g", *numbers, "--dry-run").output
    assert "1 of 4 records would" in tbps("gallery", "rm", "g", "--path", "p/0001.ppm", "--dry-run").output
    assert "0 of 4 records would" in tbps("gallery", "rm", "g", "--older-than", "30d", "--dry-run").output
    assert "4 records removed and erased" in tbps("gallery", "rm", "g", "--path", "p", "--purge").output
    assert not any(b"0001.ppm" in file.read_bytes() for file in (place / "g").iterdir())
    tbps("gallery", "rm", "g", code=1)
    tbps("gallery", "rm", "g", "--older-than", "soon", code=1)
    tbps("gallery", "rm", "g", "--record", "x", code=1)


def test_a_move_to_another_disk(place: Path) -> None:
    write_pictures(place / "p", range(4))
    tbps("embed", "bundle", "p", "-o", "g")
    assert "4 records copied and verified" in tbps("gallery", "copy", "g", "backup").output
    shutil.rmtree(place / "g")
    tbps("gallery", "copy", "backup", "g")
    (place / "p").rename(place / "disk")
    facts = info()
    assert facts["missing"] == 4
    told = tbps("search", "g", "a man", "-k", "3").output
    assert "3 pictures are not there any more" in told
    assert f"tbps gallery relocate g {place / 'p'} NEW" in told
    assert "4 records are below disk now" in tbps("gallery", "relocate", "g", "p", "disk").output
    assert info("--check")["missing"] == 0
    assert "0 embedded + 4 unchanged" in tbps("embed", "bundle", "disk", "-o", "g").output


def test_what_watching_cannot_do_is_said(place: Path) -> None:
    write_pictures(place / "p", range(1))
    (place / "l.txt").write_text("p/0000.ppm\n")
    tbps("embed", "bundle", "l.txt", "-o", "g", "--watch", code=1)
    tbps("embed", "bundle", "p", "-o", "g", "--poll", "3", code=1)
