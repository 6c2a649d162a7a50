"""Back to the video: the frame of a crop, the strip around it, the clip, and what may be opened for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from videos import HEIGHT, WIDTH, boxes_at, draw, write_video

from tbps_infer.errors import UsageError, VideoError
from tbps_infer.gallery.columns import Value
from tbps_infer.video.clips import write_clip
from tbps_infer.video.moments import Moment, draw_frame, draw_strip, find_moment

TIMES = [k / 10 for k in range(60)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("moments") / "gate.mp4", TIMES)


def test_the_frame_is_the_one_of_the_crop_with_its_box(video: Path) -> None:
    for seconds in (0.0, 2.3, 5.9):
        box = boxes_at(seconds)[1]
        image = np.asarray(draw_frame(Moment(video, seconds, box)))
        left, top, width, height = box
        inside = image[top : top + height, left : left + width].astype(int)
        assert np.abs(inside - draw(seconds)[top : top + height, left : left + width]).mean() < 4
        assert image[top - 2, left + width // 2].tolist() == [255, 196, 0]


def test_the_strip_shows_the_seconds_around(video: Path) -> None:
    strip = draw_strip(Moment(video, 3.0), seconds=1, count=3, width=WIDTH)
    assert strip.size == (3 * WIDTH + 2 * 4, HEIGHT)
    pixels = np.asarray(strip).astype(int)
    for place, seconds in enumerate((2, 3, 4)):
        tile = pixels[:, place * (WIDTH + 4) : place * (WIDTH + 4) + WIDTH]
        assert np.abs(tile - draw(seconds)).mean() < 4
    assert draw_strip(Moment(video, 0.2), seconds=1, count=3, width=50).width == 2 * 50 + 4
    assert draw_strip(Moment(video, 5.9), seconds=1, count=3, width=50).width == 2 * 50 + 4


def test_a_clip_copies_the_seconds_from_the_key_frame_before_them(video: Path, tmp_path: Path) -> None:
    import av

    for name in ("hit.mp4", "hit.mkv"):
        write_clip(Moment(video, 3.5), tmp_path / name, before=1, after=1)
        with av.open(str(tmp_path / name)) as container:
            frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        assert len(frames) == pytest.approx(26, abs=2)  # from the key frame at 2.0 s to 4.5 s
        assert np.abs(frames[0][1].astype(int) - draw(2.0)).mean() < 4
        assert frames[-1][0] - frames[0][0] == pytest.approx(2.5, abs=0.15)


def test_the_frame_of_a_folder_is_its_picture(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(draw(1)).save(tmp_path / "f.png")
    moment = Moment(tmp_path / "f.png", 1.0, (10, 10, 20, 20))
    assert draw_frame(moment).size == (WIDTH, HEIGHT)
    assert draw_strip(moment).width == 320
    with pytest.raises(VideoError, match="is a picture, of which there is no clip"):
        write_clip(moment, tmp_path / "hit.mp4")


def test_what_is_no_moment_is_told(video: Path, tmp_path: Path) -> None:
    good: dict[str, Value] = {"video": str(video), "offset": 1.5, "box": "1 2 3 4"}
    assert find_moment(good) == Moment(video, 1.5, (1, 2, 3, 4))
    assert find_moment(good | {"box": "left"}).box is None
    wrong: list[tuple[dict[str, Value], str]] = [
        ({}, "does not tell which video"),
        (good | {"offset": "soon"}, "does not tell which video"),
        (good | {"offset": -1}, "no moment of a video"),
        (good | {"video": "gate.mp4"}, "no moment of a video"),
        (good | {"video": "http://example.org/gate.mp4"}, "no moment of a video"),
        (good | {"video": str(tmp_path / "gone.mp4")}, "is not there"),
    ]
    for columns, told in wrong:
        with pytest.raises(VideoError, match=told):
            find_moment(columns)
    with pytest.raises(VideoError, match=r"has no frame at 99\.0 s"):
        draw_frame(Moment(video, 99.0))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be decoded"):
        draw_frame(Moment(tmp_path / "text.mp4", 1.0))


def test_a_clip_that_cannot_be_written_is_told(video: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hit\.avi is no name of a clip"):
        write_clip(Moment(video, 1), tmp_path / "hit.avi")
    with pytest.raises(VideoError, match=r"has nothing at 99\.0 s"):
        write_clip(Moment(video, 99), tmp_path / "hit.mp4", before=1)
    with pytest.raises(UsageError, match="finite numbers of seconds"):
        write_clip(Moment(video, 1), tmp_path / "hit.mp4", after=float("inf"))
    with pytest.raises(VideoError, match="cannot be written: No such file"):
        write_clip(Moment(video, 1), tmp_path / "none" / "hit.mp4")
    assert list(tmp_path.iterdir()) == []
