"""Frames of videos and folders: their times, how they are turned, damage, and going on in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from numpy.typing import NDArray
from videos import HEIGHT, WIDTH, draw, write_video

from tbps_infer.errors import UsageError, VideoError
from tbps_infer.name_pattern import NamePattern
from tbps_infer.video.frames import BEGINNING, Frame, FrameSource, Gap, SourceFacts
from tbps_infer.video.sources import VideoOptions, video_sources

VARIABLE = [0, 0.04, 0.08, 0.5, 0.9, 1.0, 1.04, 3.5, *(3.54 + 0.04 * k for k in range(30))]


def source(path: Path, **options: object) -> FrameSource:
    (found,) = video_sources([str(path)], VideoOptions(**options), Event())  # type: ignore[arg-type]
    return found


def frames_of(items: Iterable[Frame | Gap]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def gaps_of(items: Iterable[Frame | Gap]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Gap)]


@pytest.mark.parametrize("name", ["street.mp4", "street.mkv", "street.ts"])
def test_times_are_those_of_presentation_at_a_variable_rate(tmp_path: Path, name: str) -> None:
    file = write_video(tmp_path / name, VARIABLE)
    found = frames_of(source(file, start="2026-05-01T08:00").frames(BEGINNING, 1))
    assert [frame.offset for frame in found] == pytest.approx(VARIABLE, abs=0.0011)
    assert found[7].time == datetime(2026, 5, 1, 8, 0, 3, 500000, timezone.utc)
    by_rate = 7 / (len(VARIABLE) / VARIABLE[-1])
    assert abs(by_rate - VARIABLE[7]) > 2  # what dividing by the average rate would say
    assert np.abs(found[5].pixels.astype(int) - draw(1.0)).mean() < 3


def test_clocks_that_are_put_back_do_not_move_times() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    facts = SourceFacts("a", "a", datetime(2026, 10, 25, 2, 59, 59, tzinfo=berlin), "a")
    time = facts.time(2)
    assert time is not None and time.isoformat() == "2026-10-25T02:00:01+01:00"


def test_every_nth_frame_keeps_its_number(tmp_path: Path) -> None:
    file = write_video(tmp_path / "street.mp4", VARIABLE)
    found = frames_of(source(file).frames(BEGINNING, 4))
    assert [frame.position.number for frame in found] == list(range(0, len(VARIABLE), 4))
    assert found[1].offset == pytest.approx(VARIABLE[4], abs=0.001)


@pytest.mark.parametrize("number", [1, 7, 12, 30])
def test_a_video_goes_on_where_it_was_left(tmp_path: Path, number: int) -> None:
    video = source(write_video(tmp_path / "street.mp4", VARIABLE))
    whole = frames_of(video.frames(BEGINNING, 1))
    rest = frames_of(video.frames(whole[number].position, 1))
    assert [frame.position for frame in rest] == [frame.position for frame in whole[number:]]
    assert all((a.pixels == b.pixels).all() for a, b in zip(rest, whole[number:], strict=True))


def test_a_position_is_found_without_key_frames_to_seek_to(tmp_path: Path) -> None:
    video = source(write_video(tmp_path / "street.ts", VARIABLE, key_every=1000))
    whole = frames_of(video.frames(BEGINNING, 1))
    rest = frames_of(video.frames(whole[20].position, 1))
    assert [frame.position for frame in rest] == [frame.position for frame in whole[20:]]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_frames_are_turned_as_the_video_says(tmp_path: Path, turns: int) -> None:
    def marked(_: float) -> NDArray[np.uint8]:
        pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        pixels[:64, :64] = 230  # at the top left as it is stored
        return pixels

    file = write_video(tmp_path / "street.mp4", [0, 0.1], picture=marked, quarter_turns=turns)
    pixels = frames_of(source(file).frames(BEGINNING, 1))[0].pixels
    expected = np.rot90(marked(0), -turns)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 3


def test_a_truncated_video_gives_what_is_there_and_tells(tmp_path: Path) -> None:
    file = write_video(tmp_path / "street.mkv", [k / 10 for k in range(100)])
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    items = list(source(file).frames(BEGINNING, 1))
    assert 20 < len(frames_of(items)) < 90
    assert any("it ends after" in reason and "of 9.9 s" in reason for reason in gaps_of(items))


def test_damage_loses_frames_and_not_the_rest(tmp_path: Path) -> None:
    file = write_video(tmp_path / "street.ts", [k / 10 for k in range(100)], key_every=5)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2 // 188 * 188
    for place in range(middle, middle + 20 * 188):
        data[place] = 0x55
    file.write_bytes(data)
    items = list(source(file).frames(BEGINNING, 1))
    found = frames_of(items)
    assert 60 < len(found) < 100
    assert found[-1].offset == pytest.approx(9.9, abs=0.01)
    offsets = [frame.offset for frame in found]
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("content", [b"", b"not a video", b"#EXTM3U\n#EXTINF:5,\nstreet.mp4\n#EXT-X-ENDLIST\n"])
def test_what_is_no_video_is_told(tmp_path: Path, content: bytes) -> None:
    write_video(tmp_path / "street.mp4", [0, 0.1])
    file = tmp_path / "other.mp4"
    file.write_bytes(content)
    with pytest.raises(VideoError, match=r"other\.mp4 cannot be decoded"):
        list(source(file).frames(BEGINNING, 1))


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_a_playlist_opens_no_other_file(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "street.ts", [0, 0.1])
    text = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{tmp_path}/street.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile street.ts\n",
    }
    (tmp_path / name).write_text(text[name])
    with pytest.raises(VideoError, match="cannot be decoded"):
        list(source(tmp_path / name).frames(BEGINNING, 1))


def test_hardware_that_is_not_there_is_refused(tmp_path: Path) -> None:
    video = source(write_video(tmp_path / "street.mp4", [0, 0.1]), hardware="abacus")
    with pytest.raises(UsageError, match="built without the hardware 'abacus'"):
        list(video.frames(BEGINNING, 1))


def frame_files(folder: Path, names: Iterable[str]) -> Path:
    from PIL import Image

    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(np.full((20, 30, 3), 10 * number, np.uint8)).save(folder / name)
    return folder


def test_frames_in_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = frame_files(tmp_path / "gate", ["f_2.png", "f_10.png", "f_1.png"])
    found = frames_of(source(folder, rate=5.0).frames(BEGINNING, 1))
    assert [Path(frame.file).name for frame in found] == ["f_1.png", "f_2.png", "f_10.png"]
    assert [frame.offset for frame in found] == [0, 0.2, 0.4]
    assert [int(frame.pixels[0, 0, 0]) for frame in found] == [20, 0, 10]
    assert [frame.position.number for frame in source(folder, rate=5.0).frames(found[1].position, 2)] == [2]  # type: ignore[union-attr]


def test_frames_have_the_times_in_their_names(tmp_path: Path) -> None:
    folder = frame_files(tmp_path / "gate", ["yard_20260501-080002.png", "yard_20260501-080000.png"])
    names = NamePattern("{camera}_{time:%Y%m%d-%H%M%S}")
    found = source(folder, names=names, zone=ZoneInfo("Europe/Berlin"))
    assert found.facts.camera == "yard"
    frames = frames_of(found.frames(BEGINNING, 1))
    assert [frame.offset for frame in frames] == [0, 2]
    assert frames[1].time == datetime(2026, 5, 1, 6, 0, 2, tzinfo=timezone.utc)


def test_a_frame_that_cannot_be_decoded_is_a_gap(tmp_path: Path) -> None:
    folder = frame_files(tmp_path / "gate", ["1.png", "2.png", "3.png"])
    (folder / "2.png").write_bytes(b"no picture")
    items = list(source(folder, rate=1.0).frames(BEGINNING, 1))
    assert [frame.position.number for frame in frames_of(items)] == [0, 2]
    assert len(gaps_of(items)) == 1


def test_the_names_of_videos_hold_camera_and_start(tmp_path: Path) -> None:
    file = write_video(tmp_path / "yard_20260501-080000.mp4", [0, 0.1])
    facts = source(file, names=NamePattern("{camera}_{time:%Y%m%d-%H%M%S}")).facts
    assert (facts.camera, facts.start) == ("yard", datetime(2026, 5, 1, 8, tzinfo=timezone.utc))


def test_what_cannot_be_a_source_is_told(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [0, 0.1])
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    wrong: list[tuple[list[str], VideoOptions, str]] = [
        (["nothing.mp4"], VideoOptions(), "does not exist"),
        ([str(tmp_path / "pipe")], VideoOptions(), "is neither a file nor a folder"),
        ([str(tmp_path / "empty")], VideoOptions(), "holds neither videos nor frames"),
        ([str(tmp_path / "a.mp4")] * 2, VideoOptions(), "would both be called a"),
        ([str(tmp_path / "a.mp4")], VideoOptions(names=NamePattern("{camera}_x")), "does not follow the pattern"),
        ([str(frame_files(tmp_path / "gate", ["1.png"]))], VideoOptions(), "times of the frames"),
    ]
    for names, options, told in wrong:
        with pytest.raises(VideoError, match=told):
            video_sources(names, options, Event())
    (tmp_path / "...mp4").write_bytes(b"")
    with pytest.raises(VideoError, match="No folder of crops can be named after"):
        source(tmp_path / "...mp4")
    (tmp_path / "gate" / "b.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match="holds 1 videos and 1 pictures"):
        source(tmp_path / "gate")
    senseless = [
        ([str(tmp_path / "a.mp4"), "rtsp://camera/1"], VideoOptions(), "goes alone"),
        (["rtsp://camera/1"], VideoOptions(start="2026"), "starts when it is opened"),
        ([str(tmp_path / "a.mp4")], VideoOptions(start="yesterday"), "The start is 'yesterday'"),
        ([str(tmp_path / "a.mp4")], VideoOptions(start=""), "The start is ''"),
        ([str(tmp_path / "a.mp4")], VideoOptions(start="9999-12-31"), "a year from 2 to 9998"),
        ([str(tmp_path / "a.mp4")], VideoOptions(camera=""), "has no name"),
        ([str(tmp_path / "a.mp4")], VideoOptions(rate=3.0), "no source is a folder of frames"),
        (["rtsp://[camera/1"], VideoOptions(), "address of the stream is none"),
    ]
    for names, options, told in senseless:
        with pytest.raises(UsageError, match=told):
            video_sources(names, options, Event())
