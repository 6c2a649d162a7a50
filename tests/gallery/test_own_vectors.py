"""Vectors that another program made: into a gallery, found, replaced, and out again."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tbps_infer import Gallery, GalleryWriter, ModelFacts
from tbps_infer.errors import GalleryError, ModelMismatchError, UsageError
from tbps_infer.gallery import (
    Entry,
    FileStamp,
    Filter,
    compact_gallery,
    copy_gallery,
    export_gallery,
    index_gallery,
    is_gallery,
    merge_galleries,
    relocate_gallery,
    remove_records,
)

MADE_BY = ModelFacts.of_vectors(64, "an encoder 1.0")


def vectors_of(count: int, seed: int = 0) -> NDArray[np.float64]:
    drawn = np.random.default_rng(seed).standard_normal((count, 64))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def test_vectors_come_out_as_they_went_in(tmp_path: Path) -> None:
    vectors, ids = vectors_of(20), [f"{number:03}" for number in range(20)]
    with GalleryWriter.open(tmp_path / "g", MADE_BY, dtype="float32") as writer:
        writer.add(ids, vectors, {"camera": ["gate", "hall"] * 10, "floor": range(20)})
    with Gallery.open(tmp_path / "g") as gallery:
        np.testing.assert_array_equal(gallery.embeddings(), vectors.astype(np.float32))
        assert [record.metadata for record in gallery.records()][3] == {"id": "003", "camera": "hall", "floor": 3}
        ((hit,),) = gallery.search(vectors[4], k=1)
        assert hit.metadata["id"] == "004" and hit.score == pytest.approx(1)
        assert gallery.search(vectors[4], k=1, where="camera = 'hall'")[0][0].metadata["camera"] == "hall"
        assert gallery.verify() == 1


def test_an_id_or_a_picture_that_is_there_gets_the_new_vector(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    first, second = vectors_of(3), vectors_of(3, seed=1)
    with GalleryWriter.open(tmp_path / "g", MADE_BY, dtype="float32") as writer:
        writer.add(["1", "2", "a/../b"], first)
        writer.add(["2", "3"], second[:2])
        for vector in (first[0], second[2]):
            writer.add(["7"], vector[None], paths=[tmp_path / "a.jpg"])
    with Gallery.open(tmp_path / "g") as gallery:
        expected = np.stack([first[0], second[0], first[2], second[1], second[2]])
        np.testing.assert_array_equal(gallery.embeddings(), expected.astype(np.float32))
        assert [record.metadata["id"] for record in gallery.records()] == ["1", "2", "a/../b", "3", "7"]
        assert gallery.details(np.array([5]))[5].stamp.size == len(b"a picture")


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    vectors = vectors_of(3)
    with GalleryWriter.open(tmp_path / "g", MADE_BY) as writer:
        with pytest.raises(UsageError, match="3 vectors and 2 values of id"):
            writer.add(["1", "2"], vectors)
        with pytest.raises(UsageError, match="3 vectors and 1 values of camera"):
            writer.add(["1", "2", "3"], vectors, {"camera": ["gate"]})
        with pytest.raises(UsageError, match="is there twice"):
            writer.add(["1", "2", "1"], vectors)
        with pytest.raises(GalleryError, match=r"float32\[3, 63\]"):
            writer.add(["1", "2", "3"], vectors[:, :-1])
        with pytest.raises(GalleryError, match="squared norm 4"):
            writer.add(["1", "2", "3"], 2 * vectors)
    with Gallery.open(tmp_path / "g") as gallery:
        assert len(gallery) == 0
    with pytest.raises(ModelMismatchError), GalleryWriter.open(tmp_path / "g", ModelFacts.of_vectors(64, "another")):
        pass


def test_columns_of_arrays_hold_plain_numbers(tmp_path: Path) -> None:
    taken = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
    columns: dict[str, Any] = {
        "floor": np.arange(3),
        "share": [np.float32(0.5)] * 3,
        "time": [taken, None, taken.isoformat()],
    }
    with GalleryWriter.open(tmp_path / "g", MADE_BY) as writer:
        writer.add(np.arange(3), vectors_of(3), {**columns, "inside": np.array([True, False, True])})
    with Gallery.open(tmp_path / "g") as gallery:
        first = next(iter(gallery.records())).metadata
        assert first == {"id": "0", "time": taken.isoformat(), "floor": 0, "share": 0.5, "inside": 1}
        assert len(gallery.search(vectors_of(1), where="time >= '2024-05-01'")[0]) == 2


@pytest.mark.parametrize("value", [np.int64(1), b"1", [1]])
def test_a_value_that_no_reader_knows_is_not_stored(tmp_path: Path, value: Any) -> None:
    with GalleryWriter.open(tmp_path / "g", MADE_BY) as writer:
        entry = Entry(tmp_path / "a.jpg", FileStamp(0, 0, "0" * 64), {"floor": value})
        with pytest.raises(GalleryError, match=r"floor of .*a\.jpg is .*, want text, a number or None"):
            writer.commit([entry], vectors_of(1).astype(np.float32))
    with Gallery.open(tmp_path / "g") as gallery:
        assert len(gallery) == 0


@pytest.mark.parametrize(
    ("ids", "vectors", "metadata", "sentence"),
    [
        ("ab", vectors_of(2), {}, "ids is 'ab', want a value per vector"),
        (["a", None], vectors_of(2), {}, "An id is None, want text"),
        (["a"], vectors_of(1)[0], {}, r"float32\[64\], want \[n, dim\]"),
        (["a"], "red", {}, "no numbers"),
        (["a", "b"], [[1.0], [1.0, 2.0]], {}, "no numbers"),
        (["a"], vectors_of(1), {"camera": 5}, "camera is 5, want a value per vector"),
        (["a"], vectors_of(1), {"ID": ["b"]}, "The column ID is the ids"),
        (["a"], vectors_of(1), {"time": ["yesterday"]}, "The time is 'yesterday'"),
    ],
)
def test_what_is_wanted_of_vectors_is_said(
    tmp_path: Path, ids: Any, vectors: Any, metadata: Any, sentence: str
) -> None:
    with GalleryWriter.open(tmp_path / "g", MADE_BY) as writer, pytest.raises(UsageError, match=sentence):
        writer.add(ids, vectors, metadata)


def test_paths_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    with GalleryWriter.open("g", MADE_BY) as writer:
        writer.add(["1", "2", "3"], vectors_of(3), paths=["/old/1.jpg", "/old/2.jpg", "/old/3.jpg"])
    assert is_gallery("g")
    assert remove_records("g", Filter(id=("2",))) == 1
    assert compact_gallery("g").dropped == 1
    assert index_gallery("g") == copy_gallery("g", "copy") == export_gallery("g", "out") == 2
    assert merge_galleries(["g", "copy"], "both").added == 2
    assert relocate_gallery("g", "/old", "new") == 2
    with Gallery.open("g") as gallery:
        assert [record.path for record in gallery.records()] == [tmp_path / "new/1.jpg", tmp_path / "new/3.jpg"]
