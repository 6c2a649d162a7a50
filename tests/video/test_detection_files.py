"""MOTChallenge text, COCO JSON and Ultralytics' labels: what they mean, and odd files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbps_infer.errors import VideoError
from tbps_infer.video.detection_files import DetectionFile, detections_of, open_detections
from tbps_infer.video.frames import Frame, Position


def detect(file: DetectionFile, number: int, name: str = "/videos/gate.mp4") -> list[list[float]]:
    """Boxes in a frame of 100 × 200 pixels."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    boxes: list[list[float]] = file.detect(Frame(Position(number, number), 0.0, pixels, None, name)).boxes.tolist()
    return boxes


def test_images_of_two_videos_and_tracks_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    images = [{"id": number, "frame_id": 0, "video_id": number} for number in (1, 2)]
    person = {"id": 1, "name": "person"}
    file = tmp_path / "two.json"
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": [person]}))
    with pytest.raises(VideoError, match="two of the images are frame 0"):
        open_detections(file)
    with pytest.raises(VideoError, match="track's number is 1e"):
        open_detections(mot(tmp_path, "1,1e30,1,2,30,40,1\n"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "gate_1.txt").write_text("0 .5 .5 .1 .5 .9 nan\n")
    with pytest.raises(VideoError, match="not finite"):
        open_detections(tmp_path / "labels")


def mot(folder: Path, text: str) -> Path:
    (folder / "gate.txt").write_text(text)
    return folder / "gate.txt"


def test_mot_frames_count_from_one_and_only_people_who_count_are_taken(tmp_path: Path) -> None:
    file = open_detections(
        mot(
            tmp_path,
            "2,1,10,20,30,40,1,1,0.9\n"
            "2,2,0,0,9,9,0,1,1\n"  # not to be considered
            "2,3,0,0,9,9,1,3,1\n"  # a car
            "1,1,-5,90,20,30,1,1,1\n"  # over the borders
            "1,1,300,0,5,5,1,1,1\n",  # outside
        )
    )
    assert file.tracked
    assert detect(file, 1) == [[10, 20, 40, 60]]
    assert detect(file, 0) == [[0, 90, 15, 100]]
    assert detect(file, 7) == []


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("1,-1,1,2,3,4,0.25\r\n1,-1,1,2,3,4,-1\r\n", [0.25, 1]),  # no classes, Windows' line ends
        ("1 -1 1 2 3 4 0.5\n\n", [0.5]),  # blanks
        ("1,-1,1.5,2.5,3,4,0.5,-1,-1,-1\n", [0.5]),  # MOT15 detections
        ("1,-1,1,2,3,4,1,0.4,3.2,0\n", [1]),  # MOT15, with a position
        ("1,-1,1,2,3,4\n", [1]),
        ("\ufeff1, -1, 1, 2, 3, 4, 0.75, 1, 1,\n", [0.75]),  # a mark, blanks, and a comma at the end
        ("1.0,-1.0,1,2,3,4,5e-1\n", [0.5]),
    ],
)
def test_mot_in_the_forms_that_programs_write(tmp_path: Path, text: str, scores: list[float]) -> None:
    file = open_detections(mot(tmp_path, text))
    assert not file.tracked
    assert file.frames[0].scores.tolist() == scores


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("frame,id,left\n", "line 1: 'frame,id,left' is not a line of numbers"),
        ("1,1,2\n", "line 1: there are 3 numbers, want 6 to 10"),
        ("1,-1,1,2,3,4,1\n0,-1,1,2,3,4,1\n", "line 2: the frame is 0"),
        ("1.5,-1,1,2,3,4,1\n", "the frame is 1.5"),
        ("1,-1,1,2,3,4,31.7\n", "line 1: the confidence is 31.7, want 0 to 1"),
        ("1,-1,1,2,-3,4,1\n", "the box 1, 2, -3, 4 is none"),
        ("1,-1,nan,2,3,4,1\n", "is none"),
        ("1,1,1,2,3,4,1\n2,-1,1,2,3,4,1\n", "line 2: this box has no track's number"),
        ("1,-1,1,2,3,4,1\n2,5,1,2,3,4,1\n", "line 2: this box has a track's number"),
    ],
)
def test_mot_that_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(VideoError, match=told):
        open_detections(mot(tmp_path, text))


def coco(folder: Path, values: Any) -> Path:
    (folder / "gate.json").write_text(json.dumps(values))
    return folder / "gate.json"


