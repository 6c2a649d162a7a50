"""Galleries that were damaged, or made by a stranger: a sentence, or the same hits; never a crash or a hang."""

from __future__ import annotations

import errno
import importlib.util
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fail
from fake_vectors import embeddings
from mutations import damaged, swapped
from recorded_disk import RecordedDisk, files_up_to
from text_files import change_json

from tbps_infer.errors import GalleryError, ModelMismatchError, TbpsError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    Gallery,
    GalleryWriter,
    SearchOptions,
    compact_gallery,
    index_gallery,
    remove_records,
)
from tbps_infer.gallery.search import checksums
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

LAYOUT = VectorLayout((Segment("global", 32),))
MODEL = fake_facts(layout=LAYOUT).identified("1" * 64, "2" * 64)
ROWS = 300
QUERIES = embeddings(LAYOUT, 3, 99)
HAS_USEARCH = importlib.util.find_spec("usearch") is not None
needs_usearch = pytest.mark.skipif(not HAS_USEARCH, reason="usearch is not installed")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery with a sketch and, where usearch is there, a graph. Tests that alter it copy it first."""
    path = tmp_path_factory.mktemp("galleries") / "gallery"
    with GalleryWriter.open(path, MODEL) as writer:
        entries = [Entry(Path(f"/p/{n}"), FileStamp(1, 1, f"{n}"), {"id": n, "camera": "c1"}) for n in range(ROWS)]
        writer.commit(entries, embeddings(LAYOUT, ROWS))
    index_gallery(path)
    if HAS_USEARCH:
        index_gallery(path, graph=True)
    return path


@pytest.fixture
def copy(indexed: Path, tmp_path: Path) -> Path:
    return again(indexed, tmp_path)


def again(indexed: Path, place: Path) -> Path:
    shutil.rmtree(place / "copy", ignore_errors=True)
    return Path(shutil.copytree(indexed, place / "copy"))


def use(path: Path) -> Any:
    """Whatever reads a gallery."""
    with Gallery.open(path) as gallery:
        hits = [gallery.search(QUERIES, 5, options=SearchOptions(method)) for method in ("scan", "sketch")]
        if HAS_USEARCH:
            hits.append(gallery.search(QUERIES, 5, options=SearchOptions("graph")))
        gallery.search(QUERIES, 5, Filter(camera=("c1",)))
        gallery.values("camera", 5)
        assert gallery.first_and_last_time() is None or gallery.count
        return hits, list(gallery.records()), gallery.rejects, gallery.unreachable, gallery.roots


@pytest.mark.parametrize("count", [30, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["gallery.json", "records.sqlite"])
def test_what_was_changed_is_refused_or_used(indexed: Path, tmp_path: Path, name: str, count: int) -> None:
    whole, rng = (indexed / name).read_bytes(), random.Random(count)
    for _ in range(count):
        path = again(indexed, tmp_path)
        mutate = swapped if name.endswith(".json") and rng.random() < 0.7 else damaged
        (path / name).write_bytes(mutate(whole, rng))
        for work in (use, lambda path: remove_records(path, Filter(id=("7",))), compact_gallery, use):
            try:
                work(path)
            except TbpsError as error:
                assert error.message


@pytest.mark.parametrize("step", [199, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("index", ["sketch-0.idx", pytest.param("graph-0.usearch", marks=needs_usearch)])
def test_a_bit_that_is_flipped_anywhere_in_an_index_is_found(copy: Path, index: str, step: int) -> None:
    """In this process: a graph that reached usearch would end it."""
    file = copy / index
    whole = file.read_bytes()
    method = index.partition("-")[0]
    for at in range(0, len(whole), step):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        file.write_bytes(data)
        with Gallery.open(copy) as gallery:
            with pytest.raises(GalleryError, match=r"Build it again|cannot be used") as caught:
                gallery.search(QUERIES, 5, options=SearchOptions(method))  # type: ignore[arg-type]
            assert "tbps gallery index" in caught.value.hint


@needs_usearch
def test_a_graph_is_read_once_for_a_file_as_it_is(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[tuple[Any, ...]]()
    hash_file = checksums.file_checksum

    def counted(*arguments: Any) -> str:
        read.append(arguments)
        return hash_file(*arguments)

    monkeypatch.setattr(checksums, "file_checksum", counted)
    file = copy / "graph-0.usearch"
    for _ in range(3):
        with Gallery.open(copy) as gallery:
            assert gallery.graph is not None
    assert len(read) == 1
    file.write_bytes(file.read_bytes())
    with Gallery.open(copy) as gallery:
        assert gallery.graph is not None
    assert len(read) == 2
    with Gallery.open(copy) as gallery:
        gallery.verify()
    assert len(read) > 3


@needs_usearch
@pytest.mark.parametrize("short", [1, 100, 2000, 4096, 5000, 9000])
def test_a_graph_whose_last_write_failed_does_not_take_its_place(copy: Path, short: int) -> None:
    file = copy / "graph-0.usearch"
    before = file.read_bytes()
    with files_up_to(len(before) - 512 - short), pytest.raises(GalleryError, match="cannot be written"):
        index_gallery(copy, graph=True)
    assert file.read_bytes() == before and not list(copy.glob(".*.partial"))
    use(copy)


@needs_usearch
def test_a_graph_that_answers_otherwise_does_not_take_its_place(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from usearch.index import Index

    save = Index.save

    def save_another(index: Any, place: str) -> None:
        other = Index(ndim=32, metric="ip", dtype="f16", connectivity=24, expansion_add=128)
        other.add(np.arange(ROWS), embeddings(LAYOUT, ROWS, 5))
        save(other, place)
        del index

    before = (copy / "graph-0.usearch").read_bytes()
    monkeypatch.setattr(Index, "save", save_another)
    with pytest.raises(GalleryError, match=r"other answers|bytes"):
        index_gallery(copy, graph=True)
    assert (copy / "graph-0.usearch").read_bytes() == before


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i"
TEXT_AS_BYTES = [
    f"UPDATE {table} SET {column} = CAST({column} AS BLOB)"
    for table, column in (
        ("record", "path"),
        ("record", "tbps_sha256"),
        ("record", "camera"),
        ("root", "folder"),
        ("segment", "sha256"),
    )
]


@pytest.mark.parametrize(
    "script",
    [
        "DELETE FROM state",
        "INSERT INTO state VALUES (7)",
        "UPDATE state SET generation = 'x'",
        "UPDATE state SET generation = -1",
        *TEXT_AS_BYTES,
        "UPDATE record SET tbps_size = 'x'",
        f"DROP TABLE segment; CREATE VIEW segment AS {ENDLESS} AS start, 1 AS count, '' AS sha256 FROM n",
        f"ALTER TABLE record RENAME TO r; CREATE VIEW record AS {ENDLESS} AS record FROM n",
        f"DROP TABLE state; CREATE VIEW state AS {ENDLESS} AS generation FROM n",
        f"DROP VIEW records; CREATE VIEW records AS {ENDLESS} AS record, '' AS path, 1 AS id FROM n",
        f"CREATE VIEW more AS {ENDLESS} FROM n",
        "DROP VIEW records; CREATE VIEW records AS SELECT * FROM records",
        "CREATE TRIGGER t AFTER DELETE ON record BEGIN DELETE FROM segment; END",
        "ALTER TABLE record ADD COLUMN big AS (hex(zeroblob(100000000)))",
        "DROP TABLE reject; CREATE VIRTUAL TABLE reject USING fts5(path, reason, tbps_root)",
        "DROP TABLE root",
    ],
)
def test_records_of_a_stranger_are_refused(copy: Path, script: str) -> None:
    with closing(sqlite3.connect(copy / "records.sqlite")) as connection:
        connection.executescript(f"PRAGMA ignore_check_constraints = ON; {script};")
    started = time.monotonic()
    with pytest.raises(GalleryError, match="The records of the gallery"):
        use(copy)
    with pytest.raises(GalleryError, match="The records of the gallery"):
        compact_gallery(copy)
    done = fail(1, "gallery", "verify", copy)
    assert isinstance(done.exception, SystemExit)
    assert time.monotonic() - started < 20


def test_a_page_that_is_linked_a_thousand_times_has_no_billion_rows(copy: Path) -> None:
    """Every leaf of the table of records is the same page, and every level above likewise."""
    with closing(sqlite3.connect(copy / "records.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    link_pages(copy / "records.sqlite")
    started = time.monotonic()
    with pytest.raises(GalleryError, match=r"more rows than its file has room for|malformed"):
        use(copy)
    assert time.monotonic() - started < 20


def link_pages(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'record'").fetchone()[0]
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    assert data[(root - 1) * size] == 5  # an inner page of a table
    leaf = int.from_bytes(data[(root - 1) * size + 8 : (root - 1) * size + 12], "big")
    pages = len(data) // size
    cells = 200
    below = leaf
    for number in range(pages + 1, pages + 9):
        data += inner_page(size, below, cells)
        below = number
    data[(root - 1) * size : root * size] = inner_page(size, below, cells)
    data[28:32] = (len(data) // size).to_bytes(4, "big")
    file.write_bytes(data)


def test_no_reading_of_such_a_table_goes_on_without_end(copy: Path) -> None:
    with closing(sqlite3.connect(copy / "records.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    link_pages(copy / "records.sqlite")
    with Gallery.open(copy) as gallery:
        for read in (
            lambda: list(gallery.records()),
            gallery.times,
            gallery.verify,
        ):
            started = time.monotonic()
            with pytest.raises(TbpsError, match=r"more rows than its file has room for|malformed"):
                read()
            assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "change",
    [*TEXT_AS_BYTES[:3], "UPDATE record SET tbps_size = 'x'", "UPDATE record SET id = x'00'"],
)
def test_a_value_of_another_type_is_not_taken_out(copy: Path, change: str) -> None:
    """Opening does not read them: neither a reader nor a writer may give one out, or build on it."""
    with closing(sqlite3.connect(copy / "records.sqlite")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"{change} WHERE record = 7")
    with Gallery.open(copy) as gallery:
        assert set(gallery.details(np.array([6]))) == {6}
        for take in (lambda: gallery.details(np.array([7])), lambda: list(gallery.records()), gallery.verify):
            with pytest.raises(GalleryError, match=r"record\b.* is of another type"):
                take()
    with pytest.raises(GalleryError, match="is of another type"):
        remove_records(copy, Filter(id=("9",)))
    if "path" not in change:  # a path that is none is not found
        with GalleryWriter.open(copy, MODEL) as writer, pytest.raises(GalleryError, match="is of another type"):
            writer.find(Path("/p/6"))


def inner_page(size: int, below: int, cells: int) -> bytes:
    """A page of a table's tree that names one page many times."""
    page = bytearray(size)
    page[0], page[3:5], page[8:12] = 5, cells.to_bytes(2, "big"), below.to_bytes(4, "big")
    at = size
    for number in range(cells):
        cell = below.to_bytes(4, "big") + bytes([0x80 | (number + 1) >> 7, (number + 1) & 0x7F])
        at -= len(cell)
        page[at : at + len(cell)] = cell
        page[12 + 2 * number : 14 + 2 * number] = at.to_bytes(2, "big")
    page[5:7] = at.to_bytes(2, "big")
    return bytes(page)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.update(max_length=5), "changed since"),
        (lambda model: model["preprocessing"].update(std=[1, 1, 1]), "changed since"),
        (lambda model: model.update(weights=7), "want text"),
        (lambda model: model.update(layout=[{"name": "global", "size": 10**9, "weight": 1}]), "layout"),
    ],
)
def test_facts_that_were_changed_are_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    change_json(copy / "gallery.json", lambda values: change(values["model"]))
    with pytest.raises(GalleryError, match=reason):
        Gallery.open(copy)


