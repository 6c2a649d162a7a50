"""What the server refuses: strangers, paths, sizes, numbers, scripts; and that it says so without saying more."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from serve_world import FACTS, SCRIPT, World

from tbps_infer.errors import UsageError
from tbps_infer.gallery import Gallery, GalleryWriter, Removal, remove_records
from tbps_infer.serve.options import Limits, ServeOptions
from tbps_infer.serve.rate_limit import RateLimit

TOKEN = "a-token-of-some-length"
SEARCH = "/api/v1/search"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("serve"))
    made.add(range(4))
    return made


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[TestClient]:
    with world.client(ServeOptions(limits=Limits(rate=0))) as made:
        yield made


def _refused(client: TestClient, status: int, **asked: Any) -> str:
    answer = client.post(SEARCH, json=asked)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "hint", "request_id"}
    assert "Traceback" not in answer.text and '.py"' not in answer.text
    message: str = error["message"]
    return message


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/records/../../../../etc/passwd/picture",
        "/api/v1/records/..%2f..%2f..%2fetc%2fpasswd/picture",
        "/api/v1/records/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/records//etc/passwd/thumbnail",
        "/api/v1/records/1%00/picture",
        "/api/v1/records/1.5/picture",
        "/api/v1/records/-1/picture",
        "/api/v1/records/99999999999999999999/picture",
        "/api/v1/records/77/picture",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/routes.py",
        "/static//etc/passwd",
        "/static/",
    ],
)
def test_no_path_leads_out_of_the_gallery(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 422), answer.status_code
    assert answer.headers["content-type"] == "application/json" and "root:" not in answer.text
    assert "import" not in answer.text


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({}, "needs a sentence"),
        ({"texts": ["  "]}, "empty"),
        ({"texts": ["a\x00b"]}, "control"),
        ({"texts": ["\ud800"]}, "control"),
        ({"texts": ["x" * 1001]}, "1001 characters"),
        ({"texts": ["x"] * 9}, "limit is 8"),
        ({"texts": "a hat"}, "texts"),
        ({"texts": ["a"], "k": 201}, "limit is 200"),
        ({"texts": ["a"], "k": 0}, "k"),
        ({"texts": ["a"], "image_weight": 1.5}, "image_weight"),
        ({"texts": ["a"], "path": "/etc/passwd"}, "path"),
        ({"like": [1, 1, 1, 1, 1]}, "limit is 4"),
        ({"like": ["../1"]}, "like"),
        ({"pictures": ["!!"]}, "base64"),
        ({"pictures": [base64.b64encode(b"no picture").decode()]}, "not a picture"),
        ({"texts": ["a"], "filter": {"where": "1); DROP TABLE record; --"}}, "cannot be used"),
        ({"texts": ["a"], "filter": {"where": "(SELECT count(*) FROM sqlite_master) > 0"}}, "cannot be used"),
        ({"texts": ["a"], "filter": {"where": "load_extension('x')"}}, "cannot be used"),
        ({"texts": ["a"], "filter": {"where": "colour = 3"}}, "cannot be used"),
        ({"texts": ["a"], "filter": {"where": "x" * 2001}}, "2000"),
        ({"texts": ["a"], "filter": {"after": "yesterday"}}, "after"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(client: TestClient, asked: dict[str, Any], part: str) -> None:
    answer = client.post(SEARCH, content=json.dumps(asked), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert part in answer.json()["error"]["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["min_score", "image_weight", "exclude_weight"])
def test_numbers_must_be_finite(client: TestClient, name: str, number: str) -> None:
    body = f'{{"texts": ["a hat"], "{name}": {number}}}'
    answer = client.post(SEARCH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and name in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"x"', "[" * 100_000, "\xff"])
def test_what_is_no_query_is_refused(client: TestClient, body: str) -> None:
    answer = client.post(SEARCH, content=body.encode("latin-1"), headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["message"]


def test_an_unknown_record_is_none_of_the_others_business(client: TestClient) -> None:
    assert "no record 77" in _refused(client, 404, like=[77])
    answer = client.post("/api/v1/export", json={"format": "csv", "records": [77], "search": {"texts": ["a"]}})
    assert answer.status_code == 404


def test_large_bodies_are_refused_declared_or_not(world: World) -> None:
    with world.client(ServeOptions(limits=Limits(body_bytes=5000))) as client:
        head = {"Content-Type": "application/json"}
        assert client.post(SEARCH, content=b" " * 5001, headers=head).status_code == 413

        def pieces() -> Iterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        assert client.post(SEARCH, content=pieces(), headers=head).status_code == 413
        assert client.post(SEARCH, json={"texts": ["a hat"]}).status_code == 200


def test_a_picture_of_many_pixels_is_refused_by_its_header(world: World) -> None:
    data = io.BytesIO()
    Image.new("1", (3000, 3000)).save(data, "PNG")
    with world.client(ServeOptions(limits=Limits(picture_pixels=1_000_000))) as client:
        message = _refused(client, 413, pictures=[base64.b64encode(data.getvalue()).decode()])
    assert "3000x3000" in message


def test_too_many_requests_are_told_when_to_come_back(world: World) -> None:
    with world.client(ServeOptions(limits=Limits(rate=0.01, burst=3))) as client:
        got = [client.post(SEARCH, json={"texts": ["a hat"]}) for _ in range(5)]
        assert [answer.status_code for answer in got] == [200, 200, 200, 429, 429]
        assert 1 <= int(got[-1].headers["retry-after"]) <= 100
        assert client.get("/api/v1/records/1/thumbnail").status_code == 200


def test_the_bucket_fills_over_time() -> None:
    now = [0.0]
    limit = RateLimit(2.0, 2, lambda: now[0])
    assert [limit.wait_s("a") for _ in range(3)] == [0.0, 0.0, pytest.approx(0.5)]
    assert limit.wait_s("b") == 0.0
    now[0] = 0.5
    assert [limit.wait_s("a"), limit.wait_s("a")] == [0.0, pytest.approx(0.5)]
    now[0] = 100.0
    assert [limit.wait_s("a") for _ in range(3)] == [0.0, 0.0, pytest.approx(0.5)]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]"])
def test_names_that_only_resolve_here_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/columns", headers={"Host": host}).status_code == 421
    assert client.get("/", headers={"Host": host}).status_code == 421


def test_behind_a_proxy_the_token_stands_for_the_name(world: World) -> None:
    with world.client(ServeOptions(token=TOKEN)) as client:
        headers = {"Host": "search.example", "Origin": "https://search.example", "Authorization": f"Bearer {TOKEN}"}
        assert client.post(SEARCH, json={"texts": ["a hat"]}, headers=headers).status_code == 200
        del headers["Authorization"]
        assert client.post(SEARCH, json={"texts": ["a hat"]}, headers=headers).status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1:8321", "localhost:1", "[::1]:8321", "LOCALHOST"])
def test_this_machines_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/columns", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_pages_may_not_ask(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post(SEARCH, json={"texts": ["a hat"]}, headers=headers).status_code == 403
    assert client.get("/api/v1/records/1/thumbnail", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_taken(client: TestClient, kind: str) -> None:
    answer = client.post(SEARCH, content=b'{"texts": ["a hat"]}', headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_nobody_is_let_in_across_origins(client: TestClient) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options(SEARCH, headers=asked)
    assert answer.status_code == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_every_answer_wears_its_headers(client: TestClient) -> None:
    for path in ("/", "/static/app.js", "/api/v1/columns", "/api/v1/records/1/picture", "/nowhere", "/healthz"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert (
            policy.startswith("default-src 'none'") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert len(headers["x-request-id"]) == 16


def test_a_script_in_a_caption_or_metadata_comes_back_as_data(client: TestClient) -> None:
    answer = client.post(SEARCH, json={"texts": [SCRIPT], "k": 10})
    assert answer.headers["content-type"].startswith("application/json")
    assert SCRIPT in {hit["metadata"]["note"] for hit in answer.json()["hits"]}
    search = {"texts": [SCRIPT]}
    answer = client.post("/api/v1/export", json={"format": "csv", "records": [1], "search": search})
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_failure_inside_is_a_sentence_outside(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.client() as client:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("secret")

        client.app.state.service.searcher._encode = broken  # type: ignore[attr-defined]
        answer = client.post(SEARCH, json={"texts": ["a hat"]})
        assert answer.status_code == 500 and "secret" not in answer.text and "Zero" not in answer.text
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
        assert "secret" in caplog.text and answer.headers["x-request-id"] in caplog.text
        del client.app.state.service.searcher._encode  # type: ignore[attr-defined]
        assert client.post(SEARCH, json={"texts": ["a hat"]}).status_code == 200


def test_the_token_opens_by_header_and_by_cookie_only(world: World) -> None:
    with world.client(ServeOptions("0.0.0.0", token=TOKEN), base_url="http://server.example") as client:
        for path in ("/api/v1/columns", "/api/v1/records/1/thumbnail", "/metrics", "/openapi.json", "/nowhere"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert client.get("/healthz").status_code == 200
        assert client.get("/").headers["location"] == "/login"
        for wrong in ("Bearer x", f"Bearer {TOKEN}x", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer \xff"):
            answer = client.get("/api/v1/columns", headers={b"Authorization": wrong.encode("latin-1")})
            assert answer.status_code == 401, wrong
        assert client.get("/api/v1/columns", headers={"Cookie": f"tbps_session={TOKEN}"}).status_code == 401
        assert client.get(f"/api/v1/columns?token={TOKEN}").status_code == 401
        assert client.get("/api/v1/columns", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_login_form_gives_a_cookie_that_is_not_the_token(world: World) -> None:
    with world.client(ServeOptions("0.0.0.0", token=TOKEN), base_url="http://server.example") as client:
        answer = client.post("/login", data={"token": "wrong"})
        assert answer.headers["location"] == "/login?wrong" and "set-cookie" not in answer.headers
        answer = client.post("/login", data={"token": TOKEN})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        assert client.get("/").status_code == 200
        assert client.post(SEARCH, json={"texts": ["a hat"]}).status_code == 200
        client.cookies.clear()
        step = client.get(f"/?token={TOKEN}").headers["location"]
        assert client.get(step).headers["location"] == "/"
        assert client.get("/api/v1/columns").status_code == 200


def test_guessing_tokens_is_slowed_down(world: World) -> None:
    with world.client(ServeOptions("0.0.0.0", token=TOKEN), base_url="http://server.example") as client:
        got = [client.get("/metrics", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(12)]
        assert got[:10] == [401] * 10 and got[-1] == 429
        assert client.get("/login?token=guess").status_code == 429
        right = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert right.status_code == 429 and int(right.headers["retry-after"]) >= 1  # else a guess would tell at once


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_addresses_need_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="no token"):
        ServeOptions(host)
    assert ServeOptions(host, token=TOKEN).host == host
    with pytest.raises(UsageError, match="at least 16"):
        ServeOptions(host, token="short")
    assert TOKEN not in repr(ServeOptions(host, token=TOKEN))


def test_only_whoever_has_the_token_removes_and_says_how_many(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(range(6))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with world.client(ServeOptions(token=TOKEN)) as client:
        assert client.post("/api/v1/remove", json={"records": [1], "confirm": 1}).status_code == 401
        assert client.get("/api/v1/columns", headers=headers).json()["removal"] is True
        for body in ({"records": [1, 2], "confirm": 1}, {"records": [], "confirm": 0}, {"records": [1]}):
            assert client.post("/api/v1/remove", json=body, headers=headers).status_code == 422
        with GalleryWriter.open(world.gallery, FACTS):
            busy = client.post("/api/v1/remove", json={"records": [1], "confirm": 1}, headers=headers)
        assert (busy.status_code, busy.json()["error"]["hint"]) == (409, "Try again when it is done.")
        told = client.post("/api/v1/remove", json={"records": [2, 3, 2, 99], "confirm": 3}, headers=headers)
        assert told.json() == {"removed": 2}
        found = client.post("/api/v1/search", json={"texts": ["a coat"]}, headers=headers).json()["hits"]
        assert {hit["record"] for hit in found} == {1, 4, 5, 6}
        assert remove_records(world.gallery, Removal(records=(4,)), purge=True) == 1
        with world.client(ServeOptions(token=TOKEN)) as other:  # a server finds the records under their new name
            assert other.get("/api/v1/records/5", headers=headers).status_code == 200
    world.add(range(6))
    with Gallery.open(world.gallery) as gallery:
        assert gallery.count == 3
    with world.client() as client:
        refused = client.post("/api/v1/remove", json={"records": [1], "confirm": 1})
        assert (refused.status_code, client.get("/api/v1/columns").json()["removal"]) == (403, False)
