"""Removal that holds: tombstones, purges that leave no byte, and retention."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from embedded_folders import FACTS, contents, embed, embedding_of, picture, stored_vector, write_pictures

from tbps_infer.errors import GalleryError, UsageError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    Gallery,
    GalleryWriter,
    Removal,
    SearchOptions,
    compact_gallery,
    index_gallery,
    merge_galleries,
    removable,
    remove_records,
)
from tbps_infer.render.listed_hits import hits_records


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    folder = write_pictures(tmp_path / "pictures", range(20))
    embed(tmp_path / "gallery", folder)
    return tmp_path / "gallery", folder


def test_what_was_removed_is_left_out_by_path_and_by_content(world: tuple[Path, Path]) -> None:
    gallery, folder = world
    assert remove_records(gallery, Removal(records=(3, 4, 5))) == 3
    (folder / "0002.ppm").rename(folder / "elsewhere.ppm")  # the same content at another path
    (folder / "0003.ppm").write_bytes(picture(300))  # other content at the same path
    report = embed(gallery, folder)
    assert (report.removed_earlier, report.unchanged, report.embedded) == (3, 17, 0)
    with Gallery.open(gallery) as opened:
        assert len(opened.tombstones) == 3
    report = embed(gallery, folder, forget=True)
    assert (report.removed_earlier, report.embedded) == (0, 3)
    assert embed(gallery, folder).unchanged == 20
    with Gallery.open(gallery) as opened:
        assert len(opened.tombstones) == 0


def test_a_recorded_picture_that_becomes_a_removed_one_goes(world: tuple[Path, Path]) -> None:
    gallery, folder = world
    remove_records(gallery, Removal(paths=(folder / "0001.ppm",)))
    (folder / "0001.ppm").unlink()
    (folder / "0002.ppm").write_bytes(picture(1))
    (reject,) = embed(gallery, folder).rejects
    assert (reject.path.name, reject.reason) == ("0002.ppm", "Its content was removed from the gallery earlier.")
    assert stored_vector(picture(1)) not in {vector for _, vector in contents(gallery).values()}


def test_merging_does_not_bring_back_what_was_removed(world: tuple[Path, Path], tmp_path: Path) -> None:
    gallery, folder = world
    embed(tmp_path / "other", folder)
    remove_records(gallery, Removal(records=(1, 2)))
    report = merge_galleries([tmp_path / "other"], gallery)
    assert (report.added, report.known, report.removed_earlier) == (0, 18, 2)


@pytest.mark.parametrize("reader_is_open", [False, True])
@pytest.mark.parametrize("removed_before", [False, True])
def test_after_a_purge_no_byte_is_left(tmp_path: Path, reader_is_open: bool, removed_before: bool) -> None:
    """In no file: not in SQLite's log or free pages, not in old generations of the vectors, not in an index."""
    folder = write_pictures(tmp_path / "pictures", range(40))
    secret = folder / "surname-givenname"
    secret.mkdir()
    for number in (7, 8):
        (folder / f"{number:04}.ppm").rename(secret / f"person-{number}.ppm")
    rows = [f"pictures/{n:04}.ppm,{n},plain" for n in range(40) if n not in (7, 8)]
    rows += [f"pictures/surname-givenname/person-{n}.ppm,694,unmistakable note {n}" for n in (7, 8)]
    (tmp_path / "l.csv").write_text("path,id,note\n" + "".join(f"{row}\n" for row in rows))
    gallery = tmp_path / "gallery"
    embed(gallery, tmp_path / "l.csv")
    index_gallery(gallery)
    traces = [b"surname-givenname", b"person-7", b"unmistakable note", *map(stored_vector, map(picture, (7, 8)))]
    assert all(found(gallery, trace) for trace in traces)
    vector = embedding_of(picture(7)[11:])
    with GalleryWriter.open(gallery, FACTS) as writer:  # an old row, in case a purge looked at live ones alone
        stamp = FileStamp(1, 1, hashlib.sha256(picture(7)).hexdigest())
        writer.commit([Entry(secret / "person-7.ppm", stamp, {"note": "earlier note"})], vector[None])
    reader = Gallery.open(gallery)
    try:
        if not reader_is_open:
            reader.close()
        if removed_before:
            assert remove_records(gallery, Filter(id=("694",))) == 2
            assert remove_records(gallery, Removal(), purge=True) == 0
        else:
            assert remove_records(gallery, Filter(id=("694",)), purge=True) == 2
        assert [trace for trace in (*traces, b"earlier note") if found(gallery, trace)] == []
        if reader_is_open:  # it goes on with what it has
            assert reader.count == 40
            assert len(reader.search(vector[None], 3)[0]) == 3
    finally:
        reader.close()
    assert not [trace for trace in traces if found(gallery, trace)], "closing the last reader brought something back"
    assert len(contents(gallery)) == 38
    with Gallery.open(gallery) as opened:
        assert opened.search(vector[None], 3, options=SearchOptions("sketch"))
        assert len(opened.tombstones) == 2
        assert opened.unreachable == []
    report = embed(gallery, tmp_path / "l.csv")
    assert (report.removed_earlier, report.unchanged) == (2, 38)
    compact_gallery(gallery)
    assert not [trace for trace in traces if found(gallery, trace)]


