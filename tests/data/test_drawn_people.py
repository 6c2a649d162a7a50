"""The shipped detector finds the people of drawn scenes; the scripts beside it learn what they say."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from places import ROOT

from tbps_infer.data.scenes import SceneOptions, draw_films
from tbps_infer.runners import RunOptions
from tbps_infer.video.boxes import iou
from tbps_infer.video.detector import Detector
from tbps_infer.video.frames import Frame, Position

ASSET = ROOT / "tbps_infer" / "assets" / "drawn-people"
SCRIPTS = ROOT / "examples" / "detector"
UNSEEN = SceneOptions(people=14, first=1, seed=987_654)


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    with Detector.open(ASSET / "detector.json", RunOptions(threads=1)) as opened:
        yield opened


@pytest.mark.parametrize(("height", "camera"), [(360, 0), (360, 1), (540, 0)])
def test_people_on_an_unseen_street_are_found(detector: Detector, height: int, camera: int) -> None:
    """By day and at dusk; who is half hidden or smaller than 48 of 360 pixels need not be found."""
    film = draw_films(dataclasses.replace(UNSEEN, height=height))[camera]
    people = recalled = finds = right = 0
    for number in range(0, UNSEEN.frames, 10):
        drawn = film.frame(number, number / UNSEEN.fps)
        found = detector.detect(Frame(Position(number, 0), 0.0, drawn.pixels, None, ""))
        boxes = found.boxes[found.scores >= detector.spec.track_threshold]
        true = np.array([(b.left, b.top, b.left + b.width, b.top + b.height) for b in drawn.boxes], np.float32)
        clear = np.array([b.visibility >= 0.5 and b.height >= 48 * height / 360 for b in drawn.boxes], bool)
        overlap = iou(true.reshape(-1, 4), boxes) >= 0.5
        people += clear.sum()
        recalled += overlap[clear].any(axis=1).sum()
        finds += len(boxes)
        right += overlap.any(axis=0).sum()
    assert people >= 20
    assert recalled >= 0.85 * people  # 0.934 on twelve cameras (docs/scenes.md)
    assert right >= 0.9 * finds


def test_nobody_is_found_on_an_empty_street(detector: Detector) -> None:
    film = draw_films(dataclasses.replace(UNSEEN, people=1, seconds=5))[0]
    film._walkers.clear()
    found = detector.detect(Frame(Position(0, 0), 0.0, film.frame(0, 0.0).pixels, None, ""))
    assert (found.scores < detector.spec.track_threshold).all()


def test_the_shipped_files_are_small_and_say_what_they_are() -> None:
    import onnx

    graph = ASSET / "drawn-people.onnx"
    assert graph.stat().st_size < 2_000_000
    model = onnx.load(graph)
    assert "has never seen a photograph" in model.doc_string
    assert str(ROOT) not in graph.read_bytes().decode("latin-1")
    assert json.loads((ASSET / "detector.json").read_text())["model"] == graph.name


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The training script as a module; the names of its files are common ones, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("train")
    for name in ("train", "measure", "network", "scenes"):
        if name not in before:
            del sys.modules[name]


def test_cells_in_the_middle_of_a_person_are_to_find_it(train: ModuleType) -> None:
    import torch

    boxes = torch.zeros(1, 3, 5)
    boxes[0, 0] = torch.tensor([16.0, 16, 48, 96, 1.0])
    boxes[0, 1] = torch.tensor([100.0, 20, 130, 110, 0.15])  # almost hidden: neither right nor wrong
    nearest, positive, unclear = train.targets(boxes, 128, 160)
    found = train.cell_centres(128, 160)[positive[0]]
    assert len(found) >= 4
    assert ((found - torch.tensor([32.0, 56.0])).abs() <= torch.tensor([6.4, 16.0])).all()
    assert (nearest[0][positive[0]] == 0).all()
    skipped = train.cell_centres(128, 160)[unclear[0]]
    assert len(skipped) >= 4
    assert ((skipped - torch.tensor([115.0, 65.0])).abs() <= torch.tensor([6.0, 18.0])).all()


def test_variation_moves_boxes_with_their_pixels(train: ModuleType) -> None:
    import torch

    pixels = torch.zeros(4, 192, 320, 3, dtype=torch.uint8)
    pixels[:, 40:120, 200:240] = 200
    boxes = torch.tensor([200.0, 40, 240, 120, 1.0]).repeat(4, 1, 1)
    checked = 0
    for seed in range(8):
        moved, where = train.varied(pixels, boxes, np.random.default_rng(seed))
        assert moved.shape == pixels.shape
        left, top, right, bottom, shown = where[0, 0].tolist()
        if shown < 0.99:
            continue
        middle = round((left + right) / 2), round((top + bottom) / 2)
        for x, y, inside in (
            (left + 2, middle[1], True),
            (right - 3, middle[1], True),
            (middle[0], top + 2, True),
            (middle[0], bottom - 3, True),
            (left - 3, middle[1], False),
            (middle[0], top - 3, False),
        ):
            assert bool((moved[:, round(y), round(x)] > 0).all()) == inside
        checked += 1
    assert checked >= 4


@pytest.mark.slow
def test_the_scripts_train_measure_and_export(tmp_path: Path) -> None:
    weights, out = tmp_path / "weights.pt", tmp_path / "out"
    for script in (
        ["train.py", "-o", str(weights), "--streets", "1", "--steps", "6", "--batch", "4"],
        ["export.py", str(weights), "-o", str(out)],
    ):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *script], cwd=SCRIPTS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "people, precision" in done.stdout
    with Detector.open(out / "detector.json", RunOptions(threads=1)) as opened:
        assert len(opened.detect(Frame(Position(0, 0), 0.0, np.zeros((360, 640, 3), np.uint8), None, ""))) >= 0
