"""Each decoder reads a made-up graph of its convention; declarations and graphs that do not fit are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fail, succeed
from numpy.typing import NDArray
from videos import write_video

from tbps_infer.errors import DetectorError, UsageError
from tbps_infer.runners import Feeds, RunOptions
from tbps_infer.video.boxes import Detections, suppress
from tbps_infer.video.detector import Detector
from tbps_infer.video.detector_file import read_detector
from tbps_infer.video.frames import Frame, Position

SIZE = (64, 96)
"""Height and width of the graphs' input."""
BOX = (30.0, 10.0, 60.0, 50.0)
"""The person in it, corners."""

Arrays = Mapping[str, NDArray[Any]]


def frame(height: int, width: int, value: int = 0) -> Frame:
    return Frame(Position(0, 0), 0.0, np.full((height, width, 3), value, np.uint8), None, "")


def write_graph(file: Path, outputs: Arrays, *, dtype: int | None = None, sizes: bool = False) -> None:
    """A graph that takes pixels and gives these arrays, whatever the pixels are."""
    from onnx import TensorProto, helper, numpy_helper, save

    inputs = [helper.make_tensor_value_info("images", dtype or TensorProto.FLOAT, [1, 3, *SIZE])]
    if sizes:
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2]))
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.ascontiguousarray(array), name))
        for name, array in outputs.items()
    ]
    told = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in outputs.items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "made-up", inputs, told), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    save(model, file)


def declare(folder: Path, gives: Arrays, /, *, sizes: bool = False, **values: Any) -> Path:
    write_graph(folder / "graph.onnx", gives, sizes=sizes)
    values = {"model": "graph.onnx", "input_size": list(SIZE), "resize": "stretch", **values}
    (folder / "detector.json").write_text(json.dumps(values))
    return folder / "detector.json"


def recorded(detector: Detector) -> list[NDArray[Any]]:
    """What the graph is fed from now on, as it comes."""
    fed: list[NDArray[Any]] = []
    run = detector.runner.run

    def record(feeds: Feeds) -> dict[str, NDArray[Any]]:
        fed.append(feeds["images"])
        return run(feeds)

    detector.runner.run = record  # type: ignore[method-assign]
    return fed


def centre_size(box: tuple[float, ...]) -> list[float]:
    left, top, right, bottom = box
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def postprocessed() -> Arrays:
    boxes = np.array([[BOX, (0, 0, 9, 9), (1, 1, 8, 8)]], np.float32)
    return {
        "labels": np.array([[2, 0, 2]], np.int64),
        "boxes": boxes,
        "scores": np.array([[0.9, 0.8, 0.05]], np.float32),
    }


