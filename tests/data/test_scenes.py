"""Drawn street videos: the same from the same numbers, and a truth that is true to the pixels."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer.data.scenes import SceneOptions, TrueBox, draw_films, read_truth, write_scenes
from tbps_infer.data.scenes.film import Film
from tbps_infer.data.scenes.view import View, plan_view
from tbps_infer.data.scenes.walks import Walk, plan_walks
from tbps_infer.data.synth import SynthOptions, draw_people, write_dataset
from tbps_infer.errors import BackendError, DatasetError, UsageError

SMALL = SceneOptions(people=4, first=3, seconds=3, fps=5, height=180, seed=2)
PEOPLE = dict(enumerate(islice(draw_people(2), 40), start=1))
BARE = dataclasses.replace(plan_view(2, 0, (180, 320), False), doors=())


def walk(origin: tuple[float, float], end: tuple[float, float], identity: int = 1, speed: float = 1.0) -> Walk:
    return Walk(identity, PEOPLE[identity], 1.7, 0.0, origin, end, speed)


def film_of(*walks: Walk, view: View = BARE, obstacles: bool = False) -> Film:
    film = Film(view, list(walks), 2)
    if not obstacles:
        film._obstacles.clear()
    return film


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "out"
    calls: list[tuple[int, int]] = []
    report = write_scenes(out, SMALL, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 30) for done in range(1, 31)]
    assert (report.out, report.cameras, report.frames) == (out, 2, 30)
    assert report.people == len({row["id"] for row in rows(out / "tracks.csv")})
    assert report.tracks == len(rows(out / "tracks.csv"))
    return out


def test_the_files_depend_on_the_options_alone(scenes: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(scenes)
    names = {"cam_a.mp4", "cam_a.txt", "cam_b.mp4", "cam_b.txt", "tracks.csv", "captions.csv", "scenes.json"}
    assert set(contents(scenes)) == names
    assert json.loads((scenes / "scenes.json").read_text())["options"] == dataclasses.asdict(SMALL)


def test_the_truth_is_what_the_films_have(scenes: Path) -> None:
    tracks = {(row["camera"], int(row["track"])): row for row in rows(scenes / "tracks.csv")}
    for film in draw_films(SMALL):
        expected = []
        for number in range(SMALL.frames):
            for box in film.frame(number, number / SMALL.fps).boxes:
                place = f"{box.left},{box.top},{box.width},{box.height}"
                expected.append(f"{number + 1},{box.track},{place},1,1,{box.visibility:.3f}")
        name = film.view.camera.name
        assert (scenes / f"{name}.txt").read_text().splitlines() == expected
        for track, each in enumerate(film.walks, start=1):
            frames = [int(line.split(",")[0]) for line in expected if line.split(",")[1] == str(track)]
            row = tracks.pop((name, track), None)
            assert (row is None) == (not frames)
            if row is not None:
                assert (int(row["first"]), int(row["last"])) == (frames[0], frames[-1])
                assert int(row["id"]) == each.identity
    assert tracks == {}


def test_the_video_shows_the_frames(scenes: Path) -> None:
    import av

    film = draw_films(SMALL)[0]
    with av.open(str(scenes / "cam_a.mp4")) as container:
        decoded = list(container.decode(video=0))
    assert [frame.time for frame in decoded] == pytest.approx([n / 5 for n in range(SMALL.frames)])
    for number in (0, 14):
        drawn = film.frame(number, number / 5).pixels.astype(int)
        assert np.abs(decoded[number].to_ndarray(format="rgb24") - drawn).mean() < 6


def test_sentences_are_those_of_the_data_set(scenes: Path, tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "synth", SynthOptions(test=6, only=("test",), train=0, val=0, pictures=1, seed=2, workers=1)
    )
    written = json.loads((tmp_path / "synth" / "reid_raw.json").read_text())
    captions = {record["id"]: record["captions"] for record in written}
    described = rows(scenes / "captions.csv")
    for identity in {int(row["person"]) for row in described}:
        assert [row["text"] for row in described if row["person"] == str(identity)] == captions[identity]
    for row in rows(scenes / "tracks.csv"):
        assert row["caption"] == captions[int(row["id"])][0]


def test_frames_can_be_drawn_in_any_order() -> None:
    one, other = (draw_films(SMALL)[1] for _ in range(2))
    later = one.frame(9, 1.8).pixels
    one.frame(3, 0.6)
    assert np.array_equal(later, other.frame(9, 1.8).pixels)
    assert np.array_equal(one.frame(3, 0.6).pixels, other.frame(3, 0.6).pixels)


def changed(film: Film, time: float) -> NDArray[np.bool_]:
    """Where the people of a film change a picture."""
    empty = Film(film.view, [], 2)
    empty._obstacles[:] = film._obstacles
    here, there = film.frame(0, time).pixels.astype(int), empty.frame(0, time).pixels.astype(int)
    return np.asarray(np.abs(here - there).max(axis=2) > 12)


@pytest.mark.parametrize(("x", "z"), [(-1.0, 5.0), (0.3, 8.0), (1.5, 11.0)])
def test_a_box_is_as_large_as_what_is_drawn(x: float, z: float) -> None:
    film = film_of(walk((x, z), (x + 3, z)))
    (box,) = film.frame(0, 1.0).boxes
    there = changed(film, 1.0)
    # The shadow on the ground is no part of the person.
    above = there[: box.top + round(0.9 * box.height)]
    found, across = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    assert found[0] == pytest.approx(box.top, abs=1)
    assert across[0] >= box.left - 1
    assert across[-1] <= box.left + box.width
    assert there[box.top : box.top + box.height, box.left : box.left + box.width].mean() > 0.3
    assert box.height == pytest.approx(1.7 * film.view.scale(z), rel=0.08)
    assert box.visibility == 1


def test_who_stands_behind_somebody_is_hidden() -> None:
    near, far = walk((-1, 5), (2, 5)), walk((-1.04, 5.2), (2.08, 5.2), identity=2)
    hidden, whole = film_of(far, near).frame(0, 1.0).boxes
    assert whole.visibility == 1
    assert hidden.visibility < 0.6
    assert hidden.height > 0.9 * whole.height  # what is hidden belongs to the box


def test_who_leaves_the_picture_is_cut_off() -> None:
    edge = BARE.edge(5)
    film = film_of(walk((edge - 1, 5), (edge + 1, 5)))
    seen: list[TrueBox] = [box for step in range(20) for box in film.frame(step, step / 10).boxes]
    assert len(seen) < 20
    assert all(0 < box.left + box.width <= 320 and box.left >= 0 for box in seen)
    shares = [box.visibility for box in seen]
    assert shares[0] == 1
    assert shares[-1] < 0.3
    assert shares == sorted(shares, reverse=True)


def test_obstacles_hide_people() -> None:
    view = BARE
    film = film_of(walk((-view.edge(12), 12), (view.edge(12), 12), speed=2), view=view, obstacles=True)
    shares = [box.visibility for step in range(60) for box in film.frame(0, step / 10).boxes]
    assert min(shares) < 0.9
    assert max(shares) == 1


def test_walks_turn_the_figure_the_way_it_goes() -> None:
    assert walk((0, 10), (0, 5)).yaw == 0
    assert walk((0, 5), (0, 10)).yaw == pytest.approx(math.pi)
    assert walk((0, 5), (3, 5)).yaw == pytest.approx(math.pi / 2)


@pytest.mark.parametrize("cameras", [1, 2, 4])
def test_everybody_comes_by_and_is_in_one_place_at_a_time(cameras: int) -> None:
    views = [plan_view(2, number, (180, 320), False) for number in range(cameras)]
    walks = [each for view in plan_walks(PEOPLE, views, 30.0, 2) for each in view]
    for identity in PEOPLE:
        own = sorted((each for each in walks if each.identity == identity), key=lambda each: each.start)
        assert own
        assert own[0].start < 30 - 3
        for one, other in pairwise(own):
            assert one.start + one.duration < other.start


def test_dusk_is_darker() -> None:
    day, dusk = (
        draw_films(dataclasses.replace(SMALL, light=light, cameras=1))[0].frame(0, 0.0).pixels.mean()
        for light in ("day", "dusk")
    )
    assert dusk < 0.85 * day


@pytest.mark.parametrize(
    "wrong",
    [
        {"cameras": 0}, {"cameras": 7}, {"people": 0}, {"first": 0}, {"seconds": 0.5}, {"seconds": math.nan},
        {"fps": 0}, {"height": 95}, {"light": "night"}, {"captions": 0},
    ],
)  # fmt: skip
def test_options_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        dataclasses.replace(SMALL, **wrong)  # type: ignore[arg-type]


def test_a_folder_that_holds_something_is_left_alone(scenes: Path) -> None:
    before = contents(scenes)
    with pytest.raises(DatasetError, match="not empty"):
        write_scenes(scenes, SMALL)
    assert contents(scenes) == before


def test_without_pyav_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BackendError) as caught:
        write_scenes(tmp_path / "out", SMALL)
    assert "tbps-infer[video]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_truth_read_back_tells_who_is_where(scenes: Path) -> None:
    truth = read_truth(scenes)
    assert sorted(text for text, _ in truth.descriptions) == sorted(
        {r["caption"] for r in rows(scenes / "tracks.csv")}
    )
    film = draw_films(SMALL)[1]
    boxes = [(number, box) for number in range(SMALL.frames) for box in film.frame(number, number / SMALL.fps).boxes]
    assert len(boxes) > 10
    clear = [(number, box) for number, box in boxes if box.visibility > 0.9]
    for number, box in clear:
        place = (box.left + 1.0, float(box.top), float(box.width), float(box.height))
        assert truth.identity("cam_b", number, place) == film.walks[box.track - 1].identity
    number, box = clear[0]
    assert truth.identity("cam_b", number, (box.left + box.width, box.top, box.width, box.height)) is None
    assert truth.identity("cam_b", SMALL.frames, (0, 0, 10, 10)) is None


def test_a_folder_without_truth_says_so(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"tracks\.csv"):
        read_truth(tmp_path)
    (tmp_path / "tracks.csv").write_bytes((scenes / "tracks.csv").read_bytes())
    (tmp_path / "cam_a.txt").write_text("1,1,left,2,3,4,1,1,1\n")
    with pytest.raises(DatasetError, match="left"):
        read_truth(tmp_path)
