"""The server's API: what it answers equals what the library answers."""

from __future__ import annotations

import base64
import csv
import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from serve_world import SCRIPT, World

from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError
from tbps_infer.gallery import Filter, Gallery, Hit
from tbps_infer.model_facts import BRANCHES
from tbps_infer.queries import PersonQuery, encode_queries
from tbps_infer.runners import Runner
from tbps_infer.serve import live_gallery as live
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import BatchOptions, ServeOptions
from tbps_infer.serve.pictures import Pictures
from tbps_infer.serve.searcher import Searcher

COUNT = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("serve"))
    made.add(range(COUNT))
    return made


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[TestClient]:
    with world.client() as made:
        yield made


def _search(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/search", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _library(world: World, query: PersonQuery, k: int, where: Filter | None = None) -> list[Hit]:
    with world.encoder() as encoder, Gallery.open(world.gallery) as gallery:
        return gallery.search(encode_queries(encoder, [query]), k, where)[0]


def _record(world: World, name: str) -> int:
    with Gallery.open(world.gallery) as gallery:
        return next(each.record for each in gallery.records() if each.path.name == name)


def _same(found: dict[str, Any], wanted: list[Hit]) -> None:
    assert [hit["record"] for hit in found["hits"]] == [hit.record for hit in wanted]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in wanted], abs=1e-6)
    for hit, other in zip(found["hits"], wanted, strict=True):
        assert hit["split"] == pytest.approx(dict(other.split), abs=1e-6)


def test_a_sentence_finds_what_the_library_finds(world: World, client: TestClient) -> None:
    found = _search(client, texts=["a woman in a red coat"], k=5)
    _same(found, _library(world, PersonQuery(("a woman in a red coat",)), 5))
    assert found["total"] == found["searched"] == COUNT
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4, 5]


def test_words_a_picture_and_an_exclusion_are_composed(world: World, client: TestClient) -> None:
    data = (world.folder / "003.png").read_bytes()
    asked = {"texts": ["a man"], "exclude": ["a hat"], "image_weight": 0.3, "exclude_weight": 0.7, "k": 4}
    found = _search(client, pictures=[base64.b64encode(data).decode()], **asked)
    query = PersonQuery(("a man",), (data,), ("a hat",), image_weight=0.3, exclude_weight=0.7)
    _same(found, _library(world, query, 4))


def test_more_like_a_record_is_its_stored_vector_without_itself(world: World, client: TestClient) -> None:
    with Gallery.open(world.gallery) as gallery:
        record = next(each for each in gallery.records() if each.path.name == "004.png")
        vector = gallery.stored.exact(np.array([record.row]))[0]
        others = {
            each.record: float(gallery.stored.exact(np.array([each.row]))[0] @ vector) for each in gallery.records()
        }
    del others[record.record]
    best = sorted(others, key=lambda number: -others[number])[:3]
    found = _search(client, like=[record.record], k=3)
    assert [hit["record"] for hit in found["hits"]] == best
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([others[number] for number in best], abs=1e-5)


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"camera": ["cam_a"]}, Filter(camera=("cam_a",))),
        (
            {"after": "2024-03-04", "before": "2024-03-08T10:00"},
            Filter(after="2024-03-04", before="2024-03-08T10:00"),
        ),
        ({"where": "note like '%note 1%'"}, Filter(where="note like '%note 1%'")),
        ({"id": ["2"], "camera": ["cam_b"], "where": " "}, Filter(id=("2",), camera=("cam_b",))),
    ],
)
def test_filters_are_the_librarys(world: World, client: TestClient, asked: dict[str, Any], where: Filter) -> None:
    found = _search(client, texts=["a hat"], k=COUNT, filter=asked)
    wanted = _library(world, PersonQuery(("a hat",)), COUNT, where)
    _same(found, wanted)
    assert 0 < found["searched"] == len(wanted) < COUNT


def test_one_hit_per_person_and_a_smallest_score(client: TestClient) -> None:
    every = _search(client, texts=["a hat"], k=COUNT)["hits"]
    people = _search(client, texts=["a hat"], k=COUNT, per_id=True)["hits"]
    firsts = {hit["metadata"]["id"]: hit["record"] for hit in reversed(every)}
    assert [hit["record"] for hit in people] == [hit["record"] for hit in every if hit["record"] in firsts.values()]
    middle = every[5]["score"]
    assert len(_search(client, texts=["a hat"], k=COUNT, min_score=middle)["hits"]) == 6


