"""Copies of galleries beside a writer, and galleries of the previous version."""

from __future__ import annotations

import json
import sqlite3
import threading
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from embedded_folders import FACTS, LAYOUT, contents, embed, write_pictures
from fake_vectors import embeddings

from tbps_infer.errors import GalleryError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    Gallery,
    GalleryWriter,
    Reject,
    Removal,
    compact_gallery,
    copy_gallery,
    index_gallery,
    relocate_gallery,
    remove_records,
)

PREVIOUS = Path(__file__).with_name("gallery-version-1.zip")
"""Written by the version before this schema: random vectors, no pictures."""


def test_a_copy_is_one_moment_of_a_gallery_that_is_being_written_to(tmp_path: Path) -> None:
    """Batches of ten are committed, replaced and compacted; every copy has one whole batch."""
    gallery, stop = tmp_path / "gallery", threading.Event()
    first = [Entry(Path(f"/p/{n}"), FileStamp(1, 0, "0"), {"id": 0}) for n in range(10)]
    with GalleryWriter.open(gallery, FACTS) as writer:
        writer.commit(first, embeddings(LAYOUT, 10))
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for turn in range(1, 10**6):
                if stop.is_set():
                    return
                entries = [Entry(Path(f"/p/{n}"), FileStamp(1, turn, f"{turn}"), {"id": turn}) for n in range(10)]
                with GalleryWriter.open(gallery, FACTS) as writer:
                    writer.commit(entries, embeddings(LAYOUT, 10, turn))
                if turn % 3 == 0:
                    index_gallery(gallery)
                if turn % 5 == 0:
                    compact_gallery(gallery)
                if turn % 11 == 0:
                    remove_records(gallery, Removal(records=(10**6,)), purge=True)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    try:
        for number in range(12):
            assert copy_gallery(gallery, tmp_path / f"copy{number}") == 10
            with Gallery.open(tmp_path / f"copy{number}") as copy:
                copy.verify()
                (written,) = {record.metadata["id"] for record in copy.records()}
                assert isinstance(written, str)
                turn = int(written)
                want = embeddings(LAYOUT, 10, turn).astype(np.float16)
                rows = [record.row for record in copy.records()]
                np.testing.assert_array_equal(copy.vectors[rows], want)
                assert copy.search(embeddings(LAYOUT, 1, turn), 1)[0][0].record == 1
                seen.add(turn)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert len(seen) > 1, "the writer did not write meanwhile"


def test_a_copy_has_the_index_and_is_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "pictures", range(30))
    embed(tmp_path / "gallery", folder)
    index_gallery(tmp_path / "gallery")
    assert copy_gallery(tmp_path / "gallery", tmp_path / "copy") == 30
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {
        *("gallery.json", "records.sqlite", "vectors.f16", "sketch-0.idx")
    }
    assert contents(tmp_path / "copy") == contents(tmp_path / "gallery")
    assert embed(tmp_path / "copy", folder).unchanged == 30  # a backup that is restored goes on
    with pytest.raises(GalleryError, match="exists already"):
        copy_gallery(tmp_path / "gallery", tmp_path / "copy")
    monkeypatch.setattr(Gallery, "verify", stop)
    with pytest.raises(KeyboardInterrupt):
        copy_gallery(tmp_path / "gallery", tmp_path / "half")
    assert not (tmp_path / "half").exists()


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    with zipfile.ZipFile(PREVIOUS) as archive:
        archive.extractall(tmp_path / "previous")
    return tmp_path / "previous"


PATHS = ["/old/disk/cam_a/01.ppm", "/old/disk/cam_a/02.ppm", "/old/disk/cam_b/03.ppm"]
PATHS += ["/old/disk/cam_b/04.ppm", "/old/disk/cam_b/05.ppm"]


def test_a_gallery_of_the_previous_version_is_searched_as_it_is(previous: Path) -> None:
    files = {file.name: file.read_bytes() for file in previous.iterdir() if "-" not in file.name}
    check_previous(previous)
    with Gallery.open(previous) as gallery:
        assert (gallery.unreachable, gallery.tombstones, gallery.roots) == ([], [], {Path("/old/disk"): 5})
    assert {file.name: file.read_bytes() for file in previous.iterdir() if "-" not in file.name} == files


