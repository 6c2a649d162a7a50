"""One server over several galleries: each alone, and together where the model is the same."""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serve_world import FACTS, World

from tbps_infer.encoder import Encoder
from tbps_infer.errors import UsageError
from tbps_infer.gallery import GalleryWriter, merge_galleries
from tbps_infer.gallery.opening import changes_of
from tbps_infer.runners.fake import FakeRunner, fake_facts
from tbps_infer.serve.app import create_app
from tbps_infer.serve.live_gallery import name_galleries
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import Limits, ServeOptions
from tbps_infer.serve.searcher import Searcher
from tbps_infer.text import Tokenizer

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """Two galleries of one model, and an empty one of another."""
    worlds = {}
    for name, numbers in (("monday", range(6)), ("tuesday", range(6, 14))):
        (tmp_path / name).mkdir()
        worlds[name] = World(tmp_path / name)
        worlds[name].add(numbers)
    other = fake_facts(fingerprint="other")
    with GalleryWriter.open(tmp_path / "wednesday", other):
        pass
    tokenizer = Tokenizer(
        tmp_path / "monday/tokenizer.json", caption_rule="none", max_length=FACTS.max_length, pad_id=FACTS.pad_id
    )
    stranger = Encoder(other, tokenizer, lambda: FakeRunner(other, "image"), lambda: FakeRunner(other, "text"))
    options, metrics = ServeOptions(limits=Limits(rate=0), token=TOKEN), Metrics()
    galleries = {name: world.gallery for name, world in worlds.items()}
    searchers = [
        Searcher(worlds["monday"].encoder(), galleries, options.batch, metrics),
        Searcher(stranger, tmp_path / "wednesday", options.batch, metrics),
    ]
    with TestClient(create_app(searchers, options, metrics), base_url="http://127.0.0.1", headers=BEARER) as made:
        for searcher in searchers:
            searcher.warm_up().result(10)
        yield made


def _search(client: TestClient, **asked: Any) -> list[dict[str, Any]]:
    answer = client.post("/api/v1/search", json={"texts": ["a hat"], "k": 20, **asked})
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["hits"]
    return hits


def test_galleries_are_named_and_counted(client: TestClient) -> None:
    told = client.get("/api/v1/columns").json()
    assert [(each["name"], each["total"]) for each in told["galleries"]] == [
        ("monday", 6),
        ("tuesday", 8),
        ("wednesday", 0),
    ]
    assert [each["model"] for each in told["galleries"]] == ["fake", "fake", "other"]
    assert told["total"] == 6 and client.get("/api/v1/columns?gallery=tuesday").json()["total"] == 8
    assert client.get("/metrics").text.count("tbps_gallery_records 14.0") == 1
    assert client.get("/healthz").json() == {"status": "ready"}


def test_together_is_each_alone_in_one_order(client: TestClient) -> None:
    alone = [hit for name in ("monday", "tuesday") for hit in _search(client, gallery=[name])]
    together = _search(client, gallery=["monday", "tuesday"])
    wanted = sorted(alone, key=lambda hit: -hit["score"])
    assert [(hit["gallery"], hit["record"]) for hit in together] == [
        (hit["gallery"], hit["record"]) for hit in wanted
    ]
    assert [hit["rank"] for hit in together] == list(range(1, 15))
    assert [hit["gallery"] for hit in _search(client)] == ["monday"] * 6
    newest = client.post("/api/v1/browse", json={"gallery": ["monday", "tuesday"], "k": 3}).json()
    assert [each["name"] for each in newest["records"]] == ["013.png", "012.png", "011.png"]
    assert sum(newest["timeline"]["counts"]) == 14


def test_a_record_belongs_to_its_gallery(client: TestClient) -> None:
    assert client.get("/api/v1/records/1").json()["name"] == "000.png"
    assert client.get("/api/v1/records/1?gallery=tuesday").json()["name"] == "006.png"
    pictures = [client.get(f"/api/v1/records/1/thumbnail?gallery={name}").content for name in ("monday", "tuesday")]
    assert pictures[0] != pictures[1]
    example = {"gallery": "tuesday", "record": 1}
    across = _search(client, texts=[], like=[example], gallery=["monday", "tuesday"])
    assert len(across) == 13 and ("tuesday", 1) not in [(hit["gallery"], hit["record"]) for hit in across]
    assert len(_search(client, texts=[], like=[example], gallery=["monday"])) == 6