def test_columns_say_what_can_be_filtered_by(client: TestClient) -> None:
    told = client.get("/api/v1/columns").json()
    assert told["columns"] == ["id", "camera", "time", "note"]
    assert told["cameras"] == {"cam_a": 6, "cam_b": 6}
    assert told["last_time"] - told["first_time"] == (COUNT - 1) * 86400
    assert sum(segment["weight"] for segment in told["segments"]) == pytest.approx(3)


def test_a_thumbnail_is_the_picture_and_is_not_sent_twice(world: World, client: TestClient) -> None:
    record = _record(world, "005.png")
    answer = client.get(f"/api/v1/records/{record}/thumbnail")
    with Image.open(io.BytesIO(answer.content)) as made, Image.open(world.folder / "005.png") as file:
        assert made.format == "JPEG" and made.size == file.size
        difference = np.asarray(made.resize((4, 12), 4)).astype(float) - np.asarray(file.resize((4, 12), 4))
    assert np.abs(difference).mean() < 12  # JPEG of noise; another record's noise is off by 40 and more
    etag = answer.headers["etag"]
    again = client.get(f"/api/v1/records/{record}/thumbnail", headers={"If-None-Match": etag})
    assert again.status_code == 304 and not again.content
    assert client.get(f"/api/v1/records/{record}/picture").headers["etag"] != etag


def test_a_record_tells_whether_its_file_is_still_the_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(range(3))
    numbers = [_record(world, f"{number:03d}.png") for number in range(3)]
    (tmp_path / "001.png").unlink()
    (tmp_path / "002.png").write_bytes(b"no picture")
    with world.client() as client:
        states = [client.get(f"/api/v1/records/{number}").json()["state"] for number in numbers]
        assert states == ["same", "missing", "changed"]
        got = [client.get(f"/api/v1/records/{number}/thumbnail").status_code for number in numbers]
        assert got == [200, 404, 404]
        asked = {"format": "zip", "records": numbers, "search": {"texts": ["a hat"]}}
        archive = zipfile.ZipFile(io.BytesIO(client.post("/api/v1/export", json=asked).content))
    assert sorted(Path(name).suffix for name in archive.namelist()) == [".csv", ".html", ".png"]


def test_the_table_and_the_zip_hold_the_chosen_hits(world: World, client: TestClient) -> None:
    search = {"texts": ["a hat"], "k": COUNT}
    hits = {hit["record"]: hit for hit in _search(client, **search)["hits"]}
    chosen = [_record(world, name) for name in ("001.png", "002.png", "007.png")]
    answer = client.post("/api/v1/export", json={"format": "csv", "records": chosen, "search": search})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    ordered = sorted(chosen, key=lambda number: -hits[number]["score"])
    assert [int(row["record"]) for row in rows] == ordered
    assert [float(row["score"]) for row in rows] == pytest.approx([hits[n]["score"] for n in ordered], abs=1e-6)
    assert {row["note"] for row in rows} == {SCRIPT, '\'=HYPERLINK("x")', "note 7"}

    answer = client.post("/api/v1/export", json={"format": "zip", "records": chosen, "search": search})
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    for row in csv.DictReader(io.StringIO(archive.read("hits.csv").decode())):
        assert archive.read(row["picture"]) == Path(row["path"]).read_bytes()
    sheet = archive.read("sheet.html").decode()
    assert SCRIPT not in sheet and sheet.count("<li") == 3 and "a hat" in sheet


def test_metadata_has_one_form_in_both_tables(world: World, client: TestClient) -> None:
    search = {"texts": ["a hat"], "k": COUNT}
    asked = {"format": "csv", "records": [_record(world, "001.png")], "search": search}
    head = client.post("/api/v1/export", json=asked).text.splitlines()[0]
    assert head == "rank,record,score,path,id,camera,time,note,global,coarse,fine.0,fine.1"


def test_what_the_model_cannot_read_is_told_and_strict_refuses(client: TestClient) -> None:
    found = _search(client, texts=["a hat 穿"], exclude=["🎒"])
    unknown, nothing = found["warnings"]
    assert "'穿'" in unknown and "'🎒'" in nothing
    answer = client.post("/api/v1/search", json={"texts": ["a hat 穿"], "strict": True})
    assert answer.status_code == 422 and answer.json()["error"]["message"] == unknown
    plain = _search(client, texts=["a hat"], strict=True)
    assert plain["warnings"] == []
    for pasted in ("a\u00a0hat", "a\that", "a\u3000hat", "a h\u00adat", "a \u200dhat"):
        assert _search(client, texts=[pasted], strict=True)["hits"] == plain["hits"]


