"""Removing, compacting, merging, indexing and exporting leave a gallery that finds what it found before."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections import namedtuple
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_vectors import normalised
from numpy.typing import NDArray

from tbps_infer.errors import GalleryBusyError, GalleryError, ModelMismatchError, UsageError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    Gallery,
    GalleryWriter,
    Hit,
    Reject,
    SearchOptions,
    compact_gallery,
    export_gallery,
    index_gallery,
    merge_galleries,
    remove_records,
)
from tbps_infer.gallery.folder import DtypeName
from tbps_infer.gallery.search.results import SearchMethod
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

LAYOUT = VectorLayout((Segment("global", 12), Segment("fine.0", 6, 0.5), Segment("fine.1", 6, 0.5)))

MODEL = fake_facts(layout=LAYOUT)


def embeddings(count: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, 4)) @ np.random.default_rng(9).normal(size=(4, LAYOUT.dim))
    values += 0.05 * rng.normal(size=values.shape)
    return normalised(LAYOUT, values)


def entries(first: int, last: int, content: str = "x") -> list[Entry]:
    return [
        Entry(
            Path(f"/p/{n:03}.jpg"),
            FileStamp(1, 2, content),
            {"camera": f"c{n % 3}", "id": str(n // 4), "size": n * 1.5},
        )
        for n in range(first, last)
    ]


def make(path: Path, dtype: DtypeName = "float16", first: int = 0, last: int = 60) -> Path:
    with GalleryWriter.open(path, MODEL, dtype=dtype) as writer:
        writer.commit(entries(first, last), embeddings(last - first, first))
    return path


def found(path: Path, where: Filter | None = None, **options: Any) -> list[list[tuple[str, float, Any]]]:
    with Gallery.open(path) as gallery:
        gallery.verify()
        hits = gallery.search(embeddings(5, 99), 7, where, SearchOptions(**options))
        return [[(str(hit.path), hit.score, hit.metadata) for hit in some] for some in hits]


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("indexed", [False, True])
def test_compacting_changes_no_search_and_drops_dead_rows(tmp_path: Path, dtype: DtypeName, indexed: bool) -> None:
    path = make(tmp_path / "g", dtype)
    with GalleryWriter.open(path, MODEL) as writer:
        writer.commit(entries(10, 20, "new"), embeddings(10, 5))  # replaced
    assert remove_records(path, Filter(camera=("c1",))) == 20
    if indexed:
        assert index_gallery(path) == 70
    before = found(path)
    with Gallery.open(path) as reader:
        numbers = [(record.record, record.path) for record in reader.records()]
        hits = reader.search(embeddings(5, 99), 7)
        report = compact_gallery(path)
        assert (report.kept, report.dropped) == (40, 30)
        assert reader.search(embeddings(5, 99), 7) == hits, "an open search goes on with its own rows"
    assert report.dropped_indexes == (("sketch-0.idx",) if indexed else ())
    assert found(path) == before
    with Gallery.open(path) as gallery:
        assert [(record.record, record.path) for record in gallery.records()] == numbers
        assert [record.row for record in gallery.records()] == list(range(40))
        assert len(gallery.vectors) == 40
        if indexed:
            by_sketch = gallery.search(embeddings(1), 3, options=SearchOptions("sketch"))
            assert by_sketch == gallery.search(embeddings(1), 3, options=SearchOptions("scan"))
    suffix = {"float16": "f16", "float32": "f32", "int8": "i8"}[dtype]
    assert {file.name for file in path.iterdir() if "vectors" in file.name} == {f"vectors-1.{suffix}"}
    make(path, dtype, 60, 70)  # it can be continued, and compacted again
    compact_gallery(path)
    with Gallery.open(path) as gallery:
        assert gallery.count == 50


def test_removing_needs_a_filter_and_is_all_or_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    with pytest.raises(UsageError, match="needs a filter"):
        remove_records(path, Filter())
    assert remove_records(path, Filter(id=("3", "no such"))) == 4
    assert remove_records(path, Filter(where="size > 75")) == 9
    with Gallery.open(path) as gallery:
        assert gallery.count == 47
        assert {record.metadata["id"] for record in gallery.records()} == set(map(str, range(13))) - {"3"}
    with GalleryWriter.open(path, MODEL), pytest.raises(GalleryBusyError):
        remove_records(path, Filter(id=("4",)))


def test_an_empty_gallery_is_compacted(tmp_path: Path) -> None:
    path = make(tmp_path / "g", last=3)
    remove_records(path, Filter(where="1"))
    assert compact_gallery(path).dropped == 3
    assert found(path) == [[]] * 5
    with pytest.raises(GalleryError, match="empty"):
        index_gallery(path)


def test_damage_is_not_copied_by_compacting(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    data = bytearray((path / "vectors.f16").read_bytes())
    data[100] ^= 1
    (path / "vectors.f16").write_bytes(data)
    with pytest.raises(GalleryError, match="Segment 0"):
        compact_gallery(path)
    assert (path / "vectors.f16").read_bytes() == data


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_merged_galleries_find_what_one_gallery_finds(tmp_path: Path, dtype: DtypeName) -> None:
    parts = [make(tmp_path / f"part{n}", dtype, 20 * n, 20 * n + 20) for n in range(3)]
    with GalleryWriter.open(parts[1], MODEL) as writer:
        writer.commit(rejects=[Reject(Path("/p/broken.jpg"), "It is broken.")])
    with GalleryWriter.open(tmp_path / "whole", MODEL, dtype=dtype) as writer:
        for n in range(3):
            writer.commit(entries(20 * n, 20 * n + 20), embeddings(20, 20 * n))
    report = merge_galleries(parts, tmp_path / "out")
    assert (report.added, report.known) == (60, 0)
    assert found(tmp_path / "out") == found(tmp_path / "whole")
    with Gallery.open(tmp_path / "out") as gallery:
        assert [reject.path.name for reject in gallery.rejects] == ["broken.jpg"]
    again = merge_galleries(parts, tmp_path / "out")
    assert (again.added, again.known) == (0, 60)
    assert found(tmp_path / "out") == found(tmp_path / "whole")


def test_galleries_that_do_not_fit_together_are_not_merged(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    with GalleryWriter.open(tmp_path / "b", fake_facts(layout=LAYOUT, fingerprint="another")) as writer:
        writer.commit(entries(70, 72), embeddings(2))
    with pytest.raises(ModelMismatchError):
        merge_galleries([first, tmp_path / "b"], tmp_path / "out")
    with pytest.raises(GalleryError, match=r"float16.*float32"):
        merge_galleries([first, make(tmp_path / "c", "float32", 70, 75)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with GalleryWriter.open(tmp_path / "d", MODEL) as writer:
        writer.commit(entries(5, 6, "other content"), embeddings(1))
    with pytest.raises(GalleryError, match="other content"):
        merge_galleries([first, tmp_path / "d"], tmp_path / "out")


def test_rows_added_after_the_index_are_found(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    index_gallery(path)
    make(path, first=60, last=90)
    remove_records(path, Filter(camera=("c0",)))
    with Gallery.open(path) as gallery:
        result = gallery.search_with_report(embeddings(5, 99), 7, options=SearchOptions("sketch"))
        assert (result.report.method, result.report.searched, result.report.unindexed) == ("sketch", 60, 20)
        assert result.hits == gallery.search(embeddings(5, 99), 7, options=SearchOptions(method="scan"))
        subset = Filter(not_id=("1", "2", "20"))
        assert gallery.search(embeddings(5, 99), 7, subset, SearchOptions("sketch")) == gallery.search(
            embeddings(5, 99), 7, subset, SearchOptions(method="scan")
        )


@pytest.mark.parametrize(("graph", "name"), [(False, "sketch-0.idx"), (True, "graph-0.usearch")])
def test_verify_reads_the_index_too(tmp_path: Path, graph: bool, name: str) -> None:
    if graph:
        pytest.importorskip("usearch")
    path = make(tmp_path / "g")
    index_gallery(path, graph=graph)
    with Gallery.open(path) as gallery:
        gallery.verify()
    file = path / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with Gallery.open(path) as gallery, pytest.raises(GalleryError, match=name):
        gallery.verify()


def test_methods_without_their_index_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    with Gallery.open(path) as gallery:
        for options in (SearchOptions(method="sketch"), SearchOptions(method="graph")):
            with pytest.raises(UsageError, match=r"has no (sketch|graph)"):
                gallery.search(embeddings(1), 3, options=options)
    with pytest.raises(UsageError, match="method"):
        SearchOptions(method="fast")  # type: ignore[arg-type]


def test_approximate_search_finds_most_and_scores_exactly(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    path = make(tmp_path / "g", last=1000)
    assert index_gallery(path, graph=True) == 1000
    make(path, first=1000, last=1100)  # after the index: searched in full
    remove_records(path, Filter(camera=("c0",)))
    queries = embeddings(20, 98)
    with Gallery.open(path) as gallery:
        result = gallery.search_with_report(queries, 10, options=SearchOptions(method="graph"))
        exact = gallery.search(queries, 10)
        assert (result.report.method, result.report.bytes_read) == ("graph", None)
        scores = {(n, hit.record): hit for n, hits in enumerate(exact) for hit in hits}
        both = [(n, hit) for n, hits in enumerate(result.hits) for hit in hits if (n, hit.record) in scores]
        assert len(both) >= 190
        assert all(scores[n, hit.record] == hit for n, hit in both)
        assert all(hits == sorted(hits, key=order) and len(hits) == 10 for hits in result.hits)
        late = {hit.record for hits in result.hits for hit in hits if hit.record > 1000}
        assert late >= {hit.record for hits in exact for hit in hits if hit.record > 1000} != set()
        with pytest.raises(UsageError, match="cannot be filtered"):
            gallery.search(queries, 10, Filter(camera=("c1",)), SearchOptions(method="graph"))


def order(hit: Hit) -> tuple[float, int]:
    return -hit.score, hit.record


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_exports_are_read_by_other_tools(tmp_path: Path, dtype: DtypeName) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = make(tmp_path / "g", dtype)
    with GalleryWriter.open(path, MODEL) as writer:
        writer.commit(entries(10, 12, "new"), embeddings(2, 5))
    assert export_gallery(path, tmp_path / "out", Filter(not_id=("0",))) == 56
    vectors = np.load(tmp_path / "out" / "vectors.npy")
    table = parquet.read_table(tmp_path / "out" / "records.parquet").to_pylist()
    assert vectors.dtype == (np.float32 if dtype == "int8" else dtype)
    with Gallery.open(path) as gallery:
        records = [record for record in gallery.records() if record.metadata["id"] != "0"]
        assert [row["path"] for row in table] == [str(record.path) for record in records]
        assert [row["id"] for row in table] == [record.metadata["id"] for record in records]
        assert [row["size"] for row in table] == [record.metadata["size"] for record in records]
        exact = gallery.stored.exact(np.array([record.row for record in records]))
        np.testing.assert_array_equal(vectors, exact.astype(vectors.dtype))
    with pytest.raises(GalleryError, match="exists already"):
        export_gallery(path, tmp_path / "out")


def test_a_disk_with_too_little_room_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "g")
    before = found(path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with GalleryWriter.open(path, MODEL) as writer, pytest.raises(GalleryError, match="MB free"):
        writer.commit(entries(70, 72), embeddings(2))
    with pytest.raises(GalleryError, match="MB free"):
        compact_gallery(path)
    with pytest.raises(GalleryError, match="MB free"):
        index_gallery(path)
    assert found(path) == before
    assert {file.name for file in path.iterdir()} <= {
        *("gallery.json", "records.sqlite", "records.sqlite-wal", "records.sqlite-shm", "vectors.f16", "writer.lock")
    }


def test_damage_is_not_copied_by_merging(tmp_path: Path) -> None:
    source = make(tmp_path / "g")
    with (source / "vectors.f16").open("r+b") as file:
        file.seek(100)
        byte = file.read(1)[0]
        file.seek(100)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(GalleryError, match="Segment 0"):
        merge_galleries([source], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_an_export_takes_nothing_away(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    precious = tmp_path / "out.tmp" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    assert export_gallery(path, tmp_path / "out") == 60
    assert precious.read_text() == "mine"
    with pytest.raises(GalleryError, match="exists already"):
        export_gallery(path, tmp_path / "out.tmp")
    assert precious.read_text() == "mine"


def test_an_empty_export_is_read_by_other_tools(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    assert export_gallery(path, tmp_path / "out", Filter(id=("nobody",))) == 0
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (0, LAYOUT.dim)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("work", ["index", "graph", "export"])
def test_a_disk_that_fills_up_is_told_of_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    path = make(tmp_path / "g")
    if work == "graph":
        pytest.importorskip("usearch")
    if work == "export":
        parquet = pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr(parquet, "write_table", full_disk)
    else:
        monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(GalleryError, match="No space left on device"):
        if work == "export":
            export_gallery(path, tmp_path / "out")
        else:
            index_gallery(path, graph=work == "graph")
    monkeypatch.undo()
    assert not [*path.glob("sketch*"), *path.glob("graph*"), *tmp_path.glob("out*")]


def test_a_damaged_graph_is_told_of(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    path = make(tmp_path / "g")
    index_gallery(path, graph=True)
    file = path / "graph-0.usearch"
    whole, options = file.read_bytes(), SearchOptions("graph")
    many = 10**30
    with Gallery.open(path) as gallery:
        assert len(gallery.search(embeddings(1), many, options=options)[0]) == 60
    graph, facts = whole[:-512], whole[-512:]
    for damaged in (
        b"",
        graph,
        graph[: len(graph) // 2],
        graph[: len(graph) // 2] + facts,
        *(graph + said.ljust(512) for said in (b"[]", b"null", b"{}", facts.replace(b"graph-2", b"graph-1").strip())),
        graph + facts.replace(b'"count": 60', b'"count": 61'),
    ):
        file.write_bytes(damaged)
        for search in (True, False):
            with Gallery.open(path) as gallery, pytest.raises(GalleryError, match=r"graph-0\.usearch"):
                if search:
                    gallery.search(embeddings(1), 3, options=options)
                else:
                    gallery.verify()


@pytest.mark.parametrize("method", ["sketch", "graph"])
def test_an_index_may_know_rows_that_came_after_opening(tmp_path: Path, method: SearchMethod) -> None:
    if method == "graph":
        pytest.importorskip("usearch")
    path = make(tmp_path / "g")
    with Gallery.open(path) as opened:
        before = opened.search(embeddings(5, 99), 7, options=SearchOptions("scan"))
        make(path, first=60, last=90)
        index_gallery(path, graph=method == "graph")
        found = opened.search(embeddings(5, 99), 7, options=SearchOptions(method))
        assert all(hit.record <= 60 for hits in found for hit in hits)
        assert method == "graph" or found == before


@pytest.mark.parametrize("value", [None, "text", -1])
def test_records_without_a_row_are_told_of(tmp_path: Path, value: object) -> None:
    path = make(tmp_path / "g")
    with closing(sqlite3.connect(path / "records.sqlite")) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'INTEGER NOT NULL', '')")
        connection.commit()
    with closing(sqlite3.connect(path / "records.sqlite")) as connection:
        connection.execute("UPDATE record SET tbps_row = ? WHERE record = 7", (value,))
        connection.commit()
    with pytest.raises(GalleryError, match=r"records of the gallery .* are damaged"):
        Gallery.open(path)


def test_a_gallery_that_lost_its_facts_is_not_begun_anew(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    facts = (path / "gallery.json").read_text()
    (path / "gallery.json").unlink()
    with pytest.raises(GalleryError, match=r"vectors\.f16 and no gallery\.json"):
        make(path)
    (path / "gallery.json").write_text(facts)
    with Gallery.open(path) as gallery:
        assert gallery.count == 60
        gallery.verify()


def test_a_vector_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "g")
    (path / "vectors.f16").unlink()
    for use in (compact_gallery, index_gallery, Gallery.open):
        with pytest.raises(GalleryError, match=r"vectors\.f16 is not there"):
            use(path)
