"""What the model looked at, over the API: drawn for a record of the gallery and a sentence, refused otherwise."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from serve_world import World

from tbps_infer.explain.attention import Attention
from tbps_infer.images import load_rgb
from tbps_infer.serve.app import create_app
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import ServeOptions
from tbps_infer.serve.searcher import Searcher


class _Graphs:
    """Attention of a made-up model: one word per word, everything at the first cell."""

    def __init__(self) -> None:
        self.asked: list[tuple[Path, str]] = []
        self.closed = False

    def attend(self, picture: Path, sentence: str) -> Attention:
        load_rgb(picture)
        self.asked.append((picture, sentence))
        words = tuple(sentence.split())
        cells = np.zeros((2, 6, 2), np.float32)
        cells[:, 0, 0] = 12
        even = np.ones((2, len(words)), np.float32)
        return Attention(cells, words, even, np.ones((6, len(words)), np.float32))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.add(range(3))
    return made


@contextmanager
def client_with(world: World, graphs: _Graphs | None) -> Iterator[TestClient]:
    options, metrics = ServeOptions(), Metrics()
    searcher = Searcher(world.encoder(), world.gallery, options.batch, metrics, attention=graphs)  # type: ignore[arg-type]
    with TestClient(create_app(searcher, options, metrics), base_url="http://127.0.0.1") as client:
        searcher.warm_up().result(10)
        yield client


def test_a_records_attention_is_drawn_for_a_sentence(world: World) -> None:
    graphs = _Graphs()
    with client_with(world, graphs) as client:
        assert client.get("/api/v1/columns").json()["attention"] is True
        found = client.post("/api/v1/search", json={"texts": ["a man"]}).json()["hits"][0]
        answer = client.post(f"/api/v1/records/{found['record']}/attention", json={"text": "a man in red"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        with Image.open(io.BytesIO(answer.content)) as figure:
            assert figure.format == "PNG" and figure.width > 300
        path, sentence = graphs.asked[0]
        assert (path.name, sentence) == (found["name"], "a man in red")
        assert client.post("/api/v1/records/999/attention", json={"text": "a man"}).status_code == 404
        assert client.post(f"/api/v1/records/{found['record']}/attention", json={"text": " "}).status_code == 422
        long = client.post(f"/api/v1/records/{found['record']}/attention", json={"text": "a" * 100_000})
        assert long.status_code in (413, 422)
        path.unlink()
        gone = client.post(f"/api/v1/records/{found['record']}/attention", json={"text": "a man"})
        assert gone.status_code == 404 and "cannot be read" in gone.json()["error"]["message"]
    assert graphs.closed and len(graphs.asked) == 1


def test_a_model_without_attention_says_so(world: World) -> None:
    with client_with(world, None) as client:
        assert client.get("/api/v1/columns").json()["attention"] is False
        answer = client.post("/api/v1/records/1/attention", json={"text": "a man"})
        assert answer.status_code == 404
        assert "--with-attention" in answer.json()["error"]["hint"]