def found(gallery: Path, trace: bytes) -> bool:
    return any(trace in file.read_bytes() for file in gallery.rglob("*") if file.is_file())


def test_a_purge_that_was_killed_is_finished_by_the_next_writer(
    world: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, folder = world
    real = GalleryWriter.rewrite_records
    for broken in ("connect_writer", "next_records_file"):
        with monkeypatch.context() as patch:

            def stop(self: GalleryWriter, name: str = broken) -> None:
                with monkeypatch.context() as inner:
                    inner.setattr(f"tbps_infer.gallery.writer.{name}", fail)
                    real(self)

            patch.setattr(GalleryWriter, "rewrite_records", stop)
            with pytest.raises(KeyboardInterrupt):
                remove_records(gallery, Removal(paths=(folder / "0001.ppm",)), purge=True)
        assert len(contents(gallery)) == 19
    remove_records(gallery, Removal(), purge=True)
    assert not found(gallery, b"0001.ppm")
    assert [file.name for file in gallery.glob("records*.sqlite")] == ["records-2.sqlite"]
    assert embed(gallery, folder).removed_earlier == 1


def fail(*_: object) -> None:
    raise KeyboardInterrupt


def test_records_are_chosen_by_number_path_file_and_age(world: tuple[Path, Path], tmp_path: Path) -> None:
    gallery, folder = world
    now = time.time()
    with GalleryWriter.open(gallery, FACTS) as writer:
        old = Entry(folder / "0001.ppm", FileStamp(1, 1, "x"), {"time": now - 40 * 86400})
        writer.commit([old], embedding_of(b"x")[None])
    with closing(sqlite3.connect(gallery / "records.sqlite")) as connection:
        connection.execute("UPDATE record SET tbps_embedded_s = ? WHERE record IN (2, 5)", (now - 31 * 86400,))
        connection.execute("UPDATE record SET tbps_embedded_s = ? WHERE record = 6", (now - 29 * 86400,))
        connection.commit()
    hits = tmp_path / "hits.csv"
    hits.write_text("rank,score,record\n1,0.5,9\n2,0.4,7\n1,0.5,9\n3,0.1,999\n")
    with Gallery.open(gallery) as opened:

        def chosen(**removal: object) -> list[int]:
            return removable(opened, Removal(**removal)).tolist()  # type: ignore[arg-type, no-any-return]

        assert chosen(records=(3, 1, 99)) == [1, 3]
        assert chosen(paths=(folder / "0004.ppm",)) == [5]
        assert chosen(paths=(folder,)) == list(range(1, 21))
        assert chosen(paths=(folder / "000",)) == []
        assert chosen(older_than_s=30 * 86400) == [2, 5]
        assert chosen(older_than_s=30 * 86400, records=(5, 6)) == [5]
        assert hits_records(hits, opened) == (9, 7, 999)
        assert chosen(records=hits_records(hits, opened)) == [7, 9]
        with pytest.raises(UsageError, match="needs a filter"):
            chosen()
    hits.write_text("record\nx\n")
    with Gallery.open(gallery) as opened, pytest.raises(UsageError, match="line 2: record is 'x'"):
        hits_records(hits, opened)


@pytest.mark.parametrize("form", ["csv", "jsonl", "queries"])
def test_hits_of_another_gallery_are_refused(world: tuple[Path, Path], tmp_path: Path, form: str) -> None:
    gallery, folder = world
    hits = tmp_path / ("hits.csv" if form == "csv" else "hits.jsonl")

    def write(*found: tuple[int, Path]) -> None:
        rows = [{"record": number, "path": str(path)} for number, path in found]
        if form == "csv":
            lines = ["record,path", *(f"{row['record']},{row['path']}" for row in rows)]
        else:
            lines = [json.dumps(row) for row in (rows if form == "jsonl" else [{"id": "1", "hits": rows}])]
        hits.write_text("\n".join(lines) + "\n")

    with Gallery.open(gallery) as opened:
        one, two = (record for record in opened.records() if record.record in (2, 3))
        write((2, one.path), (3, two.path), (999, folder / "gone.ppm"))
        assert hits_records(hits, opened) == (2, 3, 999)
        write((2, Path(f"{one.path} ")), (3, folder / "other.ppm"))
        with pytest.raises(UsageError, match=r"record 3 is .*other\.ppm there and"):
            hits_records(hits, opened)


def test_a_number_that_no_record_can_have_removes_nothing(world: tuple[Path, Path]) -> None:
    assert remove_records(world[0], Removal(records=(10**20,))) == 0
    assert remove_records(world[0], Removal(records=(10**20, 3))) == 1


def test_a_hard_linked_copy_is_refused_and_the_original_stays(world: tuple[Path, Path], tmp_path: Path) -> None:
    gallery, _ = world
    before = contents(gallery)
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in gallery.iterdir():
        (linked / file.name).hardlink_to(file)
    for change in (lambda: remove_records(linked, Removal(records=(1,))), lambda: compact_gallery(linked)):
        with pytest.raises(GalleryError, match="is a hard link") as refused:
            change()
        assert "tbps gallery copy" in refused.value.hint
    assert contents(gallery) == contents(linked) == before
    assert np.array(list(before)).size == 20


def test_merging_keeps_what_is_known_of_age_and_removal(world: tuple[Path, Path], tmp_path: Path) -> None:
    """A picture that was removed from one source and is in another one is there, and embedding may keep it."""
    gallery, folder = world
    long_ago = time.time() - 31 * 86400
    with closing(sqlite3.connect(gallery / "records.sqlite")) as connection:
        connection.execute("UPDATE record SET tbps_embedded_s = ? WHERE record = 5", (long_ago,))
        connection.commit()
    remove_records(gallery, Removal(records=(1, 2)))
    other = write_pictures(tmp_path / "elsewhere", [1])  # the content of the second
    embed(tmp_path / "other", other)
    sources, out = [gallery, tmp_path / "other"], tmp_path / "out"
    for added in (19, 0):
        report = merge_galleries(sources, out)
        assert (report.added, report.removed_earlier) == (added, 0)
    with Gallery.open(out) as merged:
        assert [each.path and each.path.name for each in merged.tombstones] == ["0000.ppm"]
        (old,) = removable(merged, Removal(older_than_s=30 * 86400)).tolist()
        assert merged.details(np.array([old]))[old].path == folder / "0004.ppm"
    assert embed(out, folder).removed_earlier == 1
