"""Datasets in an object store: moto's S3 on loopback."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gallery_contents import FACTS, VECTORS, entries, entry, fill
from object_store import BUCKET, object_store

from tbps_infer.errors import GalleryError
from tbps_infer.gallery import (
    Filter,
    compact_gallery,
    merge_galleries,
    open_gallery,
    open_gallery_writer,
    remove_records,
)
from tbps_infer.gallery.changes import Facets
from tbps_infer.gallery.lance.conditional_writes import require_conditional_writes
from tbps_infer.gallery.opening import changes_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="moto is not installed")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of a bucket; its credentials are in the environment."""
    with object_store() as environment, pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        yield f"s3://{BUCKET}"


def test_a_gallery_lives_in_an_object_store(store: str, tmp_path: Path) -> None:
    folder, uri = f"{tmp_path}/g", f"{store}/site.lance"
    fill(folder)
    assert merge_galleries([folder], uri).added == 60
    with open_gallery(folder) as one, open_gallery(uri) as other:
        for where in (None, Filter(camera=("cam_a",)), "length(note) = 3"):
            assert [[(h.path, h.score) for h in hits] for hits in one.search(VECTORS[:5], 4, where)] == [
                [(h.path, h.score) for h in hits] for hits in other.search(VECTORS[:5], 4, where)
            ]
        assert other.verify() == 1 and other.path == uri
    with open_gallery_writer(uri) as writer:
        writer.commit([entry(2, {"shelf": 1}, content=1)], VECTORS[3:4])
    changes = changes_of(uri)
    before = changes.stamps()
    assert remove_records(uri, Filter(id=("0",))) == 3
    assert changes.stamps() != before
    assert isinstance(changes.facets(), Facets) and changes.facets().cameras["cam_a"] == 19
    assert compact_gallery(uri).dropped >= 3
    with open_gallery(uri) as gallery:
        assert gallery.count == 57 and len(gallery.tombstones) == 3
    assert merge_galleries([uri], f"{tmp_path}/back").added == 57


def test_what_is_not_there_is_said_without_a_secret(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GalleryError, match="There is no dataset at s3://galleries/none"):
        open_gallery(f"{store}/none.lance")
    assert changes_of(f"{store}/none.lance").stamps() == ()
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(GalleryError, match="cannot be read") as raised:
        open_gallery(f"{store}/away.lance")
    assert "not-a-secret" not in raised.value.message + raised.value.hint and "network" in raised.value.hint


def test_writers_that_start_at_the_same_time_make_one_dataset(store: str, tmp_path: Path) -> None:
    """Lance's own creation lets the second overwrite what the first has written."""
    for number, base in enumerate([*[str(tmp_path)] * 3, store]):
        name, start = f"{base}/start{number}.lance", threading.Barrier(3)

        def write(first: int, name: str = name, start: threading.Barrier = start) -> None:
            with open_gallery_writer(name, FACTS) as writer:
                start.wait(30)
                writer.commit(entries(range(first, first + 2)), VECTORS[first : first + 2])

        with ThreadPoolExecutor(3) as writers:
            list(writers.map(write, (0, 2, 4)))
        with open_gallery(name) as gallery:
            assert gallery.count == 6


def test_a_store_without_conditional_writes_is_refused_for_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an object that is created twice, and where obstore cannot do that, by writers that race."""
    with object_store(conditional=False) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(GalleryError, match="does not support conditional writes"),
            open_gallery_writer(f"s3://{BUCKET}/unsafe.lance", FACTS) as writer,
        ):
            writer.commit(entries([0]), np.asarray(VECTORS[:1]))
        with pytest.raises(GalleryError, match="There is no dataset"):
            open_gallery(f"s3://{BUCKET}/unsafe.lance")


def test_writers_that_open_one_dataset_at_the_same_moment_all_find_conditional_writes(store: str) -> None:
    """A probe that was deleted after each try let another writer create it twice."""
    start = threading.Barrier(8)

    def probe(_: int) -> None:
        for _ in range(10):
            start.wait(30)
            require_conditional_writes(f"{store}/probed.lance")

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(probe, range(8)))


def test_writing_needs_no_more_than_lance_does(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that obstore does not find, and addresses of a disk."""
    import obstore
    from obstore.exceptions import PermissionDeniedError

    def refuse(*_: object, **__: object) -> None:
        raise PermissionDeniedError("not for you")

    monkeypatch.setattr(obstore, "put", refuse)
    for uri in (f"{store}/raced.lance", f"file://{tmp_path}/disk.lance"):
        with open_gallery_writer(uri, FACTS) as writer:
            writer.commit(entries([1, 2]), VECTORS[:2])
        with open_gallery(uri) as gallery:
            assert gallery.count == 2
