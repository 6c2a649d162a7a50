"""`tbps gallery` and the options of `tbps search` that compose, filter and group."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fail, succeed

from tbps_infer.data.synth import write_people
from tbps_infer.encoder import Encoder
from tbps_infer.gallery import Filter, Gallery
from tbps_infer.queries import PersonQuery, encode_queries


def hits(*arguments: str | Path) -> list[dict[str, Any]]:
    """The hits of the only query."""
    (result,) = json.loads(succeed("search", *arguments, "--format", "json").stdout)
    found: list[dict[str, Any]] = result["hits"]
    return found


@pytest.fixture
def gallery(tiny_bundle: Path, tmp_path: Path) -> Path:
    people = tmp_path / "people"
    write_people(people, 6, seed=3)
    pictures = sorted(people.glob("*.jpg"))
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        rows = [[str(file), int(file.name[:4]), f"cam{n % 2}"] for n, file in enumerate(pictures)]
        csv.writer(stream).writerows([["path", "id", "camera"], *rows])
    succeed("embed", tiny_bundle, tmp_path / "list.csv", "-o", tmp_path / "gallery")
    return tmp_path / "gallery"


def test_a_gallery_is_indexed_searched_thinned_compacted_and_verified(gallery: Path) -> None:
    everyone = hits(gallery, "a woman in a red coat", "-k", "100")
    assert json.loads(succeed("info", gallery, "--json").stdout)["indexes"] == []
    assert f"sketch of {len(everyone)} rows built" in succeed("gallery", "index", gallery).stdout
    assert json.loads(succeed("info", gallery, "--json").stdout)["indexes"] == ["sketch"]
    assert hits(gallery, "a woman in a red coat", "-k", "100") == everyone
    kept = [hit for hit in everyone if hit["metadata"]["camera"] == "cam1"]
    gone = len(everyone) - len(kept)
    assert (
        f"{gone} of {len(everyone)} records would be"
        in succeed("gallery", "rm", gallery, "--camera", "cam0", "--dry-run").stdout
    )
    assert len(hits(gallery, "x", "-k", "100")) == len(everyone)
    assert f"{gone} records removed" in succeed("gallery", "rm", gallery, "--camera", "cam0").stdout
    assert f"{len(kept)} rows kept, {gone} dropped" in succeed("gallery", "compact", gallery).stdout
    assert f"{len(kept)} records, 1 segment, all" in succeed("gallery", "verify", gallery).stdout
    left = hits(gallery, "a woman in a red coat", "-k", "100")
    assert [(h["path"], h["score"]) for h in left] == [(h["path"], h["score"]) for h in kept]
    for also in ([], ["--dry-run"]):
        refused = fail(2, "gallery", "rm", gallery, *also)
        assert "needs a filter" in refused.stderr


def test_galleries_are_merged_and_exported(gallery: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    count = len(hits(gallery, "x", "-k", "100"))
    assert f"{count} records added, 0 known" in succeed("gallery", "merge", gallery, "-o", tmp_path / "all").stdout
    assert f"0 records added, {count} known" in succeed("gallery", "merge", gallery, "-o", tmp_path / "all").stdout
    assert hits(tmp_path / "all", "x") == hits(gallery, "x")
    succeed("gallery", "export", gallery, "-o", tmp_path / "out", "--camera", "cam1")
    with Gallery.open(gallery) as opened:
        assert len(np.load(tmp_path / "out" / "vectors.npy")) == len(opened.selected(Filter(camera=("cam1",)))[0])


def test_damage_is_reported_with_its_segment(gallery: Path) -> None:
    data = bytearray((gallery / "vectors.f16").read_bytes())
    data[7] ^= 1
    (gallery / "vectors.f16").write_bytes(data)
    done = fail(1, "gallery", "verify", gallery)
    assert "Segment 0" in done.stderr


def test_queries_are_composed_filtered_and_grouped(gallery: Path, tiny_bundle: Path) -> None:
    with Gallery.open(gallery) as opened, Encoder.open(tiny_bundle) as encoder:
        first = next(opened.records()).path
        query = PersonQuery(("a man", "in a black suit"), (first,), ("a backpack",), image_weight=0.8)
        want = opened.search(encode_queries(encoder, [query]), 100)[0]
    parts = (
        "a man",
        "in a black suit",
        "--image",
        first,
        "--not",
        "a backpack",
        "--together",
        "--image-weight",
        "0.8",
    )
    found = hits(gallery, *parts, "-k", "100")
    assert [(hit["record"], hit["score"]) for hit in found] == [(h.record, round(h.score, 6)) for h in want]

    def pairs(some: list[dict[str, Any]]) -> list[tuple[int, float]]:
        return [(hit["record"], hit["score"]) for hit in some]

    one_each = hits(gallery, *parts, "--per-id", "-k", "3")
    best = {hit["metadata"]["id"]: hit for hit in reversed(found)}
    assert pairs(one_each) == pairs(sorted(best.values(), key=lambda hit: -hit["score"])[:3])
    limit = found[4]["score"] - 1e-5
    assert pairs(hits(gallery, *parts, "-k", "100", "--min-score", str(limit))) == pairs(found[:5])
    name = str(found[0]["metadata"]["id"])
    only = hits(gallery, *parts, "-k", "100", "--id", name)
    others = hits(gallery, *parts, "-k", "100", "--not-id", name)
    assert {hit["metadata"]["id"] for hit in only} == {name}
    assert sorted(pairs(only) + pairs(others)) == sorted(pairs(found))


def test_a_weight_without_together_is_not_passed_over(gallery: Path) -> None:
    refused = fail(2, "search", gallery, "a man", "--image-weight", "0.9")
    assert "--image-weight needs --together" in refused.stderr


def test_together_and_a_file_of_queries_contradict_each_other(gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("a man\n")
    fail(2, "search", gallery, "a man", "--together", "--queries", tmp_path / "queries.txt")


def test_an_approximate_search_tells_its_recall(gallery: Path) -> None:
    pytest.importorskip("usearch")
    done = fail(2, "search", gallery, "a man", "--approx")
    assert "tbps gallery index --approx" in done.stderr
    succeed("gallery", "index", gallery, "--approx")
    done = succeed("search", gallery, "a man", "--approx", "-k", "5")
    assert "of 5 hits of an exact search (1 queries compared)" in done.stderr


@pytest.mark.parametrize("name", ["index", "rm", "compact", "merge", "verify", "export"])
def test_help_has_an_example_that_can_be_pasted(name: str) -> None:
    assert f"  tbps gallery {name} " in succeed("gallery", name, "-h").stdout
