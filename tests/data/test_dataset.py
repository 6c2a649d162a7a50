"""Readers: every format, and for every flaw a sentence that names the file, the entry and the field."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tbps_infer.data.dataset import Split
from tbps_infer.data.readers import read_dataset
from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.errors import DatasetError

CUHK: list[dict[str, Any]] = [
    {"split": "train", "captions": ["A man.", "A tall man."], "file_path": "CUHK01/a.png", "id": 1},
    {"split": "test", "captions": ["A woman."], "file_path": "cam_a/b.jpg", "id": 7},
    {"split": "test", "captions": ["A woman in red."], "file_path": "cam_a/b.jpg", "id": 7},
    {"split": "test", "captions": [], "file_path": "test_query/c.jpg", "id": 8},
]


def _write(root: Path, name: str, entries: Any, pictures: Mapping[str, list[str]] | None = None) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(entries))
    for folder, paths in (pictures or {}).items():
        for path in paths:
            file = root / folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return root


@pytest.fixture
def cuhk(tmp_path: Path) -> Path:
    paths = {"imgs": [entry["file_path"] for entry in CUHK]}
    return _write(tmp_path / "CUHK-PEDES", "reid_raw.json", CUHK, paths)


def test_pictures_are_merged_by_path_and_keep_any_number_of_captions(cuhk: Path) -> None:
    split = read_dataset(cuhk, "test")
    assert [picture.captions for picture in split.pictures] == [("A woman.", "A woman in red."), ()]
    assert split.captions == ("A woman.", "A woman in red.")
    assert split.caption_picture.tolist() == [0, 0]
    assert split.identities.tolist() == [7, 8]
    assert split.caption_identities.tolist() == [7, 7]
    assert [picture.camera for picture in split.pictures] == ["cam_a", "test_query"]
    assert split.pictures[0].path == cuhk / "imgs" / "cam_a" / "b.jpg"


@pytest.mark.parametrize("step", [".", "..", "reid_raw.json"])
def test_the_root_may_be_the_file_its_folder_or_the_parent(cuhk: Path, step: str) -> None:
    root = cuhk.parent if step == ".." else cuhk / step
    assert len(read_dataset(root, "train").pictures) == 1


def test_synthetic_pedestrians_read_back(tmp_path: Path) -> None:
    write_dataset(tmp_path / "people", SynthOptions(train=3, val=1, test=2, pictures=2, captions=3, workers=1))
    splits: dict[str, Split] = {name: read_dataset(tmp_path / "people", name) for name in ("train", "val", "test")}
    assert [len(split.pictures) for split in splits.values()] == [6, 2, 4]
    assert len(splits["train"].captions) == 18
    identities = [set(split.identities.tolist()) for split in splits.values()]
    assert not identities[0] & identities[1] and not identities[0] & identities[2]


@pytest.mark.parametrize("name", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_takes_the_split_from_the_field_and_not_the_folder(tmp_path: Path, name: str) -> None:
    entries = [{"split": "test", "captions": ["x"], "file_path": "train/0001/a.jpg", "id": 3, "processed_tokens": []}]
    root = _write(tmp_path / "ICFG-PEDES", name, entries, {"imgs": ["train/0001/a.jpg"]})
    assert len(read_dataset(root, "test").pictures) == 1
    with pytest.raises(DatasetError, match="no entry of the split 'train'"):
        read_dataset(root, "train")
    with pytest.raises(DatasetError, match="ICFG-PEDES has no split 'val'; it has train, test"):
        read_dataset(root, "val")


def test_rstpreid_has_another_key_and_its_camera_in_the_name(tmp_path: Path) -> None:
    entries = [{"split": "val", "captions": ["x", "y"], "img_path": "0000_c14_0031.jpg", "id": 0}]
    root = _write(tmp_path / "RSTPReid", "data_captions.json", entries, {"imgs": ["0000_c14_0031.jpg"]})
    (picture,) = read_dataset(root, "val").pictures
    assert (picture.camera, picture.identity) == ("c14", 0)


def test_files_by_split(tmp_path: Path) -> None:
    entry = {"captions": ["x"], "file_path": "cam_a/1.jpg", "id": 2}
    root = _write(tmp_path / "a", "train_reid.json", [entry], {"imgs": ["cam_a/1.jpg"]})
    assert len(read_dataset(root, "train").pictures) == 1
    with pytest.raises(DatasetError, match="no annotation file for the split 'test'"):
        read_dataset(root, "test")
    with pytest.raises(DatasetError, match=r"train_reid\.json is the split 'train', and 'test' was asked for"):
        read_dataset(root / "train_reid.json", "test")
    other = {"image": "cam_a/1.jpg", "image_id": 4, "caption": ["x", "y", "z"]}
    root = _write(tmp_path / "b", "cuhk_test.json", [other], {"imgs": ["cam_a/1.jpg"]})
    assert read_dataset(root, "test").captions == ("x", "y", "z")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_captions_of_your_own(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"path": "a.jpg", "caption": "red coat", "id": "p1", "camera": "door"},
        {"path": "b.jpg", "caption": "red coat, from behind", "id": "p1", "camera": "hall"},
        {"path": "a.jpg", "caption": "a woman", "id": "p1", "camera": "door"},
    ]
    file = tmp_path / f"people.{suffix}"
    if suffix == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    split = read_dataset(tmp_path, "test")
    assert [len(picture.captions) for picture in split.pictures] == [2, 1]
    assert len(set(split.identities.tolist())) == 1
    assert [picture.camera for picture in split.pictures] == ["door", "hall"]


def test_a_spreadsheets_file_with_a_picture_nobody_asks_for(tmp_path: Path) -> None:
    """A byte order mark in front, and a picture without a caption: one more in the gallery."""
    (tmp_path / "own.csv").write_text("path,id,caption\na.jpg,1,a man\nb.jpg,2,\n", encoding="utf-8-sig")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    split = read_dataset(tmp_path / "own.csv", "test")
    assert [picture.captions for picture in split.pictures] == [("a man",), ()]


def test_one_of_several_data_sets_is_not_picked_for_you(cuhk: Path) -> None:
    other = cuhk.parent / "RSTPReid"
    _write(other, "data_captions.json", [])
    with pytest.raises(DatasetError, match="holds several data sets: CUHK-PEDES, RSTPReid"):
        read_dataset(cuhk.parent, "test")
    assert read_dataset(cuhk.parent, "test", kind="CUHK-PEDES").identities.tolist() == [7, 8]


@pytest.mark.parametrize("folder", ["imgs", "."])
def test_pictures_that_are_not_looked_for_have_the_paths_they_would_have(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "own.csv").write_text("path,caption\na.jpg,a man\n")
    split = read_dataset(tmp_path / "own.csv", "test", check_files=False)
    assert split.pictures[0].path == tmp_path / folder / "a.jpg"


def test_without_ids_every_picture_is_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"path": "a.jpg", "caption": "x"}\n{"path": "b.jpg", "caption": "y"}\n')
    split = read_dataset(tmp_path / "q.jsonl", "test", check_files=False)
    assert len(set(split.identities.tolist())) == 2


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"split": "test", "captions": ["x"], "id": 1}, "entry 0: there is no 'file_path', want text"),
        ({"split": "test", "captions": "x", "file_path": "a", "id": 1}, "'captions' is 'x', want a list"),
        ({"split": "test", "captions": [3], "file_path": "a", "id": 1}, "not a list of sentences"),
        ({"split": "test", "captions": ["x", " "], "file_path": "a", "id": 1}, "entry 0: a caption has no words"),
        ({"split": "test", "captions": [], "file_path": "a", "id": "1"}, "'id' is '1', want a whole number"),
        ({"split": "dev", "captions": [], "file_path": "a", "id": 1}, "the split is 'dev', want train, val, test"),
        ({"split": "test", "captions": [], "file_path": "a", "id": 1}, "the picture a is neither in"),
        ("x", "entry 0: this is a str, want an object"),
    ],
)
def test_a_flaw_names_its_entry_and_field(tmp_path: Path, entry: Any, words: str) -> None:
    root = _write(tmp_path / "set", "reid_raw.json", [entry])
    with pytest.raises(DatasetError) as caught:
        read_dataset(root, "test")
    assert words in caught.value.message
    assert "reid_raw.json" in caught.value.message


def test_one_path_of_two_people_is_refused(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"split": "test", "captions": [], "file_path": "a.jpg", "id": number} for number in (1, 2)
    ]
    root = _write(tmp_path / "set", "reid_raw.json", entries, {"imgs": ["a.jpg"]})
    with pytest.raises(DatasetError, match=r"entry 1: a\.jpg has another identity"):
        read_dataset(root, "test")


@pytest.mark.parametrize("as_file", [True, False])
def test_the_file_without_splits_is_refused_by_the_name_of_the_right_one(tmp_path: Path, as_file: bool) -> None:
    root = _write(tmp_path / "set", "caption_all.json", [])
    with pytest.raises(DatasetError, match=r"caption_all\.json") as caught:
        read_dataset(root / "caption_all.json" if as_file else root, "test")
    assert "reid_raw.json" in caught.value.hint


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "nowhere", "test")
    (tmp_path / "reid_raw.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_dataset(tmp_path, "test")
    (tmp_path / "reid_raw.json").write_text("{}")
    with pytest.raises(DatasetError, match="holds a dict, want a list"):
        read_dataset(tmp_path, "test")
    (tmp_path / "notes.json").write_text("[]")
    with pytest.raises(DatasetError, match="not an annotation file of a known name"):
        read_dataset(tmp_path / "notes.json", "test")
    with pytest.raises(DatasetError, match="kind 'market' is not known"):
        read_dataset(tmp_path, "test", kind="market")
    (tmp_path / "own.jsonl").write_text('{"path": "a", "caption": "b"}\nnot json\n')
    with pytest.raises(DatasetError, match="line 2: this is not valid JSON"):
        read_dataset(tmp_path / "own.jsonl", "test", check_files=False)
