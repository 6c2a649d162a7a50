"""From frames to the list of crops: the best of each track, segments, kills, damage, and what embed reads."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fail, succeed
from videos import boxes_at, mot_lines, write_video

from tbps_infer.sources import read_sources_with_report
from tbps_infer.video.boxes import Detections
from tbps_infer.video.frames import Frame, Position
from tbps_infer.video.selection import Selection, qualities

TIMES = [k / 10 for k in range(60)]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of six seconds, gate.mp4, and its boxes with and without tracks."""
    folder = tmp_path_factory.mktemp("street")
    write_video(folder / "gate.mp4", TIMES)
    (folder / "gate.txt").write_text(mot_lines(TIMES))
    (folder / "boxes.txt").write_text(mot_lines(TIMES, tracks=False, score=0.8))
    return folder


def rows(crops: Path) -> list[dict[str, str]]:
    with (crops / "crops.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def content(crops: Path) -> dict[str, bytes]:
    """Every file of a folder of crops but its lock, by name."""
    return {
        str(file.relative_to(crops)): file.read_bytes()
        for file in crops.rglob("*")
        if file.is_file() and file.name != "writer.lock"
    }


@pytest.mark.parametrize("detections", ["gate.txt", "boxes.txt"])
def test_the_list_tells_where_each_crop_is_from_and_embed_reads_it(
    street: Path, tmp_path: Path, detections: str
) -> None:
    from PIL import Image

    crops = tmp_path / "crops"
    done = succeed(
        *("crop", street / "gate.mp4", "-o", crops, "--detections", street / detections, "--camera", "north"),
        *("--start", "2026-05-01T08:00:00+02:00"),
    )
    assert "gate: 60 frames of 5.9 s, 2 tracks, 6 crops" in done.stdout
    found = rows(crops)
    assert {row["id"] for row in found} == {"gate/1", "gate/2"}
    for row in found:
        seconds = float(row["offset"])
        left, top, width, height = map(int, row["box"].split())
        assert (left, top, width, height) in boxes_at(seconds).values()
        assert row["camera"] == "north" and row["video"] == str(street / "gate.mp4")
        assert row["time"] == f"2026-05-01T08:00:0{seconds:.3f}+02:00"
        assert int(row["frame"]) == round(10 * seconds)
        with Image.open(crops / row["path"]) as picture:
            assert picture.size == (width, height)
            inner = np.asarray(picture)[4:-4, 4:-4].reshape(-1, 3)
            assert inner[:, 0].mean() == pytest.approx(200, abs=8)
    read = read_sources_with_report([str(crops / "crops.csv")])
    assert read.types == {
        **dict.fromkeys(("id", "camera", "video", "box"), "text"),
        **dict.fromkeys(("frame", "offset", "score", "track_seconds"), "numbers"),
    }
    assert all(item.path.is_file() for item in read.items)


def test_crops_of_a_track_are_spread_over_its_time(street: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    succeed("crop", street / "gate.mp4", "-o", crops, "--detections", street, "--per-track", 3)
    for track in ("gate/1", "gate/2"):
        offsets = [float(row["offset"]) for row in rows(crops) if row["id"] == track]
        assert len(offsets) == 3 and np.diff(offsets).min() >= 5.9 / 6


def test_people_who_are_too_small_give_no_crop(street: Path, tmp_path: Path) -> None:
    arguments = ("crop", street / "gate.mp4", "--detections", street)
    succeed(*arguments, "-o", tmp_path / "some", "--min-height", 80)
    assert {row["id"] for row in rows(tmp_path / "some")} == {"gate/2"}
    succeed(*arguments, "-o", tmp_path / "none", "--min-height", 200)
    assert rows(tmp_path / "none") == []


def test_run_again_it_has_nothing_to_do_and_a_new_video_is_added(street: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    succeed("crop", street / "gate.mp4", "-o", crops, "--detections", street)
    before = content(crops)
    assert "nothing new" in succeed("crop", street / "gate.mp4", "-o", crops, "--detections", street).stdout
    assert content(crops) == before
    yard = write_video(tmp_path / "yard.mp4", TIMES[:20])
    (tmp_path / "yard.txt").write_text(mot_lines(TIMES[:20]))
    succeed("crop", yard, "-o", crops, "--detections", tmp_path)
    assert {row["id"].split("/")[0] for row in rows(crops)} == {"gate", "yard"}


def test_other_options_and_other_videos_are_refused(street: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    arguments = ("-o", crops, "--detections", street / "gate.txt")
    succeed("crop", street / "gate.mp4", *arguments)
    assert (
        "made with every = 1, and now it is 2"
        in fail(1, "crop", street / "gate.mp4", *arguments, "--every", 2).stderr
    )
    for changed in (("--camera", "yard"), ("--start", "2026"), ("--person", 3)):
        assert "its camera or start" in fail(1, "crop", street / "gate.mp4", *arguments, *changed).stderr
    other = write_video(tmp_path / "gate.mp4", TIMES)
    assert "under the name gate" in fail(1, "crop", other, *arguments).stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "crops.csv").write_text("path\nmine.jpg\n")
    (tmp_path / "mine" / ".x.0123abcd.partial").write_text("mine")
    refused = fail(1, "crop", other, "-o", tmp_path / "mine", "--detections", street / "gate.txt")
    assert "is no folder of crops, and holds crops.csv" in refused.stderr
    assert (tmp_path / "mine" / "crops.csv").read_text() == "path\nmine.jpg\n"
    assert (tmp_path / "mine" / ".x.0123abcd.partial").exists()


def test_a_video_that_changed_is_refused(street: Path, tmp_path: Path) -> None:
    crops, video = tmp_path / "crops", write_video(tmp_path / "gate.mp4", TIMES[:20])
    succeed("crop", video, "-o", crops, "--detections", street)
    write_video(video, TIMES)
    assert "has changed since" in fail(1, "crop", video, "-o", crops, "--detections", street).stderr


def test_detections_that_changed_are_refused(street: Path, tmp_path: Path) -> None:
    crops, boxes = tmp_path / "crops", tmp_path / "gate.txt"
    boxes.write_text(mot_lines(TIMES))
    succeed("crop", street / "gate.mp4", "-o", crops, "--detections", boxes)
    boxes.write_text(mot_lines(TIMES[:30]))
    refused = fail(1, "crop", street / "gate.mp4", "-o", crops, "--detections", boxes)
    assert "what tells its people, has changed" in refused.stderr


def test_two_writers_exclude_each_other(street: Path, tmp_path: Path) -> None:
    import fcntl

    crops = tmp_path / "crops"
    succeed("crop", street / "gate.mp4", "-o", crops, "--detections", street)
    with (crops / "writer.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = fail(1, "crop", street / "gate.mp4", "-o", crops, "--detections", street)
    assert "Another process is writing crops" in refused.stderr


SEGMENTED = ("--segment", "1", "--detections")


def test_segments_are_committed_one_by_one_and_tracks_go_on_counting(street: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    succeed("crop", street / "gate.mp4", "-o", crops, *SEGMENTED, street / "boxes.txt")
    found = rows(crops)
    assert len({row["id"] for row in found}) == 6  # two people in three segments of two seconds
    assert [row["path"] for row in found] == sorted(row["path"] for row in found)


KILLED = """
import os, signal, sys
from tbps_infer.video import crop_folder
committed = crop_folder.CropFolder.{method}
count = 0
def dies(*args, **kwargs):
    global count
    count += 1
    if count > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return committed(*args, **kwargs)
crop_folder.CropFolder.{method} = dies
from tbps_infer.cli.main import main
sys.argv = ["tbps", *{arguments!r}]
main()
"""


@pytest.mark.parametrize(
    ("method", "after"),
    [
        pytest.param("commit", 0, marks=pytest.mark.slow),
        pytest.param("commit", 1, marks=pytest.mark.slow),
        ("_write_progress", 2),  # the list is there, and the progress is not
    ],
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    street: Path, tmp_path: Path, method: str, after: int
) -> None:
    def arguments(crops: str) -> list[str]:
        return ["crop", str(street / "gate.mp4"), "-o", str(tmp_path / crops), *SEGMENTED, str(street / "gate.txt")]

    succeed(*arguments("whole"))
    code = KILLED.format(method=method, after=after, arguments=arguments("killed"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    succeed(*arguments("killed"))
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_damaged_video_loses_its_segment_and_not_the_run(street: Path, tmp_path: Path) -> None:
    times = [k / 10 for k in range(100)]
    file = write_video(tmp_path / "bad.ts", times, key_every=5)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle : middle + 40 * 188] = b"\x55" * (40 * 188)
    file.write_bytes(data)
    (tmp_path / "none.mp4").write_bytes(b"no video")
    labels = tmp_path / "labels"
    labels.mkdir()
    for name, some in (("bad", times), ("gate", TIMES)):
        (labels / f"{name}.txt").write_text(mot_lines(some))
    sources = (file, tmp_path / "none.mp4", street / "gate.mp4")
    crops = tmp_path / "crops"
    done = succeed("crop", *sources, "-o", crops, "--detections", labels)
    assert "left out" in done.stderr and "none.mp4 cannot be decoded" in done.stderr
    assert "frames are missing after" in done.stderr and "numbered otherwise" in done.stderr
    assert {row["id"].split("/")[0] for row in rows(crops)} == {"bad", "gate"}
    assert json.loads((crops / "progress.json").read_text())["sources"]["bad"]["gaps"]
    fail(1, "crop", *sources, "-o", crops, "--detections", labels, "--strict")
    fail(1, "crop", tmp_path / "none.mp4", "-o", tmp_path / "other", "--detections", labels)
    assert not (tmp_path / "other").exists()


def test_boxes_of_another_video_are_told(street: Path, tmp_path: Path) -> None:
    (tmp_path / "late.txt").write_text("900,1,1,1,30,90,1\n")
    done = succeed("crop", street / "gate.mp4", "-o", tmp_path / "crops", "--detections", tmp_path / "late.txt")
    assert "no frame of gate has a box in the detections" in done.stderr


def test_neither_or_both_ways_to_find_people_are_refused(street: Path, tmp_path: Path) -> None:
    arguments = ("crop", street / "gate.mp4", "-o", tmp_path / "crops")
    assert "Give either --detector or --detections" in fail(2, *arguments).stderr
    boxes = ("--detections", street / "gate.txt")
    assert "--device and --threads go with --detector" in fail(2, *arguments, *boxes, "--threads", 1).stderr
    refused = fail(2, *arguments, "--detector", street / "gate.txt", "--person", 1)
    assert "--person goes with --detections" in refused.stderr
    assert not (tmp_path / "crops").exists()


@pytest.mark.slow
def test_a_full_list_is_never_seen_half_written(street: Path, tmp_path: Path) -> None:
    """A reader that opens the list at any moment sees whole rows: it is replaced, not written into."""
    crops = tmp_path / "crops"
    command = [sys.executable, "-m", "tbps_infer.cli.main", "crop", str(street / "gate.mp4"), "-o", str(crops)]
    with subprocess.Popen([*command, *SEGMENTED, str(street / "gate.txt")], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if (crops / "crops.csv").exists():
                text = (crops / "crops.csv").read_text()
                assert text.endswith("\n") and all(len(line.split(",")) == 10 for line in text.splitlines())
            time.sleep(0.02)
    assert process.returncode == 0


def people(*boxes: tuple[float, ...], scores: Any = None) -> Detections:
    found = np.array(boxes, np.float32)
    return Detections(found, np.ones(len(found), np.float32) if scores is None else np.array(scores, np.float32))


def quality(*boxes: tuple[float, ...]) -> list[float]:
    found: list[float] = qualities(people(*boxes), 400, 600).tolist()
    return found


def test_a_good_crop_is_tall_upright_whole_and_unhidden() -> None:
    (plain,) = quality((100, 100, 140, 200))
    assert plain == pytest.approx(100)
    assert quality((100, 100, 180, 300))[0] == pytest.approx(200)  # taller
    assert quality((0, 100, 40, 200))[0] < plain  # cut off
    assert quality((100, 100, 200, 200))[0] < plain  # half a body, or two
    assert quality((100, 100, 110, 200))[0] < plain
    behind, front = quality((100, 100, 140, 200), (120, 110, 160, 210))
    assert behind < 0.5 * plain and behind < front < plain
    assert qualities(people((100, 100, 140, 200), scores=[0.5]), 400, 600)[0] == pytest.approx(50)


def test_weak_boxes_and_moments_that_are_much_worse_give_no_crop() -> None:
    pixels = np.zeros((400, 600, 3), np.uint8)
    selection = Selection(3, 10, min_score=0.4)
    scores = [0.9, 0.3, 0.9, 0.38, 0.8, 0.8, 0.45]
    for number, score in enumerate(scores):
        box = (100, 100, 115, 130) if number == 6 else (100, 100, 140, 200)  # far away
        selection.add(
            Frame(Position(number, number), float(number), pixels, None, ""),
            people(box, scores=[score]),
            np.array([1]),
        )
    ((_, track, chosen),) = selection.ended()
    assert track.last == 6
    assert [candidate.number for candidate in chosen] == [0, 2, 4]


def test_candidates_of_a_long_track_stay_few_and_the_best_stays() -> None:
    selection = Selection(2, 10)
    pixels = np.zeros((400, 600, 3), np.uint8)
    for number in range(1000):
        score = 0.9 if number == 777 else 0.5
        frame = Frame(Position(number, number), number / 10, pixels, None, "")
        selection.add(frame, people((100, 100, 140, 200), scores=[score]), np.array([4]))
    ((track, followed, chosen),) = selection.ended()
    assert (track, followed.first, followed.last) == (4, 0, 99.9)
    assert len(followed._best) <= 8
    assert 777 in [candidate.number for candidate in chosen] and len(chosen) == 2
