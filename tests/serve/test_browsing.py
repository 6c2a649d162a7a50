"""Records without a query, over the API: the newest first, and counts over time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serve_world import World

from tbps_infer.gallery import Gallery
from tbps_infer.serve.browsing import timeline
from tbps_infer.serve.options import Limits, ServeOptions

COUNT = 12
BROWSE = "/api/v1/browse"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("browsed"))
    made.add(range(COUNT))
    return made


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[TestClient]:
    with world.client(ServeOptions(limits=Limits(rate=0))) as made:
        yield made


def _browse(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post(BROWSE, json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_newest_come_first_in_pages(client: TestClient) -> None:
    whole = _browse(client, k=COUNT)
    assert [each["name"] for each in whole["records"]] == [f"{number:03d}.png" for number in reversed(range(COUNT))]
    pages = [_browse(client, k=5, skip=skip)["records"] for skip in (0, 5, 10, 15)]
    assert [each for page in pages for each in page] == whole["records"]
    assert (whole["passing"], whole["total"]) == (COUNT, COUNT)


def test_filters_narrow_the_newest_and_their_timeline(client: TestClient) -> None:
    found = _browse(client, filter={"camera": ["cam_a"], "before": "2024-03-07"})
    assert [each["name"] for each in found["records"]] == ["005.png", "003.png", "001.png"]
    assert found["passing"] == sum(found["timeline"]["counts"]) == 3
    nothing = _browse(client, filter={"camera": ["nowhere"]})
    assert (nothing["records"], nothing["passing"], nothing["timeline"]) == ([], 0, None)


def test_the_timeline_counts_what_clocks_showed(client: TestClient) -> None:
    told = _browse(client, k=0)["timeline"]
    starts = told["start_s"] + told["step_s"] * np.flatnonzero(told["counts"])
    ten_oclock = np.datetime64("2024-03-01T10:00") + np.arange(COUNT) * np.timedelta64(1, "D")
    times = (ten_oclock - np.datetime64("1970-01-01T00:00")).astype("timedelta64[s]").astype(float)
    assert sum(told["counts"]) == COUNT and len(told["counts"]) <= 120
    assert all((starts <= time).any() and (time - starts[starts <= time].max()) < told["step_s"] for time in times)


@pytest.mark.parametrize("span_s", [0, 59, 3600, 86400, 30 * 86400, 3e8, 3e9, 9e10])
def test_a_timeline_of_any_length_fits_a_page(span_s: float) -> None:
    clocks = np.linspace(1.7e9, 1.7e9 + span_s, 1000)
    told = timeline(np.append(clocks, np.nan))
    assert told is not None and sum(told.counts) == 1000 and len(told.counts) <= 120
    assert 86400 % told.step_s == 0 or told.step_s % 86400 == 0
    assert timeline(np.full(3, np.nan)) is None


def test_a_gallery_tells_times_counts_vectors_and_lowest_scores(world: World) -> None:
    with Gallery.open(world.gallery) as gallery:
        lowest, error = gallery.lowest_scores(gallery.embeddings()[:3])
        exact = (gallery.embeddings() @ gallery.embeddings()[:3].T).min(axis=1)
        assert np.abs(lowest - exact).max() <= error < 0.01
        times = gallery.times()
        assert times.shape == (COUNT, 2)
        # The fourth is at 10:00 of a clock at +05:00.
        assert (times[:, 1] - times[:, 0]).tolist() == [0.0] * 3 + [5 * 3600.0] + [0.0] * (COUNT - 4)
        assert gallery.counts_of("camera", ["cam_a", "nowhere"]) == {"cam_a": 6}
        numbers = np.array([7, 2, 7])
        assert (gallery.vectors_of(numbers) == gallery.embeddings()[numbers - 1]).all()


@pytest.mark.parametrize(
    ("asked", "status"),
    [({"k": 201}, 422), ({"k": -1}, 422), ({"filter": {"after": "soon"}}, 422), ({"gallery": ["elsewhere"]}, 404)],
)
def test_what_makes_no_sense_is_refused(client: TestClient, asked: dict[str, Any], status: int) -> None:
    assert client.post(BROWSE, json=asked).status_code == status
