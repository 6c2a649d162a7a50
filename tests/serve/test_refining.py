"""What refines a search over the API: each answer against the same computed from the stored vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from serve_world import FACTS, World

from tbps_infer.gallery import Gallery
from tbps_infer.serve.options import Limits, ServeOptions

COUNT = 40
SEARCH = "/api/v1/search"
SENTENCES = ["a woman in a red coat", "a man with a hat", "a backpack"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("refined"))
    made.add(range(COUNT))
    return made


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[TestClient]:
    with world.client(ServeOptions(limits=Limits(rate=0))) as made:
        yield made


@pytest.fixture(scope="module")
def stored(world: World) -> dict[int, NDArray[np.float64]]:
    with Gallery.open(world.gallery) as gallery:
        numbers = [record.record for record in gallery.records()]
        return dict(zip(numbers, gallery.embeddings().astype(np.float64), strict=True))


@pytest.fixture(scope="module")
def texts(world: World) -> dict[str, NDArray[np.float64]]:
    with world.encoder() as encoder:
        return dict(zip(SENTENCES, encoder.encode_texts(SENTENCES).astype(np.float64), strict=True))


def _search(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post(SEARCH, json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _best(scores: dict[int, float], k: int) -> tuple[list[int], list[float]]:
    best = sorted(scores, key=lambda record: (-scores[record], record))[:k]
    return best, [scores[record] for record in best]


def _same(found: dict[str, Any], scores: dict[int, float], k: int) -> None:
    records, values = _best(scores, k)
    assert [hit["record"] for hit in found["hits"]] == records
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(values, abs=1e-5)


def test_pages_of_hits_are_the_list_in_pieces(client: TestClient) -> None:
    whole = _search(client, texts=SENTENCES[:1], k=COUNT)["hits"]
    pieces = [_search(client, texts=SENTENCES[:1], k=15, skip=skip)["hits"] for skip in (0, 15, 30, 45)]
    assert [hit for piece in pieces for hit in piece] == whole
    beyond = _search(client, texts=SENTENCES[:1], k=5, skip=100)
    assert (beyond["hits"], beyond["warnings"]) == ([], [])


@pytest.mark.parametrize(("combine", "of_all"), [("any", max), ("all", min)])
@pytest.mark.parametrize("k", [1, 7, COUNT])
def test_sentences_combine_by_score(
    client: TestClient, stored: Any, texts: Any, combine: str, of_all: Any, k: int
) -> None:
    scores = {record: of_all(float(texts[each] @ vector) for each in SENTENCES) for record, vector in stored.items()}
    found = _search(client, texts=SENTENCES, combine=combine, k=k)
    _same(found, scores, k)
    assert found["searched"] == COUNT
    for hit in found["hits"]:
        assert sum(hit["split"].values()) == pytest.approx(hit["score"], abs=1e-5)


@pytest.mark.parametrize("combine", ["any", "all"])
def test_combined_scores_know_filters_identities_and_a_smallest_score(client: TestClient, combine: str) -> None:
    asked = {"texts": SENTENCES, "combine": combine, "k": COUNT}
    every = _search(client, **asked)["hits"]
    people = _search(client, **asked, per_id=True)["hits"]
    firsts = {hit["metadata"]["id"]: hit["record"] for hit in reversed(every)}
    assert {hit["record"] for hit in people} == set(firsts.values())
    filtered = _search(client, **asked, filter={"camera": ["cam_a"]})
    assert [hit["record"] for hit in filtered["hits"]] == [
        hit["record"] for hit in every if hit["metadata"]["camera"] == "cam_a"
    ]
    assert filtered["searched"] == COUNT // 2
    assert len(_search(client, **asked, min_score=every[4]["score"])["hits"]) == 5


def test_judgements_move_the_query_by_rocchios_formula(client: TestClient, stored: Any, texts: Any) -> None:
    query = texts[SENTENCES[0]]
    right, wrong = [3, 5], [7]
    weights = {"query": 0.8, "relevant": 0.6, "not_relevant": 0.3}
    moved = 0.8 * query + 0.6 * np.mean([stored[each] for each in right], axis=0) - 0.3 * stored[7]
    moved *= np.linalg.norm(query) / np.linalg.norm(moved)
    scores = {record: float(moved @ vector) for record, vector in stored.items()}
    asked = {"texts": SENTENCES[:1], "relevant": right, "not_relevant": wrong, "rocchio": weights}
    _same(_search(client, **asked, k=10), scores, 10)
    usual = {"texts": SENTENCES[:1], "k": 5}
    assert _search(client, **usual)["hits"] == _search(client, **usual, relevant=[], not_relevant=[])["hits"]


def test_a_part_of_a_record_is_searched_alone(client: TestClient, stored: Any) -> None:
    layout = FACTS.layout
    run = layout.slices["fine.1"]
    scores = {record: float(stored[4][run] @ vector[run]) for record, vector in stored.items() if record != 4}
    found = _search(client, parts=[{"record": 4, "segments": ["fine.1"]}], k=6)
    _same(found, scores, 6)
    assert found["most"] == pytest.approx({"global": 0, "coarse": 0, "fine.0": 0, "fine.1": 0.5}, abs=1e-3)
    for hit in found["hits"]:
        assert hit["split"]["global"] == 0


def test_weights_multiply_shares_exactly(client: TestClient) -> None:
    weights = {"global": 0.0, "fine.0": 2.5}
    plain = {hit["record"]: hit for hit in _search(client, texts=SENTENCES[:1], k=COUNT)["hits"]}
    weighed = _search(client, texts=SENTENCES[:1], part_weights=weights, k=COUNT)
    for hit in weighed["hits"]:
        split = plain[hit["record"]]["split"]
        wanted = {name: weights.get(name, 1.0) * share for name, share in split.items()}
        assert hit["split"] == pytest.approx(wanted, abs=1e-6)
        assert hit["score"] == pytest.approx(sum(wanted.values()), abs=1e-5)
    assert weighed["most"]["fine.0"] == pytest.approx(1.25, abs=1e-3)


def test_near_duplicates_are_stacked_on_the_better_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(range(4))
    for number, name in ((0, "again"), (0, "once more"), (2, "copy")):  # the same pixels: the same vector
        (tmp_path / f"{name}.png").write_bytes((tmp_path / f"{number:03d}.png").read_bytes())
    from tbps_infer.embedding import EmbedOptions, embed_gallery
    from tbps_infer.sources import SourceItem

    with world.encoder() as encoder:
        copies = [SourceItem(tmp_path / f"{name}.png", {}) for name in ("again", "once more", "copy")]
        embed_gallery(encoder, copies, world.gallery, EmbedOptions(batch_size=8))
    with world.client() as client:
        hits = _search(client, texts=["a hat"], alike=0.97, k=7)["hits"]
        names = {hit["rank"]: hit["name"] for hit in hits}
        on = {hit["name"]: names[hit["stack"]] for hit in hits if hit["stack"] is not None}
        assert on == {"again.png": "000.png", "once more.png": "000.png", "copy.png": "002.png"}
        second = _search(client, texts=["a hat"], alike=0.97, k=3, skip=4)["hits"]
        assert [(hit["rank"], hit["stack"]) for hit in second] == [(hit["rank"], hit["stack"]) for hit in hits[4:]]
        assert all(hit["stack"] is None for hit in _search(client, texts=["a hat"], k=7)["hits"])


def test_one_per_identity_says_how_many_pictures_there_are(client: TestClient) -> None:
    hits = _search(client, texts=SENTENCES[:1], per_id=True, k=5)["hits"]
    assert [hit["pictures"] for hit in hits] == [2] * 5
    assert _search(client, texts=SENTENCES[:1], k=1)["hits"][0]["pictures"] is None


def test_words_that_the_model_does_not_know_are_named(client: TestClient) -> None:
    assert _search(client, texts=["a hat 穿"])["unknown"] == ["穿"]
    assert _search(client, texts=["a hat"])["unknown"] == []


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"texts": ["a hat"], "skip": 1990, "k": 24}, 422, "the limit is 2000"),
        ({"texts": ["a hat"], "skip": 490, "k": 24, "alike": 0.9}, 422, "the limit is 500"),
        ({"texts": ["a hat"], "skip": -1}, 422, "skip"),
        ({"texts": ["a hat"], "relevant": [999]}, 404, "no record 999"),
        ({"texts": ["a hat"], "relevant": list(range(101))}, 422, "relevant and not_relevant have 101 entries"),
        ({"relevant": [1]}, 422, "a sentence or a picture"),
        ({"texts": ["a hat"], "relevant": [1], "rocchio": {"query": -1}}, 422, "rocchio.query"),
        ({"texts": ["a hat"], "part_weights": {"sleeves": 1}}, 422, "no segment 'sleeves'"),
        ({"texts": ["a hat"], "part_weights": {"global": 11}}, 422, "part_weights.global"),
        ({"parts": [{"record": 1, "segments": ["sleeves"]}]}, 422, "no segment 'sleeves'"),
        ({"parts": [{"record": 1, "segments": []}]}, 422, "parts.0.segments"),
        ({"parts": [{"record": 1, "segments": ["fine.0"]}] * 5}, 422, "like and parts have 5 entries"),
        ({"texts": ["a hat"], "combine": "sum"}, 422, "combine"),
        ({"texts": ["a hat"], "alike": 1.5}, 422, "alike"),
        ({"texts": ["a hat"], "gallery": ["elsewhere"]}, 404, "no gallery 'elsewhere'"),
        ({"like": [{"gallery": "elsewhere", "record": 1}]}, 404, "no gallery 'elsewhere'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    client: TestClient, asked: dict[str, Any], status: int, told: str
) -> None:
    answer = client.post(SEARCH, json=asked)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]["message"]


def test_the_lowest_of_scores_is_exact_whatever_is_looked_at_first(
    client: TestClient, stored: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With estimates that are off by more than scores differ, all records are scored exactly."""
    honest = Gallery.lowest_scores

    def vague(gallery: Gallery, *given: Any) -> tuple[NDArray[np.float32], float]:
        estimates, error = honest(gallery, *given)
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, len(estimates)).astype(np.float32)
        return estimates + noise, error + 0.5

    monkeypatch.setattr(Gallery, "lowest_scores", vague)
    scores = {record: min(float(texts[each] @ vector) for each in SENTENCES) for record, vector in stored.items()}
    _same(_search(client, texts=SENTENCES, combine="all", k=2), scores, 2)