def test_an_empty_result_names_what_there_is(client: TestClient) -> None:
    found = _search(client, texts=["a hat"], filter={"camera": ["cam9"]})
    assert (found["hits"], found["warnings"]) == ([], ["No picture has camera cam9; there are cam_a, cam_b."])


def test_a_gallery_that_grows_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(live, "_OPENING_SHARE", 1e9)
    world = World(tmp_path)
    world.add(range(4))
    with world.client() as client:
        assert _search(client, texts=["a hat"], k=50)["total"] == 4
        world.add(range(4, 9))
        found = _search(client, texts=["a hat"], k=50)
        assert found["total"] == 9
        _same(found, _library(world, PersonQuery(("a hat",)), 50))
        assert client.get("/api/v1/columns").json()["cameras"] == {"cam_a": 4, "cam_b": 5}


def test_an_unchanged_gallery_is_not_opened_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LOOK_EVERY_S", 0.0)
    gallery = live.LiveGallery(world.gallery)
    with gallery.snapshot() as first:
        time.sleep(0.01)
        with gallery.snapshot() as second:
            assert second is first
    gallery.close()


def test_health_waits_for_the_models_first_answer(world: World) -> None:
    with world.client() as client:
        assert client.get("/healthz").json() == {"status": "ready"}
        client.app.state.service.searcher._warm = None  # type: ignore[attr-defined]
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()) == (503, {"status": "starting"})


def test_the_server_is_ready_when_all_shapes_were_run(world: World, caplog: pytest.LogCaptureFixture) -> None:
    runners: list[Runner] = []

    def spied(encoder: Encoder) -> None:
        runners.extend(encoder.runner(branch) for branch in BRANCHES)
        Encoder.warm(encoder)

    with caplog.at_level("INFO"), pytest.MonkeyPatch.context() as patched:
        encoder = world.encoder()
        patched.setattr(encoder, "warm", lambda: spied(encoder))
        patched.setattr(World, "encoder", lambda _: encoder)
        with world.client() as client:
            assert client.get("/healthz").status_code == 200
            _search(client, texts=["a hat"])
    assert [runner.batch_sizes for runner in runners] == [[1], [1, 1, 1]]  # type: ignore[attr-defined]
    assert "ready after" in caplog.text and "warmed image" in caplog.text


def test_a_model_that_cannot_be_warmed_is_logged_and_the_server_stays_unready(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = world.encoder()

    def fail() -> None:
        raise BackendError("There is no engine of the image branch.")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoder, "warm", fail)
        searcher = Searcher(encoder, world.gallery, BatchOptions(), Metrics())
        with pytest.raises(BackendError):
            searcher.warm_up().result(10)
        assert not searcher.ready
        searcher.close()
    assert "the server does not become ready: There is no engine of the image branch." in caplog.text


def test_metrics_count_what_was_asked(world: World) -> None:
    with world.client() as client:
        for _ in range(3):
            _search(client, texts=["a hat"])
        client.get("/api/v1/records/999999")
        text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['tbps_requests_total{method="POST",route="/api/v1/search",status="200"}'] == "3.0"
    assert lines['tbps_requests_total{method="GET",route="/api/v1/records/{record}",status="404"}'] == "1.0"
    assert lines["tbps_gallery_records"] == f"{COUNT}.0" and lines["tbps_queue_depth"] == "0.0"
    assert lines['tbps_stage_seconds_count{stage="encode"}'] == "4.0"  # three, and the first answer


def test_thumbnails_stay_within_their_memory(world: World) -> None:
    pictures = Pictures(1, 4000, Metrics())
    with Gallery.open(world.gallery) as gallery:
        records = list(gallery.records())
    sizes = []
    for record in records:
        etag = pictures.etag(record, "thumbnail")
        sizes.append(len(pictures.make(record, "thumbnail", etag)))
        assert sum(map(len, pictures._kept.values())) <= 4000
    assert sum(sizes) > 4000 > max(sizes)
    pictures.close()


def test_the_api_describes_itself_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/api/v1/search",
        "/api/v1/browse",
        "/api/v1/columns",
        "/api/v1/export",
        "/api/v1/remove",
        *(
            f"/api/v1/records/{{record}}{end}"
            for end in ("", "/thumbnail", "/picture", "/attention", "/frame", "/strip")
        ),
    }
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    for name in ("/", "/static/app.js", "/static/style.css", "/static/icon.svg"):
        text = client.get(name).text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text, name


def test_options_default_to_this_machine() -> None:
    assert ServeOptions().loopback
