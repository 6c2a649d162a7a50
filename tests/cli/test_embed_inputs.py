"""What `tbps embed` says of its inputs: types, zones, names, what was skipped, and what a decoder warns of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import fail, run, succeed
from PIL import Image

from tbps_infer.gallery import Gallery

NAME = "cam{}_2024-05-31T08-3{}-00_x.jpg"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 16), (number, 9, 9)).save(folder / NAME.format(number, number))
    return folder


def listed(pictures: Path, header: str, *cells: str, name: str = "l.csv") -> Path:
    file = pictures.parent / name
    names = sorted(pictures.iterdir())
    rows = (f"{path},{cell}" for path, cell in zip(names, cells, strict=False))
    file.write_text("\n".join((f"path,{header}", *rows)))
    return file


def hits(gallery: Path, *options: str) -> list[dict[str, Any]]:
    done = succeed("search", gallery, "a man", "--format", "jsonl", *options)
    found: list[dict[str, Any]] = json.loads(done.stdout)["hits"]
    return found


def test_types_are_told_and_kept(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "g"
    first = listed(pictures, "id,floor,shop", "1.10,1,A1", "1.1,-2,12", "12e4,,", name="first.csv")
    assert "shop is 12, and 'A1' in line 2" in fail(1, "embed", tiny_bundle, first, "-o", gallery).stderr
    done = succeed("embed", tiny_bundle, first, "-o", gallery, "--text", "shop")
    assert "columns: floor: numbers, id: text, shop: text" in done.stderr
    text = listed(pictures, "floor", "ground", name="text.csv")
    done = fail(1, "embed", tiny_bundle, text, "-o", gallery)
    assert "floor is 'ground' for" in done.stderr and "holds numbers" in done.stderr
    numbers = listed(pictures, "shop", "7", name="numbers.csv")
    assert "--text shop" in fail(1, "embed", tiny_bundle, numbers, "-o", gallery).stderr
    succeed("embed", tiny_bundle, numbers, "-o", gallery, "--text", "shop")
    with Gallery.open(gallery) as opened:
        assert [dict(record.metadata) for record in opened.records()] == [
            {"id": "1.10", "floor": 1, "shop": "7"},
            {"id": "1.1", "floor": -2, "shop": "12"},
            {"id": "12e4"},
        ]
    assert [hit["metadata"]["id"] for hit in hits(gallery, "--id", "1.10")] == ["1.10"]
    assert hits(gallery, "--id", "120e3") == []
    assert [hit["metadata"]["floor"] for hit in hits(gallery, "--where", "floor < 1.0")] == [-2]
    assert [hit["metadata"]["id"] for hit in hits(gallery, "--where", "shop = 7")] == ["1.10"]


def test_persons_are_grouped_by_the_text_of_their_id(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    file = listed(pictures, "id,camera", "12e4,1.10", "120e3,1.1", "1200e2,1.10")
    succeed("embed", tiny_bundle, file, "-o", tmp_path / "g")
    assert len(hits(tmp_path / "g", "--per-id")) == 3
    assert len(hits(tmp_path / "g", "--camera", "1.10")) == 2
    assert len(hits(tmp_path / "g", "--camera", "1.1")) == 1


def test_times_are_filtered_as_they_are_shown(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    file = listed(pictures, "time", "2024-05-31T08:30", "20240531T0930", "2024-05-31T08:30:00-05:00")
    done = succeed("embed", tiny_bundle, file, "-o", tmp_path / "g", "--timezone", "Europe/Berlin")
    assert "times: 2 without a zone, read as Europe/Berlin" in done.stderr
    shown = [hit["metadata"]["time"] for hit in hits(tmp_path / "g")]
    assert sorted(shown) == ["2024-05-31T08:30+02:00", "2024-05-31T08:30:00-05:00", "2024-05-31T09:30:00+02:00"]
    for time in shown:
        clock = time[:16]  # what the page's fields hold
        for bound in (time, clock):
            assert time in [hit["metadata"]["time"] for hit in hits(tmp_path / "g", "--after", bound)]
            assert time not in [hit["metadata"]["time"] for hit in hits(tmp_path / "g", "--before", bound)]
    assert len(hits(tmp_path / "g", "--after", "2024-05-31T08:30+02:00", "--before", "2024-05-31T07:00Z")) == 1


@pytest.mark.parametrize("cells", [("2023", "2024", "2025"), ("20230501", "20240501", "20250501")])
def test_years_and_basic_dates_are_filtered_by_years(
    tiny_bundle: Path, pictures: Path, tmp_path: Path, cells: tuple[str, ...]
) -> None:
    succeed("embed", tiny_bundle, listed(pictures, "time", *cells), "-o", tmp_path / "g")
    years = [hit["metadata"]["time"][:4] for hit in hits(tmp_path / "g", "--after", "2024")]
    assert sorted(years) == ["2024", "2025"]


def test_a_dry_run_shows_metadata_and_embeds_nothing(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 16)).save(pictures / "portrait.jpg")
    pattern = "cam{camera}_{time:%Y-%m-%dT%H-%M-%S}_{}"
    options = (tiny_bundle, pictures, "-o", tmp_path / "g", "--name-pattern", pattern)
    done = succeed("embed", *options, "--dry-run")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["picture", "camera", "time"]
    assert lines[1].split() == [NAME.format(0, 0), "0", "2024-05-31T08:30:00Z"]
    assert lines[-1] == "4 pictures, 1 whose names do not follow the pattern"
    assert "names: 1 do not follow the pattern, such as portrait.jpg" in done.stderr
    assert not (tmp_path / "g").exists()
    succeed("embed", *options)
    assert [hit["metadata"]["camera"] for hit in hits(tmp_path / "g", "--camera", "2")] == ["2"]


@pytest.mark.parametrize(
    ("option", "words"),
    [("--prune=yes", "on standard input"), ("--watch", "- is neither a folder nor")],
)
def test_what_looks_again_needs_more_than_standard_input(
    tiny_bundle: Path, tmp_path: Path, option: str, words: str
) -> None:
    assert words in run("embed", tiny_bundle, "-", "-o", tmp_path / "g", option, stdin="path\na.jpg\n").stderr
    assert not (tmp_path / "g").exists()


def test_a_dry_run_keeps_a_name_within_its_line(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    Image.new("RGB", (8, 16)).save(tmp_path / "p" / "a\n\x1b[31mb.jpg")
    done = succeed("embed", tiny_bundle, tmp_path / "p", "-o", tmp_path / "g", "--dry-run")
    assert done.stdout.splitlines()[1].strip() == r"a\u000a\u001b[31mb.jpg"


def test_what_is_skipped_is_told(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    for name in (".a.jpg", "b.cr2", "c_mask.jpg"):
        (pictures / name).touch()
    done = succeed("embed", tiny_bundle, pictures, "-o", tmp_path / "g", "--exclude", "*_mask.*")
    assert "3 embedded + 0 unchanged + 0 rejected" in done.stdout
    for line in ("skipped 1 hidden, such as ", "skipped 1 CR2, which is not read", "skipped 1 excluded, such as "):
        assert line in done.stderr
    quiet = succeed("embed", tiny_bundle, pictures, "-o", tmp_path / "g", "-q", "--exclude", "*_mask.*")
    assert quiet.stderr == ""


def test_a_list_on_standard_input(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    content = listed(pictures, "id", "7", "8", "9").read_text().replace(",", ";")
    succeed("embed", tiny_bundle, "-", "-o", tmp_path / "g", "--separator", ";", stdin=content)
    assert [hit["metadata"]["id"] for hit in hits(tmp_path / "g", "--id", "8")] == ["8"]


def test_a_picture_above_the_memory_is_a_reject(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1500, 1500)).save(pictures / "large.png")
    done = succeed("embed", tiny_bundle, pictures, "-o", tmp_path / "g", "--decode-memory", "8MiB")
    assert "3 embedded + 0 unchanged + 1 rejected" in done.stdout
    assert "large.png: Decoding it takes 9 MiB, and 6 MiB of the 8 MiB" in done.stderr


def test_warnings_of_a_decoder_name_the_picture(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01"
    Image.new("RGB", (8, 8)).save(pictures / "damaged exif.png", exif=exif)
    command = [sys.executable, "-m", "tbps_infer.cli.main", "embed", str(tiny_bundle), str(pictures)]
    loud, quiet = (
        subprocess.run([*command, "-o", str(tmp_path / name), *extra], capture_output=True, text=True, check=True)
        for name, extra in (("loud", ()), ("quiet", ("-q",)))
    )
    warned = [line for line in loud.stderr.splitlines() if "orrupt" in line or "runcated" in line]
    assert warned and all("damaged exif.png: " in line for line in warned)
    assert quiet.stderr == ""
