"""Back to the video over the API: a record's frame and the seconds around it, of its own video alone."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serve_world import World
from videos import HEIGHT, WIDTH, draw, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "gate.mp4", [k / 10 for k in range(60)])


def test_a_record_shows_its_frame_and_the_seconds_around_it(tmp_path: Path, video: Path) -> None:
    world = World(tmp_path)
    world.add_with({"video": str(video), "offset": 3.0, "box": "124 40 30 70"})
    with world.client() as client:
        answer = client.get("/api/v1/records/1/frame")
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
        frame = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
        assert frame.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(frame - draw(3.0)).mean() < 8
        strip = Image.open(io.BytesIO(client.get("/api/v1/records/1/strip").content))
        assert strip.width == 7 * 320 + 6 * 4 and strip.height == HEIGHT
        etag = answer.headers["etag"]
        assert client.get("/api/v1/records/1/frame", headers={"If-None-Match": etag}).status_code == 304
        os.utime(video, (1, 1))
        assert client.get("/api/v1/records/1/frame", headers={"If-None-Match": etag}).status_code == 200


def test_a_record_without_a_video_or_with_one_that_is_gone_says_so(tmp_path: Path, video: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    world = World(tmp_path)
    world.add_with(
        {"camera": "gate"},
        {"video": "/nowhere/gate.mp4", "offset": 3.0},
        {"video": str(tmp_path / "text.mp4"), "offset": 3.0},
        {"video": f"file:{video}", "offset": 3.0},
        {"video": str(video), "offset": 1e6},
    )
    told = ("does not tell which video", "is not there", "cannot be decoded", "no moment of a video", "has no frame")
    with world.client() as client:
        for number, message in enumerate(told, start=1):
            for kind in ("frame", "strip"):
                answer = client.get(f"/api/v1/records/{number}/{kind}")
                assert answer.status_code == 404 and message in answer.json()["error"]["message"]
        assert client.get("/api/v1/records/99/frame").status_code == 404
