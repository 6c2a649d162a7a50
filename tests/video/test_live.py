"""A camera that is watched: times of arrival, connections that break off, and an end in good order."""

from __future__ import annotations

import csv
import itertools
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from threading import Event

import pytest
from command_line import fail
from rtsp_server import Camera

from tbps_infer.errors import VideoError
from tbps_infer.video import live_stream
from tbps_infer.video.frames import BEGINNING, Frame, Gap
from tbps_infer.video.sources import VideoOptions, video_sources

TIMES = [k / 10 for k in range(12)]


def test_a_stream_is_opened_again_and_the_gap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "_FIRST_WAIT", 0.1)
    camera, stop = Camera(TIMES, password="secret"), Event()
    (source,) = video_sources([camera.address], VideoOptions(camera="gate"), stop)
    assert source.facts.name == "gate" and "secret" not in source.facts.place and source.facts.live
    frames: list[Frame] = []
    gaps: list[Gap] = []
    for item in source.frames(BEGINNING, 1):
        if isinstance(item, Gap):
            gaps.append(item)
        else:
            frames.append(item)
        if len(gaps) > 1 or (gaps and len(frames) > 15):
            stop.set()
    camera.close()
    assert camera.connections == 2 and len(gaps) == 1
    assert [frame.position.number for frame in frames] == list(range(len(frames)))
    offsets = [frame.offset for frame in frames]
    assert offsets == sorted(offsets)
    now = datetime.now(timezone.utc)
    assert frames[-1].time is not None and abs((now - frames[-1].time).total_seconds()) < 5
    steps = [after - before for before, after in itertools.pairwise(offsets[:9])]
    assert steps == pytest.approx([0.1] * 8, abs=0.02)  # by the stream's clock, not by arrival


def test_a_camera_that_is_not_there_at_first_is_an_error() -> None:
    camera = Camera([], password="secret")
    camera.close()
    (source,) = video_sources([camera.address], VideoOptions(), Event())
    with pytest.raises(VideoError, match="cannot be read") as refused:
        next(iter(source.frames(BEGINNING, 1)))
    assert "secret" not in refused.value.message


def test_sigterm_commits_what_was_seen(tmp_path: Path) -> None:
    camera = Camera([k / 10 for k in range(600)], password="secret")
    lines = "".join(f"{number},1,10,20,40,100,1\n" for number in range(1, 1000))
    (tmp_path / "boxes.txt").write_text(lines)
    crops = tmp_path / "crops"
    command = ["crop", camera.address, "-o", str(crops), "--detections", str(tmp_path / "boxes.txt")]
    with subprocess.Popen(
        [sys.executable, "-m", "tbps_infer.cli.main", *command, "--camera", "gate"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while camera.connections == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=30)
    camera.close()
    assert process.returncode == 0 and "1 tracks" in told
    with (crops / "crops.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and {row["id"] for row in rows} == {"gate/1"} and rows[0]["video"] == ""
    assert abs(datetime.fromisoformat(rows[0]["time"]).timestamp() - time.time()) < 60
    assert "secret" not in (crops / "progress.json").read_text()


def test_an_address_can_be_in_the_environment(tmp_path: Path) -> None:
    camera = Camera([], password="secret")
    camera.close()
    env = {"TBPS_CROP_SOURCES": camera.address}
    (tmp_path / "boxes.txt").write_text("1,1,1,1,30,90,1\n")
    done = fail(1, "crop", "-o", tmp_path / "crops", "--detections", tmp_path / "boxes.txt", env=env)
    assert "cannot be read" in done.stderr and "secret" not in done.stderr


def test_a_stream_goes_alone(tmp_path: Path) -> None:
    done = fail(2, "crop", "rtsp://a/1", "rtsp://b/1", "-o", tmp_path / "crops", "--detections", tmp_path)
    assert "one tbps crop for each camera" in done.stderr