def test_chosen_hits_of_both_are_saved_and_removed(client: TestClient) -> None:
    chosen = [{"gallery": "monday", "record": 1}, {"gallery": "tuesday", "record": 1}]
    search = {"texts": ["a hat"], "gallery": ["monday", "tuesday"]}
    answer = client.post("/api/v1/export", json={"format": "csv", "records": chosen, "search": search})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {(row["gallery"], row["record"]) for row in rows} == {("monday", "1"), ("tuesday", "1")}
    told = client.post("/api/v1/remove", json={"records": chosen, "confirm": 2})
    assert told.json() == {"removed": 2}
    assert [
        client.get("/api/v1/columns", params={"gallery": name}).json()["total"] for name in ("monday", "tuesday")
    ] == [5, 7]
    again = client.post("/api/v1/export", json={"format": "csv", "records": [*chosen, 2], "search": search})
    assert again.headers["x-missing-records"] == "monday/1, tuesday/1"


def test_different_models_are_not_searched_together(client: TestClient) -> None:
    answer = client.post("/api/v1/search", json={"texts": ["a hat"], "gallery": ["monday", "wednesday"]})
    assert answer.status_code == 422 and "different models" in answer.json()["error"]["message"]
    answer = client.post("/api/v1/search", json={"like": [{"gallery": "wednesday", "record": 1}]})
    assert answer.status_code == 422 and "different models" in answer.json()["error"]["message"]
    assert _search(client, gallery=["wednesday"]) == []
    for path in ("/api/v1/columns?gallery=x", "/api/v1/records/1?gallery=x", "/api/v1/records/1/picture?gallery=x"):
        assert client.get(path).status_code == 404, path


def test_folders_are_named_by_what_tells_them_apart() -> None:
    folders = [Path("/a/monday/gallery"), Path("/a/tuesday/gallery")]
    assert list(name_galleries(folders)) == ["monday/gallery", "tuesday/gallery"]
    assert list(name_galleries([Path("/a/b"), Path("/a/c")])) == ["b", "c"]
    assert list(name_galleries(["s3://bucket/site.lance/", Path("/a/b")])) == ["site.lance", "b"]
    for twice in ([Path("/a/b"), Path("/a/../a/b")], ["/a/b.lance", "/a/b.lance/"], ["s3://a/b", "s3://a/b/"]):
        with pytest.raises(UsageError, match="named twice"):
            name_galleries(twice)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset with crops of six pictures, of which one is not there any more."""
    world = World(tmp_path)
    world.add(range(6))
    merge_galleries([world.gallery], tmp_path / "site.lance", crops=True)
    (tmp_path / "001.png").unlink()
    return tmp_path / "site.lance"


def test_a_dataset_exports_the_files_and_the_crops_of_those_that_are_gone(dataset: Path) -> None:
    options, metrics = ServeOptions(limits=Limits(rate=0, export_bytes=6000)), Metrics()
    searcher = Searcher(World(dataset.parent).encoder(), dataset, options.batch, metrics)
    search = {"texts": ["a hat", "a coat"], "combine": "all"}
    with TestClient(create_app(searcher, options, metrics), base_url="http://127.0.0.1") as client:
        asked = {"format": "zip", "records": [1, 2, 99], "search": search}
        answer = client.post("/api/v1/export", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-missing-records"] == "99"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            found = {name.split("-", 1)[1]: archive.read(name) for name in archive.namelist() if "pictures/" in name}
        assert set(found) == {"1-000.png", "2-001.png.crop.jpg"}
        assert found["1-000.png"] == (dataset.parent / "000.png").read_bytes()
        assert found["2-001.png.crop.jpg"].startswith(b"\xff\xd8")
        assert client.get("/api/v1/records/0").status_code == 404


def test_crops_count_towards_the_size_of_a_zip(dataset: Path) -> None:
    for name in dataset.parent.glob("*.png"):
        name.unlink()
    options, metrics = ServeOptions(limits=Limits(rate=0, export_bytes=1000)), Metrics()
    searcher = Searcher(World(dataset.parent).encoder(), dataset, options.batch, metrics)
    asked = {"format": "zip", "records": [1, 2, 3, 4, 5, 6], "search": {"texts": ["a hat"]}}
    with TestClient(create_app(searcher, options, metrics), base_url="http://127.0.0.1") as client:
        assert client.post("/api/v1/export", json=asked).status_code == 413


def test_a_dataset_that_came_in_the_place_of_another_is_opened(dataset: Path) -> None:
    changes = changes_of(dataset)
    before = changes.stamps()
    assert before == changes.stamps()
    shutil.rmtree(dataset)
    assert changes.stamps() == ()
    merge_galleries([World(dataset.parent).gallery], dataset, crops=True)
    assert changes.stamps()[0] == before[0] and changes.stamps() != before
