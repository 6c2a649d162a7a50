"""The search on a device gives what brute force gives; the CPU stands in for a GPU, with the same ONNX models."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError, UsageError
from tbps_infer.gallery import Entry, FileStamp, Filter, Gallery, GalleryWriter, SearchOptions
from tbps_infer.gallery.search.device import DeviceScan
from tbps_infer.gallery.search.device_onnx import STORED_TYPES, scan_onnx
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import top_k
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors, quantise
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

CPU = Device("cpu")
DIM = 24


@pytest.fixture
def small_gallery(tmp_path: Path) -> Path:
    layout = VectorLayout((Segment("global", DIM - 4), Segment("coarse", 4, 0.5)))
    model = fake_facts(layout=layout)
    values = stored(30, "float32").values * np.float32(np.sqrt(1.5))
    with GalleryWriter.open(tmp_path / "gallery", model) as writer:
        for chosen in (range(30), range(3, 30, 7)):  # some again: their rows lie behind those of later records
            entries = [Entry(Path(f"/p/{n}.jpg"), FileStamp(1, 2, "x"), {"id": n // 2}) for n in chosen]
            writer.commit(entries, values[list(chosen)])
    return tmp_path / "gallery"


def stored(count: int, dtype: str, seed: int = 0) -> StoredVectors:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return StoredVectors(*quantise(vectors)) if dtype == "int8" else StoredVectors(vectors.astype(dtype))


def brute_force(
    vectors: StoredVectors, rows: NDArray[np.int64], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scores = (queries.astype(np.float64) @ vectors.exact(rows).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def check(
    vectors: StoredVectors, rows: NDArray[np.int64], queries: NDArray[np.float32], k: int, scan: object
) -> None:
    assert isinstance(scan, DeviceScan)
    found = top_k(vectors, Rows.of(rows), queries, k, max_norm=1.02, first_stage=scan)
    scores, order = brute_force(vectors, rows, queries, k)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.indices, order)


@pytest.mark.parametrize("dtype", STORED_TYPES)
@pytest.mark.parametrize("resident", [0, 20_000, 1 << 30])
def test_any_rows_in_any_order(dtype: str, resident: int) -> None:
    """Some blocks stay on the device and some do not; the second search meets both."""
    vectors = stored(1000, dtype)
    rng = np.random.default_rng(1)
    scan = DeviceScan(vectors, CPU, resident_bytes=resident, block_rows=64)
    for count in (1000, 300, 5, 1):
        rows = rng.permutation(1000)[:count]
        check(vectors, rows, rng.standard_normal((7, DIM)).astype(np.float32), 10, scan)


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 40), st.integers(1, 30), st.integers(1, 4))
def test_ties_by_the_dozen(seed: int, count: int, k: int, block: int, different: int) -> None:
    """A few different vectors many times over: a block must give more than its first best rows."""
    vectors = stored(different, "float16", seed % 100)
    chosen = np.random.default_rng(seed).integers(0, different, count)
    vectors = StoredVectors(vectors.values[chosen])
    queries = np.random.default_rng(seed).standard_normal((2, DIM)).astype(np.float32)
    check(vectors, np.arange(count), queries, k, DeviceScan(vectors, CPU, block_rows=block))


def test_a_block_that_has_more_than_its_share_is_asked_again() -> None:
    """All of the best rows lie in one block, and are equal: forty candidates beside k + 16."""
    vectors = stored(200, "float32")
    vectors.values[60:100] = vectors.values[60]
    check(vectors, np.arange(200), vectors.values[60:61].copy(), 3, DeviceScan(vectors, CPU, block_rows=50))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("damage", [np.nan, np.inf, 3e4])
def test_damaged_rows_are_refused_unless_nobody_wants_them(dtype: str, damage: float) -> None:
    vectors = stored(100, dtype)
    vectors.values[70, 3] = damage
    queries = np.ones((1, DIM), dtype=np.float32)
    scan = DeviceScan(vectors, CPU, block_rows=32)
    with pytest.raises(DamagedVectorsError, match="Rows 64 to 95"):
        top_k(vectors, Rows.of(np.arange(100)), queries, 5, max_norm=1.02, first_stage=scan)
    check(vectors, np.delete(np.arange(100), 70), queries, 5, scan)


@pytest.mark.parametrize("dtype", STORED_TYPES)
def test_the_shipped_models_are_those_that_the_code_makes(dtype: str) -> None:
    shipped = resources.files("tbps_infer") / "assets" / "scan" / f"{dtype}.onnx"
    assert shipped.read_bytes() == scan_onnx(dtype).SerializeToString(deterministic=True)


def test_a_gallery_finds_the_same_on_a_device(small_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Device] = []

    def on_cpu(vectors: StoredVectors, device: Device, backend: str) -> DeviceScan:
        assert backend == "auto"
        opened.append(device)
        return DeviceScan(vectors, CPU, block_rows=5)

    monkeypatch.setattr("tbps_infer.gallery.search.on_device.open_device_stage", on_cpu)
    with Gallery.open(small_gallery) as gallery:
        queries = np.random.default_rng(0).standard_normal((3, gallery.model.layout.dim)).astype(np.float32)
        for options in ({}, {"per_id": True}, {"min_score": 0.0}):
            for where in (None, Filter(where="record % 3 = 0")):
                device = SearchOptions(device="cuda:1", **options)
                one = gallery.search_with_report(queries, 4, where, device)
                assert one.hits == gallery.search(queries, 4, where, SearchOptions("scan", **options))
                assert one.report.method == "scan"
    assert opened == [Device("cuda", 1)]  # once for all searches of a gallery


def test_no_device_no_search(small_gallery: Path) -> None:
    with Gallery.open(small_gallery) as gallery:
        queries = np.zeros((1, gallery.model.layout.dim), dtype=np.float32)
        with pytest.raises(BackendError, match="CUDAExecutionProvider"):
            gallery.search(queries, 1, options=SearchOptions(device="cuda"))
    with pytest.raises(UsageError, match="The device 'gpu' is not known"):
        SearchOptions(device="gpu")
    with pytest.raises(UsageError, match="The method sketch runs on the CPU, and the search device is cuda"):
        SearchOptions("sketch", device="cuda")
