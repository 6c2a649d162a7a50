"""`tbps clip`: the seconds around a hit, its frame, and records that are from no video."""

from __future__ import annotations

from pathlib import Path

from command_line import fail, succeed
from PIL import Image
from serve_world import World
from videos import HEIGHT, WIDTH, write_video


def test_a_hit_becomes_a_clip_and_a_picture(tmp_path: Path) -> None:
    video = write_video(tmp_path / "gate.mp4", [k / 10 for k in range(60)])
    world = World(tmp_path)
    world.add_with({"video": str(video), "offset": 3.0, "box": "124 40 30 70"}, {"camera": "yard"})
    done = succeed("clip", world.gallery, 1, "-o", tmp_path / "hit.mp4", "--before", 1)
    assert "gate.mp4 at 3.0 s" in done.stderr and (tmp_path / "hit.mp4").stat().st_size > 500
    succeed("clip", world.gallery, 1, "-o", tmp_path / "hit.jpg")
    with Image.open(tmp_path / "hit.jpg") as image:
        assert image.size == (WIDTH, HEIGHT)
    assert "does not tell which video" in fail(1, "clip", world.gallery, 2, "-o", tmp_path / "x.mp4").stderr
    assert "has no record 9" in fail(1, "clip", world.gallery, 9, "-o", tmp_path / "x.mp4").stderr
    assert "is no name of a clip" in fail(2, "clip", world.gallery, 1, "-o", tmp_path / "x.avi").stderr
    whole = video.read_bytes()
    refused = fail(2, "clip", world.gallery, 1, "-o", video)
    assert "what the hit was cropped from" in refused.stderr and video.read_bytes() == whole
