"""A search of a gallery on disk is brute force over what it stores."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_vectors import embeddings
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError, UsageError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    Gallery,
    GalleryWriter,
    Hit,
    Reject,
    SearchOptions,
    index_gallery,
    remove_records,
)
from tbps_infer.gallery.folder import DtypeName
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

LAYOUT = VectorLayout(
    (Segment("global", 6), Segment("coarse", 6), Segment("fine.0", 2, 0.5), Segment("fine.1", 3, 0.5))
)
MODEL = fake_facts(layout=LAYOUT)


def entry(number: int) -> Entry:
    return Entry(Path(f"/p/{number}.jpg"), FileStamp(1, 2, "x"), {"camera": f"cam_{number % 3}", "id": number})


def brute_force(
    gallery: Gallery, query: NDArray[np.float32], k: int, numbers: Sequence[int]
) -> list[tuple[float, int]]:
    """(-score, record) of the best, from correctly rounded sums, equal scores by record."""
    found = []
    for record in gallery.records():
        if int(str(record.metadata["id"])) in numbers:
            products = gallery.stored.exact(np.array([record.row]))[0] * query.astype(np.float64)
            found.append((-float(np.float32(math.fsum(products))), record.record))
    return sorted(found)[:k]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["float16", "float32", "int8"]))
def test_search_is_brute_force(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, seed: int, dtype: DtypeName
) -> None:
    rng = np.random.default_rng(seed)
    pool = embeddings(LAYOUT, data.draw(st.integers(1, 12)), rng)  # few vectors for many pictures: ties
    path = tmp_path_factory.mktemp("search") / "gallery"
    with GalleryWriter.open(path, MODEL, dtype=dtype) as writer:
        for _ in range(data.draw(st.integers(0, 4))):
            # Numbers that come again are embedded again: their rows lie behind those of later records.
            numbers = data.draw(st.lists(st.integers(0, 25), unique=True, max_size=20))
            gone = data.draw(st.sets(st.integers(0, 25), max_size=3)) - set(numbers)
            writer.commit(
                [entry(number) for number in numbers],
                pool[rng.integers(0, len(pool), len(numbers))],
                rejects=[Reject(entry(number).path, "gone") for number in gone],
            )
    queries = np.concatenate((pool[:2], embeddings(LAYOUT, 2, rng)))
    k = data.draw(st.integers(1, 30))
    cameras = data.draw(st.sets(st.integers(0, 2), max_size=2))
    limit = data.draw(st.none() | st.integers(0, 25))
    below = None if limit is None else f"cast(id as integer) < {limit}"
    wanted = Filter(camera=tuple(f"cam_{number}" for number in cameras), where=below)
    numbers = [n for n in range(26) if (not cameras or n % 3 in cameras) and (limit is None or n < limit)]
    with Gallery.open(path) as gallery:
        hits = gallery.search(queries, k=k, where=wanted)
        for query, found in zip(queries, hits, strict=True):
            assert [(-hit.score, hit.record) for hit in found] == brute_force(gallery, query, k, numbers)
            check_details(gallery, query, found)
        for position in range(len(queries)):
            assert gallery.search(queries[position : position + 1], k=k, where=wanted) == [hits[position]]


def check_details(gallery: Gallery, query: NDArray[np.float32], found: list[Hit]) -> None:
    records = {record.record: record for record in gallery.records()}
    for hit in found:
        record = records[hit.record]
        assert (hit.path, hit.metadata) == (record.path, record.metadata)
        assert tuple(hit.split) == LAYOUT.names
        stored = gallery.stored.exact(np.array([record.row]))[0]
        for name, share in hit.split.items():
            piece = LAYOUT.slices[name]
            assert share == np.float32(math.fsum(stored[piece] * query[piece].astype(np.float64)))
        assert math.isclose(sum(hit.split.values()), hit.score, rel_tol=1e-6, abs_tol=1e-6)


@pytest.fixture
def gallery_path(tmp_path: Path) -> Path:
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit([entry(number) for number in range(50)], embeddings(LAYOUT, 50, 0))
    return tmp_path


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 12), identities=st.integers(1, 15), quantile=st.floats(0, 1))
def test_identities_are_grouped_and_low_scores_left_out(
    tmp_path_factory: pytest.TempPathFactory, seed: int, k: int, identities: int, quantile: float
) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("grouped") / "gallery"
    people = [None if number == 0 else int(number) for number in rng.integers(0, identities + 1, 40)]
    with GalleryWriter.open(path, MODEL) as writer:
        entries = [Entry(Path(f"/{n}"), FileStamp(1, 2, "x"), {"id": person}) for n, person in enumerate(people)]
        writer.commit(entries, embeddings(LAYOUT, 40, rng))
    queries = embeddings(LAYOUT, 3, rng)
    with Gallery.open(path) as gallery:
        all_hits = gallery.search(queries, 40)
        smallest = float(np.quantile([hit.score for hit in all_hits[0]], quantile))
        for grouped, limit in ((False, smallest), (True, None), (True, smallest)):
            found = gallery.search(queries, k, options=SearchOptions(min_score=limit, per_id=grouped))
            for hits, everything in zip(found, all_hits, strict=True):
                want: dict[object, Hit] = {}
                for hit in everything:
                    person = hit.metadata.get("id") if grouped else None
                    if limit is None or hit.score >= limit:
                        want.setdefault(f"record {hit.record}" if person is None else person, hit)
                assert hits == list(want.values())[:k]


def test_an_empty_gallery_gives_no_hits(tmp_path: Path) -> None:
    GalleryWriter.open(tmp_path, MODEL).close()
    queries = embeddings(LAYOUT, 3, 0)
    with Gallery.open(tmp_path) as gallery:
        assert gallery.count == 0
        assert gallery.search(queries, k=5) == [[], [], []]
        assert gallery.search(queries[:0], k=5) == []
        assert gallery.search(queries, k=5, where=Filter(camera=("cam_0",))) == [[], [], []]


def test_queries_and_filters_in_other_forms(gallery_path: Path) -> None:
    queries = embeddings(LAYOUT, 3, 1)
    with Gallery.open(gallery_path) as gallery:
        expected = gallery.search(queries)
        assert gallery.search(queries.astype(np.float64)) == expected
        assert gallery.search(queries[1]) == expected[1:2]
        assert gallery.search(queries.tolist()) == expected
        assert gallery.search(queries, where="record < 5") == gallery.search(
            queries, where=Filter(where="record < 5")
        )
        assert len(gallery) == gallery.count and f"{gallery.count} records" in repr(gallery)
        card = expected[0][0]._repr_html_()
        assert f"{expected[0][0].score:.3f}" in card and str(expected[0][0].path) in card


def test_queries_that_make_no_sense_are_refused(gallery_path: Path) -> None:
    queries = embeddings(LAYOUT, 3, 1)
    with Gallery.open(gallery_path) as gallery:
        for bad in (np.nan, np.inf):
            spoilt = queries.copy()
            spoilt[1, 4] = bad
            with pytest.raises(UsageError, match="Query 1 holds NaN or infinity"):
                gallery.search(spoilt)
        for wrong in (
            queries[:, :-1],
            queries[None],
            queries.astype(np.int64),
            "a man",
            ["a man"],
            [[1.0], []],
            None,
        ):
            with pytest.raises(UsageError, match=r"want float32\[n, 17\]") as refusal:
                gallery.search(wrong)  # type: ignore[arg-type]
            assert "encode_texts" in refusal.value.hint
        with pytest.raises(UsageError, match="k is 0"):
            gallery.search(queries, k=0)
    with pytest.raises(UsageError, match="min_score is NaN"):
        SearchOptions(min_score=float("nan"))


def test_thousands_of_queries_are_answered_in_turns(gallery_path: Path) -> None:
    queries = embeddings(LAYOUT, 2500, 2)
    with Gallery.open(gallery_path) as gallery:
        hits = gallery.search(queries, k=2)
        assert len(hits) == 2500
        for position in (0, 1023, 1024, 2047, 2048, 2499):
            numbers = range(50)
            want = brute_force(gallery, queries[position], 2, numbers)
            assert [(-hit.score, hit.record) for hit in hits[position]] == want


def test_one_gallery_serves_many_threads(gallery_path: Path) -> None:
    queries = embeddings(LAYOUT, 4, 3)
    results: list[list[list[Hit]]] = []
    with Gallery.open(gallery_path) as gallery:
        want = gallery.search(queries, k=7, where=Filter(where="cast(id as integer) > 9"))
        threads = [
            threading.Thread(
                target=lambda: results.extend(
                    gallery.search(queries, k=7, where=Filter(where="cast(id as integer) > 9")) for _ in range(20)
                )
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [want] * 80


def test_damaged_vectors_are_an_error_and_not_a_hit(gallery_path: Path) -> None:
    file = gallery_path / "vectors.f16"
    data = bytearray(file.read_bytes())
    data[17 * 2 * 7 + 5] = 0x7F  # the upper byte of a number of row 7: NaN or 32768 and more
    file.write_bytes(data)
    query = np.zeros((1, 17), dtype=np.float32)
    query[0, 2] = 1.0
    with Gallery.open(gallery_path) as gallery, pytest.raises(GalleryError, match="damaged"):
        gallery.search(query)


def test_a_closed_gallery_says_so(gallery_path: Path) -> None:
    gallery = Gallery.open(gallery_path)
    gallery.close()
    gallery.close()
    with pytest.raises(GalleryError, match="closed"):
        gallery.search(embeddings(LAYOUT, 1, 0))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_graph_that_finds_too_few_answers_all_the_same(tmp_path: Path, dtype: DtypeName) -> None:
    """What it does not find is filled up for a while by rows without a score, which nothing must estimate."""
    pytest.importorskip("usearch")
    path = tmp_path / "gallery"
    vectors = embeddings(LAYOUT, 600, np.random.default_rng(5))
    with GalleryWriter.open(path, MODEL, dtype=dtype) as writer:
        writer.commit([entry(number) for number in range(600)], vectors)
    index_gallery(path, graph=True)
    remove_records(path, Filter(where="record % 2 = 0"))
    with Gallery.open(path) as gallery:
        for k in (100, 400):
            hits = gallery.search(vectors[:3], k, options=SearchOptions("graph"))
            assert all(0 < len(found) <= min(k, 300) for found in hits)
            assert all(hit.record % 2 for found in hits for hit in found)
