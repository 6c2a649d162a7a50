"""A gallery's folder: what is written, refused and recovered."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_vectors import embeddings
from numpy.typing import NDArray

from tbps_infer.errors import GalleryBusyError, GalleryError, ModelMismatchError
from tbps_infer.gallery import Entry, FileStamp, Filter, Gallery, GalleryWriter, Reject
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

LAYOUT = VectorLayout((Segment("global", 8), Segment("fine.0", 3, 0.5), Segment("fine.1", 5, 0.5)))


MODEL = replace(fake_facts(layout=LAYOUT, fingerprint="f" * 64), config={"k": 2})


def entries(names: Sequence[str], **metadata: str | int | float | None) -> list[Entry]:
    return [Entry(Path("/p") / name, FileStamp(1, 2, f"sha of {name}"), metadata) for name in names]


def contents(path: Path) -> list[tuple[int, str, dict[str, object], bytes]]:
    with Gallery.open(path) as gallery:
        gallery.verify()
        return [
            (r.record, str(r.path), dict(r.metadata), gallery.vectors[r.row].tobytes()) for r in gallery.records()
        ]


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("float32", np.float32)])
def test_what_is_written_is_read(tmp_path: Path, name: str, dtype: type) -> None:
    path = tmp_path / "new" / "gallery"
    vectors = embeddings(LAYOUT, 5)
    with GalleryWriter.open(path, MODEL, dtype=name, bundle_path=Path("/some/bundle")) as writer:  # type: ignore[arg-type]
        writer.commit(entries(["a", "b"], camera="cam_a", shelf=3), vectors[:2])
        writer.commit(
            entries(["c", "d", "e"], id="7", time="2024-05-31"), vectors[2:], rejects=[Reject(Path("/x"), "bad")]
        )
    with Gallery.open(path) as gallery:
        assert gallery.count == 5
        assert gallery.verify() == 2
        assert gallery.model == MODEL
        assert gallery.bundle_path == Path("/some/bundle")
        assert gallery.dtype == np.dtype(dtype)
        assert gallery.columns == ("id", "camera", "time", "shelf")
        assert gallery.rejects == [Reject(Path("/x"), "bad")]
        np.testing.assert_array_equal(gallery.vectors, vectors.astype(dtype))
        records = list(gallery.records())
    assert [(r.record, str(r.path), r.row) for r in records] == [(i + 1, f"/p/{n}", i) for i, n in enumerate("abcde")]
    assert [dict(r.metadata) for r in records] == [{"camera": "cam_a", "shelf": 3}] * 2 + [
        {"id": "7", "time": "2024-05-31"}
    ] * 3


def test_a_changed_picture_keeps_its_record_and_gets_a_new_row(tmp_path: Path) -> None:
    vectors = embeddings(LAYOUT, 4)
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a", "b", "c"], shelf=1), vectors[:3])
        changed = Entry(Path("/p/b"), FileStamp(9, 9, "new"), {"SHELF": 2})
        writer.commit([changed], vectors[3:])
        assert writer.find(Path("/p/b")) == Entry(
            Path("/p/b"), FileStamp(9, 9, "new"), {"id": None, "camera": None, "time": None, "shelf": 2}
        )
    with Gallery.open(tmp_path) as gallery:
        assert [(r.record, r.row, dict(r.metadata)) for r in gallery.records()] == [
            (1, 0, {"shelf": 1}),
            (2, 3, {"shelf": 2}),
            (3, 2, {"shelf": 1}),
        ]
        assert len(gallery.vectors) == 4


def test_pictures_are_found_together_as_one_by_one(tmp_path: Path) -> None:
    """Below nested roots, with names that JSON spells otherwise, beside ones without a record."""
    names = ["a", "deep/b", 'q"uote', "ünï/😀", "deep/er/c"]
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.add_roots([Path("/p")])
        writer.commit(entries(names[:3], shelf=1), embeddings(LAYOUT, 3))
        writer.add_roots([Path("/p/deep")])  # what is recorded below the outer root is found still
        writer.commit(entries(names[3:], shelf=2), embeddings(LAYOUT, 2, 1))
        paths = [Path("/p") / name for name in (*names, "none", "deep/none")] + [Path("/elsewhere/a")]
        found = writer.find_all(paths)
        assert set(found) == set(paths[:5])
        for path in paths[:5]:
            one = writer.find(path)
            assert one is not None
            assert (one.stamp, one.metadata) == (found[path].stamp, found[path].metadata)
            assert not found[path].differs(one.stamp, {"SHELF": one.metadata["shelf"]})
            assert found[path].differs(one.stamp, {"shelf": 3})
            assert found[path].differs(one.stamp, {"new": 3})
        assert writer.find_all([]) == {}


def test_metadata_of_an_unchanged_picture_is_brought_up_to_date(tmp_path: Path) -> None:
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a", "b"], shelf=1, time="2024"), embeddings(LAYOUT, 2))
        writer.commit(unchanged=entries(["a"]))  # names no column: nothing changes
        writer.commit(unchanged=entries(["b"], time="2025-01-02", floor="2nd"))
    with Gallery.open(tmp_path) as gallery:
        assert [dict(r.metadata) for r in gallery.records()] == [
            {"shelf": 1, "time": "2024"},
            {"shelf": 1, "time": "2025-01-02", "floor": "2nd"},
        ]
        late = gallery.search(embeddings(LAYOUT, 1), where=Filter(after="2025"))
        assert [hit.record for hit in late[0]] == [2]


def test_rejects_and_records_trade_places(tmp_path: Path) -> None:
    vectors = embeddings(LAYOUT, 4)
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(
            entries(["a"]), vectors[:1], rejects=[Reject(Path("/p/b"), "first"), Reject(Path("/p/b"), "second")]
        )
        writer.commit(entries(["b"]), vectors[1:2], rejects=[Reject(Path("/p/a"), "gone bad")])
    with Gallery.open(tmp_path) as gallery:
        assert [(r.record, str(r.path)) for r in gallery.records()] == [(2, "/p/b")]
        assert gallery.rejects == [Reject(Path("/p/a"), "gone bad")]
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a"]), vectors[2:3])
        writer.commit(rejects=[Reject(Path("/p/a"), "again")])
        writer.commit(entries(["c"]), vectors[3:])
    with Gallery.open(tmp_path) as gallery:  # numbers are not used again
        assert [(r.record, str(r.path)) for r in gallery.records()] == [(2, "/p/b"), (4, "/p/c")]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: np.where(v == v[1, 2], np.nan, v), "Vector 1 .* squared norm nan"),
        (lambda v: np.where(v == v[0, 0], np.inf, v), "Vector 0 .* squared norm inf"),
        (lambda v: v * np.array([[1], [1], [1.01]]), "Vector 2 .* want float32.3, 16., finite, of squared norm 2"),
        (lambda v: v * 0, "Vector 0 .* squared norm 0"),
        (lambda v: v[:2], "are float32.2, 16., want float32.3, 16."),
        (lambda v: v[:, :8], "are float32.3, 8."),
    ],
)
def test_what_is_no_embedding_is_refused(
    tmp_path: Path, spoil: Callable[[NDArray[np.float32]], NDArray[np.floating]], message: str
) -> None:
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a"]), embeddings(LAYOUT, 1))
        with pytest.raises(GalleryError, match=message):
            writer.commit(entries(["b", "c", "d"]), spoil(embeddings(LAYOUT, 3)).astype(np.float32))
        with pytest.raises(GalleryError, match="float64"):
            writer.commit(entries(["b", "c", "d"]), embeddings(LAYOUT, 3).astype(np.float64))
        with pytest.raises(GalleryError, match="are none"):
            writer.commit(entries(["b"]))
    assert [path for _, path, _, _ in contents(tmp_path)] == ["/p/a"]


def test_a_commit_that_fails_half_way_leaves_the_gallery_as_it_was(tmp_path: Path) -> None:
    vectors = embeddings(LAYOUT, 4)
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a"]), vectors[:1])
        for metadata in ({"rowid": 1}, {"new": 2**63}, {"new": "\ud800"}):
            with pytest.raises(GalleryError):
                writer.commit([*entries(["b"], fresh="x"), *entries(["c"], **metadata)], vectors[1:3])
            assert (tmp_path / "vectors.f16").stat().st_size == writer.facts.row_bytes
        writer.commit(entries(["d"], other=1), vectors[3:])
    assert [row[1:3] for row in contents(tmp_path)] == [("/p/a", {}), ("/p/d", {"other": 1})]


def test_another_model_or_type_is_refused(tmp_path: Path) -> None:
    GalleryWriter.open(tmp_path, MODEL, bundle_path=Path("/the/bundle")).close()
    with pytest.raises(ModelMismatchError, match=r"model ffffffffffff \(/the/bundle\), and this is the model eeee"):
        GalleryWriter.open(tmp_path, replace(MODEL, fingerprint="e" * 64))
    with pytest.raises(GalleryError, match="stores float16, and float32 was asked for"):
        GalleryWriter.open(tmp_path, MODEL, dtype="float32")
    with Gallery.open(tmp_path) as gallery:
        gallery.require_model(MODEL)
        with pytest.raises(ModelMismatchError):
            gallery.require_model(replace(MODEL, fingerprint="e" * 64))
    GalleryWriter.open(tmp_path, MODEL, bundle_path=Path("/moved/bundle")).close()
    with Gallery.open(tmp_path) as gallery:
        assert gallery.bundle_path == Path("/moved/bundle")


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a"]), embeddings(LAYOUT, 1))
        script = (
            "import sys; from pathlib import Path; from tbps_infer.gallery import Gallery, GalleryWriter\n"
            "gallery = Gallery.open(Path(sys.argv[1])); print(gallery.count)\n"
            "try: GalleryWriter.open(Path(sys.argv[1]), gallery.model)\n"
            "except Exception as error: print(type(error).__name__, error.message)\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert other.stdout.splitlines() == [
            "1",
            f"GalleryBusyError Another process (pid {os.getpid()}) is writing to the gallery {tmp_path}.",
        ]
        with pytest.raises(GalleryBusyError):
            GalleryWriter.open(tmp_path, MODEL)
        writer.commit(entries(["b"]), embeddings(LAYOUT, 1))
    GalleryWriter.open(tmp_path, MODEL).close()


def test_a_reader_keeps_its_snapshot_while_a_writer_adds(tmp_path: Path) -> None:
    vectors = embeddings(LAYOUT, 6)
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a", "b"], shelf=1), vectors[:2])
        with Gallery.open(tmp_path) as early:
            before = early.search(vectors, k=9)
            writer.commit(entries(["c", "d"], shelf=1, colour="red"), vectors[2:4])
            writer.commit(entries(["a"], shelf=2), vectors[4:5], rejects=[Reject(Path("/p/b"), "gone")])
            assert early.search(vectors, k=9) == before
            assert early.search(vectors, k=9, where=Filter(where="shelf = 1")) == before
            assert (early.count, early.columns, early.rejects) == (2, ("id", "camera", "time", "shelf"), [])
            with Gallery.open(tmp_path) as late:
                assert [(r.record, r.row) for r in late.records()] == [(1, 4), (3, 2), (4, 3)]
                assert [h.record for h in late.search(vectors[:1], where=Filter(where="colour = 'red'"))[0]]
        writer.commit(entries(["e"]), vectors[5:])


def test_the_uncommitted_tail_is_ignored_and_cut(tmp_path: Path) -> None:
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        writer.commit(entries(["a", "b"]), embeddings(LAYOUT, 2))
    whole = contents(tmp_path)
    with (tmp_path / "vectors.f16").open("ab") as file:
        file.write(b"\xff" * 77)
    assert contents(tmp_path) == whole
    with GalleryWriter.open(tmp_path, MODEL) as writer:
        assert (tmp_path / "vectors.f16").stat().st_size == 2 * writer.facts.row_bytes
        writer.commit(entries(["c"]), embeddings(LAYOUT, 1, seed=5))
    assert contents(tmp_path)[:2] == whole


def test_a_creation_that_was_stopped_is_begun_again(tmp_path: Path) -> None:
    GalleryWriter.open(tmp_path, MODEL, dtype="float32").close()
    (tmp_path / "gallery.json").rename(tmp_path / ".gallery.json.0badcafe.partial")
    with pytest.raises(GalleryError, match=r"not a gallery: it has no gallery\.json"):
        Gallery.open(tmp_path)
    with GalleryWriter.open(tmp_path, replace(MODEL, fingerprint="e" * 64)) as writer:
        writer.commit(entries(["a"]), embeddings(LAYOUT, 1))
    assert not (tmp_path / "vectors.f32").exists()
    assert len(contents(tmp_path)) == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(GalleryError, match=r"not a gallery and not empty: it holds holiday\.jpg"):
        GalleryWriter.open(tmp_path, MODEL)
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(GalleryError, match="cannot be written"):
        GalleryWriter.open(tmp_path / "holiday.jpg" / "gallery", MODEL)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    with GalleryWriter.open(tmp_path / "g", MODEL) as writer:
        writer.commit(entries([f"{i}" for i in range(40)], shelf=1), embeddings(LAYOUT, 40))
        writer.commit(entries([f"x{i}" for i in range(60)], shelf=2), embeddings(LAYOUT, 60, seed=1))
    return tmp_path / "g"


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def truncate(file: Path, length: int) -> None:
    os.truncate(file, length)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda g: truncate(g / "vectors.f16", 99 * 32 + 31),
            "has 3199 bytes, and its records name 3200: it was cut",
        ),
        (lambda g: (g / "vectors.f16").unlink(), "vectors.f16|No such file"),
        (lambda g: (g / "records.sqlite").unlink(), "has no records.sqlite"),
        (lambda g: (g / "records.sqlite").write_bytes(b"x" * 9000), "file is not a database"),
        (lambda g: truncate(g / "records.sqlite", 4096), "malformed|disk image"),
        (lambda g: truncate(g / "records.sqlite", 0), "no such table"),
        (lambda g: (g / "gallery.json").write_text("{"), "gallery.json cannot be read"),
        (lambda g: (g / "gallery.json").write_text("[]"), "its content is a list, want a JSON object"),
        (lambda g: edit_json(g / "gallery.json", schema=3), "schema 3; this version reads 2"),
        (lambda g: edit_json(g / "gallery.json", dtype="int3"), "not valid: .*int3"),
        (lambda g: edit_json(g / "gallery.json", model={}), "gallery.json is not valid"),
        (lambda g: sql(g, "DELETE FROM segment WHERE start = 0"), "segments name 60 rows up to row 100"),
        (lambda g: sql(g, "UPDATE record SET tbps_row = 100 WHERE record = 7"), "and the records row 100"),
    ],
)
def test_damage_is_an_error_with_a_sentence(small: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(small)
    with pytest.raises(GalleryError, match=message) as reading:
        Gallery.open(small)
    with pytest.raises(GalleryError, match=message) as writing:
        GalleryWriter.open(small, MODEL)
    assert reading.value.hint
    assert writing.value.hint


def sql(gallery: Path, statement: str) -> None:
    connection = sqlite3.connect(gallery / "records.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_verify_finds_a_flipped_bit_and_names_the_segment(small: Path) -> None:
    file = small / "vectors.f16"
    for position, message in (
        (39 * 32 + 31, r"Segment 0 \(rows 0 to 39\)"),
        (40 * 32, r"Segment 1 \(rows 40 to 99\)"),
    ):
        data = bytearray(file.read_bytes())
        data[position] ^= 1
        file.write_bytes(data)
        with Gallery.open(small) as gallery, pytest.raises(GalleryError, match=message):
            gallery.verify()
        data[position] ^= 1
        file.write_bytes(data)
    with Gallery.open(small) as gallery:
        assert gallery.verify() == 2


def test_a_gallery_that_cannot_be_written_to_can_be_searched(small: Path) -> None:
    """As on a read-only disk: SQLite's shared index can neither be found nor made."""
    small.chmod(0o555)
    try:
        if os.getuid() != 0:
            assert len(contents(small)) == 100
            return
        for folder in small.parents:
            if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
                folder.chmod(0o755)
        # The superuser can write anywhere, so another user looks; everything is imported while it still can be.
        script = (
            "import mmap, os, sys; from pathlib import Path\n"
            "from tbps_infer.gallery import Gallery; import tbps_infer.layout\n"
            "os.setuid(65534)\n"
            "with Gallery.open(Path(sys.argv[1])) as gallery: print(gallery.verify(), gallery.count)\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", script, str(small)], capture_output=True, text=True, check=False
        )
        assert other.stdout.split() == ["2", "100"], other.stderr
        assert not (small / "records.sqlite-shm").exists()
    finally:
        small.chmod(0o755)