def check_previous(gallery: Path, person: str | int = 0) -> None:
    want = embeddings(LAYOUT, 7).astype(np.float16)
    with Gallery.open(gallery) as opened:
        opened.verify()
        records = list(opened.records())
        assert [str(record.path) for record in records] == PATHS
        assert [record.record for record in records] == [1, 2, 3, 4, 5]
        rows = [record.row for record in records]
        np.testing.assert_array_equal(opened.vectors[rows], want[[0, 6, 2, 3, 4]])
        assert records[1].metadata == {"id": person, "camera": "cam_a", "time": "2024-05-02", "floor": 9}
        assert opened.rejects == [
            Reject(Path("/old/disk/bad.ppm"), "The picture cannot be decoded: it is cut short.")
        ]
        hits = opened.search(embeddings(LAYOUT, 1), 9, Filter(camera=("cam_b",), after="2024-05-04"))[0]
        assert sorted(hit.record for hit in hits) == [4, 5]
        hits = opened.search(embeddings(LAYOUT, 1), 9, Filter(where="path like '%/cam_a/%'"))[0]
        assert sorted(str(hit.path) for hit in hits) == PATHS[:2]


def test_the_first_writer_converts_a_gallery_of_the_previous_version(previous: Path, tmp_path: Path) -> None:
    with Gallery.open(previous) as reader:
        GalleryWriter.open(previous, FACTS).close()
        assert [str(record.path) for record in reader.records()] == PATHS, "an open search goes on"
    assert json.loads((previous / "gallery.json").read_text())["schema"] == 2
    check_previous(previous, "0")
    with GalleryWriter.open(previous, FACTS) as writer:
        new = Entry(Path("/old/disk/cam_a/07.ppm"), FileStamp(1, 2, "new"), {})
        writer.commit([new], embeddings(LAYOUT, 1, 5))
    assert contents(previous)[str(new.path)][0] == 7, "the number of a removed record was used again"
    (tmp_path / "disk").mkdir()
    assert relocate_gallery(previous, Path("/old/disk"), tmp_path / "disk") == 6
    with Gallery.open(previous) as opened:
        assert opened.rejects[0].path == tmp_path / "disk" / "bad.ppm"


def test_a_conversion_types_columns_and_reads_times_as_new_records_do(previous: Path) -> None:
    with closing(sqlite3.connect(previous / "records.sqlite")) as records, records:
        records.execute("UPDATE record SET time = 20240501, tbps_time_s = 20240501 WHERE record = 1")
        records.execute("UPDATE record SET time = '2024-05-02T23:30:00-05:00', camera = 1.5 WHERE record = 2")
        records.execute("UPDATE record SET floor = 'cellar' WHERE record = 3")

    def found(wanted: Filter) -> list[int]:
        with Gallery.open(previous) as gallery:
            return sorted(hit.record for hit in gallery.search(embeddings(LAYOUT, 1), 9, wanted)[0])

    days = Filter(after="2024-05-01", before="2024-05-03"), Filter(before="2024-05-03T00:00Z")
    assert [found(day) for day in days] == [[1, 2], [1]]
    GalleryWriter.open(previous, FACTS).close()
    assert [found(day) for day in days] == [[1, 2], [1]]
    assert found(Filter(where="typeof(id) = 'text' and floor = '2'")) == []
    assert found(Filter(where="typeof(id) = 'text' and floor in ('cellar', '9')")) == [2, 3]
    assert found(Filter(camera=("1.5",))) == [2]
    with Gallery.open(previous) as gallery:
        assert next(gallery.records()).metadata["time"] == "2024-05-01"


def test_a_conversion_that_is_stopped_leaves_the_previous_version(
    previous: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tbps_infer.gallery.conversion._copy", stop)
        with pytest.raises(KeyboardInterrupt):
            GalleryWriter.open(previous, FACTS)
    check_previous(previous)
    with monkeypatch.context() as patch:  # after the records, before gallery.json says so
        patch.setattr("tbps_infer.gallery.folder.GalleryFacts.write", stop)
        with pytest.raises(KeyboardInterrupt):
            GalleryWriter.open(previous, FACTS)
    check_previous(previous, "0")
    GalleryWriter.open(previous, FACTS).close()
    check_previous(previous, "0")
    assert json.loads((previous / "gallery.json").read_text())["schema"] == 2


def stop(*_: object) -> None:
    raise KeyboardInterrupt
