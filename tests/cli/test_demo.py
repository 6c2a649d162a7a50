"""The demo is the chain that a newcomer sees first: it must find the people it describes."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from command_line import fail, succeed
from places import SHIPPED

from tbps_infer.data.scenes import SceneTruth, read_truth
from tbps_infer.encoder import Encoder
from tbps_infer.gallery import Gallery, Hit

pytestmark = pytest.mark.usefixtures("exports_once")


def test_the_demo_finds_its_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = succeed("demo", "-o", "out", "--people", "40")
    ranks = done.stdout.split("is at rank ")[1].split(" of ")[0].split(", ")
    assert len(ranks) == 5
    assert sum(int(rank) <= 3 for rank in ranks) >= 4
    for command in ("$ tbps export ", "$ tbps embed ", "$ tbps search "):
        assert command in done.stdout
    assert (tmp_path / "out" / "search.html").read_text().count("data:image/jpeg") == 25
    again = fail(2, "demo", "-o", "out")
    assert "already exists" in again.stderr


@pytest.mark.slow
def test_the_demo_with_videos_finds_its_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = succeed("demo", "--video", "-o", "out")
    ranks = done.stdout.split("is at rank ")[1].split(" of ")[0].split(", ")
    assert len(ranks) == 5
    assert sum(rank in ("1", "2", "3") for rank in ranks) >= 4
    for command in ("$ tbps data scenes ", "$ tbps export ", "$ tbps crop ", "$ tbps embed ", "$ tbps search "):
        assert command in done.stdout
    assert (tmp_path / "out" / "search.html").read_text().count("data:image/jpeg") >= 20


def test_sentences_find_people_in_a_drawn_video(tmp_path: Path, shipped_bundle: Path) -> None:
    scenes, crops, gallery = tmp_path / "scenes", tmp_path / "crops", tmp_path / "gallery"
    succeed("data", "scenes", "-o", str(scenes), "--cameras", "1", "--people", "5", "--seconds", "12", "--fps", "5")
    detector = SHIPPED.parent / "drawn-people" / "detector.json"
    succeed("crop", str(scenes), "-o", str(crops), "--detector", str(detector))
    succeed("embed", str(shipped_bundle), str(crops / "crops.csv"), "-o", str(gallery))
    truth = read_truth(scenes)
    with Encoder.open(shipped_bundle) as encoder, Gallery.open(gallery) as opened:
        results = opened.search(encoder.encode_texts([text for text, _ in truth.descriptions]), k=opened.count)
        people = [[person_in(truth, hit) for hit in hits] for hits in results]
    found = [identity for _, identity in truth.descriptions if identity in people[0]]
    assert len(found) >= 0.8 * len(truth.descriptions)
    right = [identity in hits[:3] for hits, (_, identity) in zip(people, truth.descriptions, strict=True)]
    assert sum(right) >= 0.6 * len(right)


def person_in(truth: SceneTruth, hit: Hit) -> int | None:
    left, top, width, height = map(float, str(hit.metadata["box"]).split())
    return truth.identity(str(hit.metadata["camera"]), int(str(hit.metadata["frame"])), (left, top, width, height))


def test_without_pytorch_it_takes_the_packages_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    done = succeed("demo", "--people", "5")
    assert "tiny-bundle demo-output/bundle" in done.stdout and "$ tbps export " not in done.stdout
    *_, activate, search = done.stdout.splitlines()
    assert activate == f"  . {Path(sys.prefix) / 'bin' / 'activate'}", "tbps is not on the path"
    assert search.startswith("  tbps search demo-output/gallery '")
    with (tmp_path / "demo-output" / "people.csv").open(encoding="utf-8") as stream:
        assert next(csv.reader(stream)) == ["path", "id", "camera", "floor"]


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"), [("torch", ["--export"], "export"), ("onnxruntime", [], "cpu")]
)
def test_what_it_lacks_is_told_before_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, arguments: list[str], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = fail(1, "demo", "-o", tmp_path / "out", *arguments)
    assert missing in done.stderr and f"tbps-infer[{extra}]" in done.stderr
    assert not (tmp_path / "out").exists()