def annotated(**more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "frames/a_001.jpg"}, {"id": 8, "file_name": "b.jpg", "frame_id": 4}],
        "categories": [{"id": 3, "name": "Person"}, {"id": 1, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5},
            {"image_id": 8, "category_id": 3, "bbox": [5, 6, 7, 8]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9]},
        ],
    } | more


def test_coco_finds_frames_by_name_and_by_number(tmp_path: Path) -> None:
    file = open_detections(coco(tmp_path, annotated()))
    assert detect(file, 99, "/frames/a_001.jpg") == [[1, 2, 4, 6]]
    assert detect(file, 4) == [[5, 6, 12, 14]]
    assert not file.tracked


def test_coco_results_count_frames_from_one(tmp_path: Path) -> None:
    results = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
    results += [{"image_id": "b", "category_id": 1, "bbox": [1, 1, 1, 1], "score": 0.5}]
    file = open_detections(coco(tmp_path, results))
    assert detect(file, 0) == [[1, 2, 4, 6]]
    assert detect(file, 9, "/frames/b.png") == [[1, 1, 2, 2]]
    assert detect(open_detections(coco(tmp_path, results), person=0), 0) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"images": []}, "annotations is missing|categories is missing"),
        (annotated(categories=[{"id": 1, "name": "car"}]), "none of the categories car is person"),
        (annotated(annotations=[{"image_id": 1, "category_id": 3, "bbox": [0] * 4}]), "which no image has"),
        (annotated(annotations=[{"image_id": 7, "category_id": 3, "bbox": [0] * 3}]), "bbox has 3 numbers"),
        (7, "want a JSON object"),
        ([{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "image_id is 0"),
    ],
)
def test_coco_that_is_wrong_is_told(tmp_path: Path, values: Any, told: str) -> None:
    with pytest.raises(VideoError, match=told):
        open_detections(coco(tmp_path, values))


def test_ultralytics_labels_are_relative_and_named_by_video_and_frame(tmp_path: Path) -> None:
    (tmp_path / "gate_2.txt").write_text("0 0.5 0.5 0.1 0.2 0.75\n16 0.5 0.5 0.1 0.2 0.9\n")
    (tmp_path / "other_2.txt").write_text("0 0.1 0.5 0.1 0.2 0.5\n")
    file = open_detections(tmp_path)
    assert np.array(detect(file, 1)) == pytest.approx(np.array([[90, 40, 110, 60]]), abs=1e-3)
    assert detect(file, 0) == []
    assert file.frames["gate_2"].scores.tolist() == [0.75]
    assert not file.tracked


def test_a_sixth_number_above_one_is_a_track(tmp_path: Path) -> None:
    (tmp_path / "gate_1.txt").write_text("0 0.5 0.5 0.1 0.2 1\n")
    (tmp_path / "gate_2.txt").write_text("0 0.5 0.5 0.1 0.2 2\n")
    file = open_detections(tmp_path)
    tracks = file.frames["gate_2"].tracks
    assert file.tracked and tracks is not None and tracks.tolist() == [2]
    (tmp_path / "gate_2.txt").write_text("0 0.5 0.5 0.1 0.2 0.5 9\n")
    (tmp_path / "gate_1.txt").write_text("0 0.5 0.5 0.1 0.2 0.5 9\n")
    tracks = open_detections(tmp_path).frames["gate_1"].tracks
    assert tracks is not None and tracks.tolist() == [9]
    (tmp_path / "gate_1.txt").write_text("0 0.5 0.5 0.1 0.2 87.5\n")
    with pytest.raises(VideoError, match=r"gate_1.txt, line 1: the id is 87.5, want a whole number"):
        open_detections(tmp_path)


def test_a_folder_may_hold_a_file_for_each_source(tmp_path: Path) -> None:
    assert detections_of(mot(tmp_path, "").parent, "gate") == tmp_path / "gate.txt"
    assert detections_of(tmp_path, "yard") == tmp_path
    assert detections_of(tmp_path / "gate.txt", "yard") == tmp_path / "gate.txt"


def test_what_is_no_file_of_detections_is_told(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("")
    with pytest.raises(VideoError, match="holds no detections that can be read"):
        open_detections(tmp_path / "boxes.csv")
    (tmp_path / "labels").mkdir()
    with pytest.raises(VideoError, match=r"holds no \.txt file"):
        open_detections(tmp_path / "labels")