def detr_logits() -> Arrays:
    relative = np.array(centre_size(BOX)) / np.array([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    logits = np.full((1, 4, 5), -9.0, np.float32)
    logits[0, 3, 2] = np.log(0.9 / 0.1)
    logits[0, 1, 0] = 5
    dets = np.tile(np.array([0.5, 0.5, 0.1, 0.1], np.float32), (1, 4, 1))
    dets[0, 3] = relative
    return {"dets": dets, "labels": logits}


def grid_place(stride: int, row: int, column: int) -> int:
    """The place of a cell in grids of the strides 8, 16 and 32, one after the other."""
    before = sum((SIZE[0] // s) * (SIZE[1] // s) for s in (8, 16, 32) if s < stride)
    return before + row * (SIZE[1] // stride) + column


CELLS = sum((SIZE[0] // s) * (SIZE[1] // s) for s in (8, 16, 32))


def yolox() -> Arrays:
    rows = np.zeros((1, CELLS, 5 + 3), np.float32)
    x, y, width, height = centre_size(BOX)
    for stride, score in ((16, 0.9), (8, 0.7)):  # the second is the same person again
        row, column = int(y // stride), int(x // stride)
        place = grid_place(stride, row, column)
        rows[0, place, :4] = (x / stride - column, y / stride - row, np.log(width / stride), np.log(height / stride))
        rows[0, place, 4:] = (score, 0.1, 0.2, 1.0)
    return {"output": rows}


def gfl() -> Arrays:
    stride, row, column = 16, 2, 3
    rows = np.zeros((1, CELLS, 3 + 4 * 8), np.float32)
    place = grid_place(stride, row, column)
    distances = (column * stride - BOX[0], row * stride - BOX[1], BOX[2] - column * stride, BOX[3] - row * stride)
    for side, distance in enumerate(distances):
        low = int(distance / stride)
        share = distance / stride - low
        bins = np.full(8, -30.0)  # two neighbouring bins hold all of the weight
        bins[low], bins[low + 1] = np.log(max(1 - share, 1e-9)), np.log(max(share, 1e-9))
        rows[0, place, 3 + 8 * side : 3 + 8 * (side + 1)] = bins
    rows[0, place, 2] = 0.9
    return {"output": rows}


def with_labels() -> Arrays:
    return {
        "boxes": np.array([BOX, (0, 0, 9, 9)], np.float32),
        "scores": np.array([0.9, 0.8], np.float32),
        "labels": np.array([2, 1], np.int64),
    }


def each_class(*, classes_first: bool) -> Arrays:
    boxes = np.zeros((1, 6, 4), np.float32)
    boxes[0, 4] = BOX
    boxes[0, 5] = np.array(BOX) + 1
    scores = np.zeros((1, 6, 3), np.float32)
    scores[0, 4:, 2], scores[0, 1, 0] = (0.9, 0.6), 1
    return {"boxes": boxes, "scores": scores.transpose(0, 2, 1) if classes_first else scores}


@pytest.mark.parametrize(
    ("decoder", "outputs", "values"),
    [
        ("postprocessed", postprocessed(), {"sizes": True}),
        ("detr-logits", detr_logits(), {}),
        ("yolox", yolox(), {}),
        ("gfl", gfl(), {}),
        ("boxes-scores", with_labels(), {}),
        ("boxes-scores", each_class(classes_first=False), {}),
        ("boxes-scores", each_class(classes_first=True), {}),
    ],
    ids=["postprocessed", "detr-logits", "yolox", "gfl", "labels", "classes last", "classes first"],
)
def test_a_decoder_finds_the_person_where_the_graph_says(
    tmp_path: Path, decoder: str, outputs: Arrays, values: dict[str, Any]
) -> None:
    file = declare(tmp_path, outputs, decoder=decoder, person=2, **values)
    with Detector.open(file, RunOptions(threads=1)) as detector:
        found = detector.detect(frame(2 * SIZE[0], 3 * SIZE[1]))
    assert found.scores == pytest.approx([0.9], abs=1e-3)
    assert found.boxes[0] == pytest.approx([3 * BOX[0], 2 * BOX[1], 3 * BOX[2], 2 * BOX[3]], abs=0.05)


def test_relative_boxes_by_centre_and_size_are_read_as_declared(tmp_path: Path) -> None:
    relative = np.array(centre_size(BOX), np.float32) / np.array([SIZE[1], SIZE[0]] * 2, np.float32)
    outputs: Arrays = {"b": relative[None, None], "s": np.array([[0.5]], np.float32)}
    names = {"boxes": "b", "scores": "s"}
    file = declare(tmp_path, outputs, decoder="boxes-scores", box_format="cxcywh", box_unit="relative", outputs=names)
    with Detector.open(file, RunOptions(threads=1)) as detector:
        assert detector.detect(frame(*SIZE)).boxes[0] == pytest.approx(BOX, abs=1e-3)


@pytest.mark.parametrize(("place", "corner"), [("corner", (0, 0)), ("centre", (16, 0))])
def test_a_letterbox_keeps_the_shape_and_boxes_come_back(tmp_path: Path, place: str, corner: tuple[int, int]) -> None:
    inside = np.array(BOX, np.float32)
    outputs = {"boxes": inside[None], "scores": np.array([1.0], np.float32)}
    file = declare(tmp_path, outputs, decoder="boxes-scores", resize="letterbox", place=place, fill=7, mean=[0, 0, 0])
    with Detector.open(file, RunOptions(threads=1)) as detector:
        fed = recorded(detector)
        found = detector.detect(frame(128, 128, 200))  # 64 × 64 in 64 × 96
    left, top = corner
    picture = fed[0][0].transpose(1, 2, 0)
    assert (picture[:, left : left + 64] == 200).all()
    assert (picture[:, :left] == 7).all() and (picture[:, left + 64 :] == 7).all()
    expected = np.clip((inside - [left, top, left, top]) * 2, 0, 128)
    assert found.boxes[0] == pytest.approx(expected, abs=1e-3)


def test_pixels_are_normalised_in_the_order_in_which_they_are_fed(tmp_path: Path) -> None:
    outputs = {"boxes": np.zeros((1, 4), np.float32), "scores": np.zeros(1, np.float32)}
    file = declare(tmp_path, outputs, decoder="boxes-scores", colour="bgr", mean=[1, 2, 3], std=[2, 4, 8])
    with Detector.open(file, RunOptions(threads=1)) as detector:
        fed = recorded(detector)
        pixels = np.tile(np.array([10, 20, 30], np.uint8), (*SIZE, 1))
        assert len(detector.detect(Frame(Position(0, 0), 0.0, pixels, None, ""))) == 0
    assert fed[0].shape == (1, 3, *SIZE)
    assert fed[0][0, :, 0, 0].tolist() == [(30 - 1) / 2, (20 - 2) / 4, (10 - 3) / 8]


def test_suppression_keeps_the_best_of_boxes_that_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]], np.float32)
    found = suppress(Detections(boxes, np.array([0.5, 0.9, 0.3], np.float32)), 0.5)
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    assert found.boxes[0].tolist() == [1, 0, 11, 10]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"decoder": "yolo"}, "decoder is 'yolo', want postprocessed or"),
        ({"decoder": "yolox", "thresholds": 1}, "thresholds is not known"),
        ({"decoder": "yolox", "input_size": [320]}, "want \\[height, width\\]"),
        ({"decoder": "yolox", "std": [1, 1, 0]}, "want numbers above 0"),
        ({"decoder": "yolox", "mean": [1]}, "mean has 1 numbers, want 3"),
        ({"decoder": "yolox", "score_threshold": 1.5}, "score_threshold is 1.5, want 0 to 1"),
        ({"decoder": "detr-logits", "strides": [8]}, "strides means nothing to the decoder detr-logits"),
        ({"decoder": "yolox", "model": "../graph.onnx"}, "leads out of the file's folder"),
        ({"decoder": "yolox", "model": "other.onnx"}, "other.onnx, which is not there"),
        ({"decoder": "yolox", "outputs": {"boxes": "b"}}, "outputs.boxes is not known"),
        ({}, "decoder is missing"),
    ],
)
def test_a_declaration_that_is_wrong_is_told(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    file = declare(tmp_path, {"output": np.zeros((1, 1, 8), np.float32)}, **values)
    with pytest.raises(DetectorError, match=told):
        read_detector(file)


@pytest.mark.parametrize(
    ("outputs", "values", "told"),
    [
        (
            {"out": np.zeros((1, 1, 4), np.float32)},
            {"decoder": "boxes-scores"},
            "has no output 'boxes'; it has 'out'",
        ),
        ({"output": np.zeros((1, 5, 8), np.float32)}, {"decoder": "yolox"}, "gave 5 boxes, and grids"),
        ({"output": np.zeros((1, CELLS, 7), np.float32)}, {"decoder": "yolox", "person": 2}, "has 2 classes"),
        ({"output": np.zeros((1, CELLS, 20), np.float32)}, {"decoder": "gfl"}, "4 · 8 bins"),
        ({"output": yolox()["output"]}, {"decoder": "yolox", "input_size": [32, 96]}, "its JSON file says"),
        (
            {"boxes": np.zeros((2, 4), np.float32), "scores": np.array([0.5, 7], np.float32)},
            {"decoder": "boxes-scores"},
            "gave a score of 7, want 0 to 1",
        ),
        (
            {"boxes": np.full((1, 4), np.nan, np.float32), "scores": np.ones(1, np.float32)},
            {"decoder": "boxes-scores"},
            "not finite",
        ),
        (
            {"boxes": np.zeros((2, 4), np.float32), "scores": np.ones(3, np.float32)},
            {"decoder": "boxes-scores"},
            "gave 2 and 3 boxes",
        ),
        (
            {"labels": np.zeros((1, 2), np.int64), "boxes": np.zeros((1, 2, 5), np.float32)}
            | {"scores": np.zeros((1, 2), np.float32)},
            {"decoder": "postprocessed"},
            "gave boxes as \\[1, 2, 5\\]",
        ),
    ],
)
def test_a_graph_that_is_not_as_declared_is_told(
    tmp_path: Path, outputs: Arrays, values: dict[str, Any], told: str
) -> None:
    file = declare(tmp_path, outputs, **values)
    with pytest.raises(DetectorError, match=told), Detector.open(file, RunOptions(threads=1)) as detector:
        detector.detect(frame(*SIZE))


def test_a_graph_of_uint8_normalises_by_itself(tmp_path: Path) -> None:
    from onnx import TensorProto

    outputs = {"boxes": np.array([BOX], np.float32), "scores": np.ones(1, np.float32)}
    file = declare(tmp_path, outputs, decoder="boxes-scores", mean=[1, 1, 1])
    write_graph(tmp_path / "graph.onnx", outputs, dtype=TensorProto.UINT8)
    with pytest.raises(DetectorError, match="takes uint8, and its JSON file has a mean"):
        Detector.open(file, RunOptions(threads=1))
    file = declare(tmp_path, outputs, decoder="boxes-scores")
    write_graph(tmp_path / "graph.onnx", outputs, dtype=TensorProto.UINT8)
    with Detector.open(file, RunOptions(threads=1)) as detector:
        assert len(detector.detect(frame(*SIZE))) == 1


def test_the_command_crops_whom_a_detector_finds(tmp_path: Path) -> None:
    relative = np.array([[0.1, 0.2, 0.2, 0.7], [0.5, 0.5, 0.6, 0.9]], np.float32)  # for 0.4 no track begins
    outputs = {"boxes": relative, "scores": np.array([0.9, 0.4], np.float32)}
    file = declare(tmp_path, outputs, decoder="boxes-scores", box_unit="relative")
    video = write_video(tmp_path / "gate.mp4", [k / 10 for k in range(10)])
    crops = tmp_path / "crops"
    done = succeed("crop", video, "-o", crops, "--detector", file, "--per-track", 1)
    assert "10 frames of 0.9 s, 1 tracks, 1 crops" in done.stdout
    (row,) = (crops / "crops.csv").read_text().splitlines()[1:]
    assert "32 38 32 97" in row
    write_graph(tmp_path / "graph.onnx", outputs | {"more": np.zeros(1, np.float32)})
    assert "made with detector" in fail(1, "crop", video, "-o", crops, "--detector", file, "--per-track", 1).stderr


def test_a_backend_that_does_not_run_graphs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tensorrt does not run a detector's graph"):
        Detector.open(tmp_path / "detector.json", RunOptions(backend="tensorrt", device="cuda"))


def test_a_graph_of_boxes_alone_is_no_yolox(tmp_path: Path) -> None:
    cells = 8 * 12 + 4 * 6 + 2 * 3
    file = declare(tmp_path, {"output": np.ones((1, cells, 4), np.float32)}, decoder="yolox")
    with Detector.open(file) as detector, pytest.raises(DetectorError, match="objectness and classes"):
        detector.detect(frame(*SIZE))