@pytest.mark.parametrize("room", [100, 3200 + 40, 3200 + 32 * 500 + 7, 40_000])
def test_a_full_disk_leaves_the_gallery_as_it_was(small: Path, room: int) -> None:
    """The system's limit on file sizes stands for a full disk: the kernel refuses the write that goes over it."""
    before = contents(small)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "import numpy as np\n"
        "from tbps_infer.errors import GalleryError\n"
        "from tbps_infer.gallery import Entry, FileStamp, Gallery, GalleryWriter\n"
        "path, room = Path(sys.argv[1]), int(sys.argv[2])\n"
        "with Gallery.open(path) as gallery: model, vectors = gallery.model, np.tile(gallery.vectors, (10, 1))\n"
        "writer = GalleryWriter.open(path, model)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))\n"
        "new = [Entry(Path(f'/q/{i}'), FileStamp(1, 2, 'x' * 64), {'y': 'z' * 50}) for i in range(1000)]\n"
        "for _ in range(2):\n"
        "    try: writer.commit(new, vectors.astype(np.float32))\n"
        "    except GalleryError as error: print(error.message, '|', error.hint)\n"
        "print(writer.rows)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(small), str(room)], capture_output=True, text=True, check=False
    )
    *errors, rows = done.stdout.splitlines()
    assert len(errors) == 2, done.stdout + done.stderr
    assert all("cannot be" in error and "kept" in error for error in errors)
    assert rows == "100"
    assert contents(small) == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with GalleryWriter.open(small, MODEL) as writer:
        writer.commit(entries(["after"]), embeddings(LAYOUT, 1))
    assert contents(small)[:100] == before
