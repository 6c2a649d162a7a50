"""The data set on disk: the layout, independence from workers and split sizes, whole or absent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tbps_infer.data.synth import (
    CAMERAS,
    SynthOptions,
    plan_shot,
    sample_captions,
    sample_crops,
    write_dataset,
    write_people,
)
from tbps_infer.errors import DatasetError, UsageError

SMALL = SynthOptions(train=6, val=2, test=3, pictures=3, seed=4, height=96, workers=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def records(folder: Path) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((folder / "reid_raw.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "data"
    calls: list[tuple[int, int]] = []
    report = write_dataset(out, SMALL, lambda done, total: calls.append((done, total)))
    assert (report.identities, report.pictures, report.captions) == (11, 33, 66)
    assert calls[-1] == (33, 33)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert report.out == out
    return out


def test_layout(dataset: Path) -> None:
    rows = records(dataset)
    assert len(rows) == 33
    for row in rows:
        assert set(row) == {"split", "captions", "file_path", "processed_tokens", "id"}
        assert len(row["captions"]) == len(row["processed_tokens"]) == 2
        camera = row["file_path"].split("/")[0]
        assert camera in CAMERAS
        with Image.open(dataset / "imgs" / row["file_path"]) as image:
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            assert image.height == 96
            assert 0.3 < image.width / image.height < 0.46
    assert len({row["file_path"] for row in rows}) == 33
    assert len(contents(dataset)) == 35


def test_splits_are_disjoint_and_identities_start_at_one(dataset: Path) -> None:
    identities = {
        split: {row["id"] for row in records(dataset) if row["split"] == split} for split in ("train", "val", "test")
    }
    assert identities == {"train": set(range(1, 7)), "val": {7, 8}, "test": {9, 10, 11}}


def test_facts_beside_the_data(dataset: Path) -> None:
    facts = json.loads((dataset / "synth.json").read_text(encoding="utf-8"))
    assert facts["options"]["seed"] == 4
    assert "workers" not in facts["options"]
    assert sorted(map(int, facts["identities"])) == list(range(1, 12))
    assert len({json.dumps(value) for value in facts["identities"].values()}) == 11
    assert facts["oracle_rank1"] == 1.0


def test_two_workers_write_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", SynthOptions(6, 2, 3, pictures=3, seed=4, height=96, workers=2))
    assert contents(tmp_path / "again") == contents(dataset)


def test_a_picture_does_not_depend_on_the_size_of_the_data_set(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "part", SynthOptions(2, 0, 1, pictures=2, seed=4, height=96, workers=1))
    whole, part = contents(dataset / "imgs"), contents(tmp_path / "part" / "imgs")
    assert len(part) == 6
    assert all(whole[name] == data for name, data in part.items())


def test_another_seed_is_another_data_set(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", SynthOptions(1, 0, 0, pictures=1, seed=5, height=96, workers=1))
    assert records(tmp_path / "other")[0]["captions"] != records(dataset)[0]["captions"]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty") as caught:
        write_dataset(tmp_path, SMALL)
    assert caught.value.hint
    with pytest.raises(DatasetError, match="is a file"):
        write_dataset(tmp_path / "kept.txt", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_run_leaves_nothing(workers: int, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert done < total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "out", SynthOptions(12, 2, 2, height=96, workers=workers), stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written") as caught:
        write_dataset(tmp_path / "file" / "out", SMALL)
    assert caught.value.hint
    with pytest.raises(DatasetError, match="cannot be written"):
        write_people(tmp_path / "file" / "people", 1, 0)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_dataset(tmp_path / "out", SynthOptions(1, 0, 0, pictures=1, height=96, workers=1))
    assert len(records(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": -1}, "splits"),
        ({"train": 0, "val": 0, "test": 0}, "splits"),
        ({"pictures": 0}, "pictures is 0"),
        ({"captions": 0}, "captions is 0"),
        ({"height": 10}, "height is 10"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_senseless_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SynthOptions(**changes)


def test_people_for_a_demonstration(tmp_path: Path) -> None:
    descriptions = write_people(tmp_path / "crops", 3, 8, pictures=2)
    assert [description.identity for description in descriptions] == [1, 2, 3]
    files = [file for description in descriptions for file in description.files]
    assert sorted(files) == sorted((tmp_path / "crops").iterdir())
    for description in descriptions:
        for picture, file in enumerate(description.files):
            camera = plan_shot(8, description.identity, picture, 256).camera.name
            assert file.name == f"{description.identity:04d}_{camera}_{picture}.jpg"
    again = write_people(tmp_path / "again", 3, 8, pictures=2)
    assert contents(tmp_path / "crops") == contents(tmp_path / "again")
    assert [d.caption for d in again] == [d.caption for d in descriptions]
    with pytest.raises(DatasetError, match="not empty"):
        write_people(tmp_path / "crops", 1, 8)
    with pytest.raises(UsageError, match="0 people"):
        write_people(tmp_path / "none", 0, 8)


def test_sample_crops_are_the_same_every_time() -> None:
    first, second = sample_crops(3, 2), sample_crops(4, 2)
    assert len(second) == 4
    for (image, captions), (other, others) in zip(first, second, strict=False):
        assert image.tobytes() == other.tobytes()
        assert captions == others
        assert image.mode == "RGB"
        assert image.height == 256
        assert len(set(captions)) == 2
    assert sample_crops(1, 3)[0][0].tobytes() != first[0][0].tobytes()


def test_sample_captions_are_the_same_every_time() -> None:
    assert list(sample_captions(20, 1)) == list(sample_captions(30, 1))[:20]
    assert list(sample_captions(20, 1)) != list(sample_captions(20, 2))


def test_one_split_alone_is_the_same_as_beside_the_others(tmp_path: Path) -> None:
    options = SynthOptions(train=3, val=1, test=2, pictures=2, workers=1)
    write_dataset(tmp_path / "all", options)
    report = write_dataset(tmp_path / "some", dataclasses.replace(options, only=("test",)))
    assert (report.identities, report.pictures) == (2, 4)
    whole, some = (json.loads((tmp_path / name / "reid_raw.json").read_text()) for name in ("all", "some"))
    assert some == [entry for entry in whole if entry["split"] == "test"]
    for entry in some:
        left, right = (tmp_path / name / "imgs" / entry["file_path"] for name in ("all", "some"))
        assert left.read_bytes() == right.read_bytes()
    with pytest.raises(UsageError, match="leaves nothing to write"):
        dataclasses.replace(options, test=0, only=("test",))