@pytest.mark.parametrize("name", ["pad_id", "caption_rule"])
def test_facts_are_compared_with_the_models(copy: Path, name: str) -> None:
    """A gallery of a version that did not record the hashes: its facts are the model's or refused."""

    def change(values: dict[str, Any]) -> None:
        del values["model"]["weights"], values["model"]["tokenizer"]

    change_json(copy / "gallery.json", change)
    with Gallery.open(copy) as gallery:
        gallery.require_model(MODEL)
    change_json(copy / "gallery.json", lambda v: v["model"].update({name: 1 if name == "pad_id" else "pre_caption"}))
    with Gallery.open(copy) as gallery, pytest.raises(ModelMismatchError, match=f"differ in {name}"):
        gallery.require_model(MODEL)


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("work", ["compact", "index", "purge"])
def test_a_disk_that_fails_at_any_sync_or_rename_gives_a_sentence(
    indexed: Path, tmp_path: Path, work: str, failure: int
) -> None:
    """Before the commit, in it and after it; the gallery is whole each time."""
    for fail_at in range(1, 100):
        path = again(indexed, tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            disk = RecordedDisk(patch)
            disk.fail_at, disk.failure = fail_at, failure
            try:
                do(work, path)
            except GalleryError as error:
                assert error.message
        with Gallery.open(path) as gallery:
            gallery.verify()
            assert gallery.count in (ROWS, ROWS - 1)
        if len(disk.calls) < fail_at:
            break
    assert 2 < fail_at < 99


def do(work: str, path: Path) -> object:
    if work == "index":
        return index_gallery(path)
    if work == "compact":
        return compact_gallery(path)
    return remove_records(path, Filter(id=("7",)), purge=True)


@pytest.mark.parametrize("size", [*range(0, 40_000, 2500), *range(60_000, 160_000, 20_000)])
@pytest.mark.parametrize("work", ["compact", "purge"])
def test_a_full_disk_at_any_write_gives_a_sentence(copy: Path, work: str, size: int) -> None:
    """Whoever writes: this program, SQLite, or usearch."""
    with files_up_to(size):
        try:
            do(work, copy)
        except GalleryError as error:
            assert error.message
    with Gallery.open(copy) as gallery:
        gallery.verify()
        assert gallery.count in (ROWS, ROWS - 1)


@pytest.mark.parametrize("name", ["open", "pread"])
def test_an_index_that_cannot_be_read_is_told_of(copy: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (copy / "sketch-0.idx").write_bytes((copy / "sketch-0.idx").read_bytes())

    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    if name == "pread":
        monkeypatch.setattr("os.pread", failing)
    else:
        (copy / "sketch-0.idx").unlink()
        (copy / "sketch-0.idx").mkdir()
    with pytest.raises(GalleryError, match=r"sketch-0\.idx"):
        compact_gallery(copy)


KILLED = """
import os, signal, sys
from pathlib import Path
from tbps_infer import atomic
left = int(sys.argv[2])
def counted(call):
    def maybe(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return maybe
for owner, names in ((os, ("fsync", "pwrite", "ftruncate")), (Path, ("rename", "replace", "unlink"))):
    for name in names:
        setattr(owner, name, counted(getattr(owner, name)))
from tbps_infer.gallery import Filter, compact_gallery, remove_records
remove_records(Path(sys.argv[1]), Filter(id=("7",)))
compact_gallery(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_kill_at_every_write_leaves_a_whole_gallery(indexed: Path, tmp_path: Path) -> None:
    for kill_at in range(1, 100):
        path = again(indexed, tmp_path)
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(kill_at)], check=False)
        with GalleryWriter.open(path, MODEL):
            pass
        with Gallery.open(path) as gallery:
            gallery.verify()
            assert gallery.count in (ROWS, ROWS - 1)
        if done.returncode == 0:
            break
    assert kill_at > 3
