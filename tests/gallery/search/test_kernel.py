"""The search's kernel gives what brute force gives: its source runs here as C++, a GPU's threads as fibres."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_force import check_first_stage, stored_vectors
from emulated_memory import EmulatedMemory
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_infer.devices import Device
from tbps_infer.errors import BackendError, UsageError
from tbps_infer.gallery import Entry, FileStamp, Filter, Gallery, GalleryWriter, SearchOptions
from tbps_infer.gallery.search import kernel, on_device
from tbps_infer.gallery.search.device import DeviceScan
from tbps_infer.gallery.search.kernel import KernelScan
from tbps_infer.gallery.search.kernel_queries import power_of, prepare_queries
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import top_k
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts
from tbps_infer.tensorrt.gpus import GpuFacts

CUDA = Device("cuda", 0)
TYPES = ("float16", "int8", "float32")


def new_scan(vectors: StoredVectors, **options: Any) -> tuple[KernelScan, EmulatedMemory]:
    memory = EmulatedMemory()
    return KernelScan(vectors, CUDA, memory=memory, **options), memory


def random_queries(count: int, dim: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows fill what each query can note, so that samples, limits and second looks are needed."""
    monkeypatch.setattr(kernel, "_LEAST_ENTRIES", 1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("resident", [0, 20_000, 1 << 30])
@pytest.mark.usefixtures("little_room")
def test_any_rows_in_any_order(dtype: str, resident: int) -> None:
    """Some rows stay on the device and some do not; the second search meets both. 28 numbers fill no 64 bytes."""
    vectors = stored_vectors(700, 28, dtype)
    rng = np.random.default_rng(1)
    scan, memory = new_scan(vectors, resident_bytes=resident, piece_rows=64)
    for count in (700, 300, 5, 1):
        check_first_stage(vectors, rng.permutation(700)[:count], random_queries(3, 28), 10, scan)
    check_first_stage(vectors, np.arange(100, 333), random_queries(3, 28), 10, scan)
    check_first_stage(vectors, np.arange(0), random_queries(3, 28), 10, scan)
    scan.close()
    scan.close()
    assert (memory.held, memory.closed, memory.current) == (0, True, 0)
    with pytest.raises(BackendError, match="The search on the device is closed"):
        check_first_stage(vectors, np.arange(9), random_queries(3, 28), 10, scan)


@pytest.mark.parametrize("queries", [1, 3, 9, 33, 65])
@pytest.mark.usefixtures("little_room")
def test_any_number_of_queries(queries: int) -> None:
    vectors = stored_vectors(400, 64, "float16")
    scan, memory = new_scan(vectors)
    check_first_stage(vectors, np.arange(400), random_queries(queries, 64), 5, scan)
    groups = -(-queries // 64)  # each reads the rows once, and some of them before
    assert memory.kernels.count("scan") == 2 * groups


@pytest.mark.parametrize("k", [1, 2, 100, 256, 699, 2000])
def test_any_k(k: int) -> None:
    vectors = stored_vectors(700, 32, "int8")
    check_first_stage(vectors, np.arange(700), random_queries(2, 32), k, new_scan(vectors)[0])


@pytest.mark.parametrize("dim", [1, 128, 840])
@pytest.mark.parametrize("dtype", TYPES)
def test_any_dimension(dim: int, dtype: str) -> None:
    vectors = stored_vectors(70, dim, dtype)
    check_first_stage(vectors, np.arange(70), random_queries(1, dim), 5, new_scan(vectors)[0])


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 40), st.integers(1, 4))
def test_ties_by_the_dozen(seed: int, count: int, k: int, different: int) -> None:
    """A few different vectors many times over."""
    few = stored_vectors(different, 16, "float16", seed % 100)
    vectors = StoredVectors(few.values[np.random.default_rng(seed).integers(0, different, count)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_LEAST_ENTRIES", 1)
        scan, _ = new_scan(vectors, piece_rows=64)
        check_first_stage(vectors, np.arange(count), random_queries(2, 16, seed), k, scan)


@pytest.mark.usefixtures("little_room")
def test_more_equal_rows_than_there_is_room_for_are_looked_for_again() -> None:
    """The query whose rows are not all equal is not asked again."""
    vectors = stored_vectors(500, 32, "float16")
    vectors.values[100:400] = vectors.values[100]
    queries = np.stack([vectors.values[100], -vectors.values[100]]).astype(np.float32)
    scan, memory = new_scan(vectors)
    check_first_stage(vectors, np.arange(500), queries, 3, scan)
    # A sample, all rows, all rows with room for those that are equal, and these returned.
    assert memory.kernels == ["scan", "select_best"] * 3 + ["select_best"]


def test_more_rows_of_interest_than_are_returned_at_once_need_no_second_scan() -> None:
    vectors = stored_vectors(500, 32, "float16")
    vectors.values[100:400] = vectors.values[100]
    scan, memory = new_scan(vectors)
    check_first_stage(vectors, np.arange(500), vectors.values[100:101].astype(np.float32), 3, scan)
    assert memory.kernels == ["scan", "select_best", "select_best"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf, 3e4])
def test_damaged_rows_are_refused_unless_nobody_wants_them(dtype: str, damage: float) -> None:
    vectors = stored_vectors(100, 24, dtype)
    vectors.values[70, 3] = damage
    queries = np.ones((1, 24), dtype=np.float32)
    scan, _ = new_scan(vectors)
    with pytest.raises(DamagedVectorsError, match="Row 70 holds"):
        top_k(vectors, Rows.of(np.arange(100)), queries, 5, max_norm=1.02, first_stage=scan)
    check_first_stage(vectors, np.delete(np.arange(100), 70), queries, 5, scan)


def test_a_damaged_scale_is_refused() -> None:
    vectors = stored_vectors(100, 24, "int8")
    assert vectors.scales is not None
    vectors.scales[70] = np.nan
    with pytest.raises(DamagedVectorsError, match="Row 70 holds"):
        top_k(
            vectors,
            Rows.of(np.arange(100)),
            random_queries(1, 24),
            5,
            max_norm=1.02,
            first_stage=new_scan(vectors)[0],
        )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_queries_of_any_length(dtype: str, size: float) -> None:
    """With numbers of very different size beside each other, and a query of zeros."""
    vectors = stored_vectors(60, 40, dtype)
    queries = random_queries(2, 40) * np.float32(size) * np.logspace(0, -7, 40, dtype=np.float32)
    check_first_stage(vectors, np.arange(60), np.concatenate([queries, queries[:1] * 0]), 5, new_scan(vectors)[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_products_keep_to_the_bound_where_rounding_adds_up(dtype: str) -> None:
    """All products are positive, every sum is rounded towards zero, and subnormal numbers are taken for zero."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.standard_normal((64, 1024))) * np.logspace(0, -7, 1024)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    vectors = stored_vectors(64, 1024, dtype)
    if dtype != "int8":
        vectors = StoredVectors(values.astype(dtype))
    queries = np.abs(random_queries(2, 1024))
    check_first_stage(
        vectors, np.arange(64), queries, 64, new_scan(vectors)[0]
    )  # fails where a score leaves its bounds


def test_stored_numbers_are_brought_into_the_normal_range() -> None:
    assert power_of(np.dtype(np.float16), 1.02) == 14
    assert power_of(np.dtype(np.int8), 1.02) == 0
    prepared = prepare_queries(np.full((1, 8), 3, np.float32), np.dtype(np.float16), 1.02)
    smallest = np.float16(2.0**-24)  # of all; 2^-14 is the smallest normal one
    assert float(smallest) * 2.0**14 >= 2.0**-14
    assert prepared.factors[0] == 2.0 ** -(12 + 14)


def test_a_repeated_search_allocates_nothing_and_sends_the_query_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter goes to the device once, as a bit per row."""
    vectors = stored_vectors(2000, 32, "float16")
    scan, memory = new_scan(vectors)
    some = Rows.of(np.flatnonzero(np.arange(2000) % 3 > 0))
    for rows in (Rows.of(np.arange(2000)), some):
        check_first_stage(vectors, rows, random_queries(1, 32), 10, scan)
    monkeypatch.setattr(memory, "allocate", None)
    monkeypatch.setattr(memory, "pinned", None)
    monkeypatch.setattr(np, "packbits", None)
    before = memory.copied_to_device
    check_first_stage(vectors, some, random_queries(1, 32, 2), 10, scan)
    assert memory.copied_to_device - before < 3000


def test_pieces_are_sent_anew_and_rows_that_stay_are_not() -> None:
    vectors = stored_vectors(320, 32, "float16")
    scan, memory = new_scan(vectors, resident_bytes=200 * 64, piece_rows=32)
    assert "192 of 320 rows resident" in scan.description
    every = Rows.of(np.arange(320))
    for sent in (320, 128):
        before = memory.copied_to_device
        check_first_stage(vectors, every, random_queries(1, 32), 3, scan)
        assert 0 <= memory.copied_to_device - before - 64 * sent < 4000


def test_a_device_that_is_too_old_or_full_says_so() -> None:
    old = GpuFacts("Old GPU", "sm72", 1 << 30, 1 << 30, "12.6", "12.6")
    memory = EmulatedMemory(gpu=old)
    with pytest.raises(BackendError, match=r"needs compute capability 7.5; Old GPU has sm72"):
        KernelScan(stored_vectors(5, 8, "float16"), CUDA, memory=memory)
    assert memory.closed


@pytest.fixture
def small_gallery(tmp_path: Path) -> Path:
    layout = VectorLayout((Segment("global", 20), Segment("coarse", 4, 0.5)))
    values = stored_vectors(30, 24, "float32").values * np.float32(np.sqrt(1.5))
    with GalleryWriter.open(tmp_path / "gallery", fake_facts(layout=layout)) as writer:
        for chosen in (range(30), range(3, 30, 7)):  # some again: their rows lie behind those of later records
            entries = [Entry(Path(f"/p/{n}.jpg"), FileStamp(1, 2, "x"), {"id": n // 2}) for n in chosen]
            writer.commit(entries, values[list(chosen)])
    return tmp_path / "gallery"


def test_a_gallery_finds_the_same_by_the_kernel(small_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memories: list[EmulatedMemory] = []

    def emulated(vectors: StoredVectors, device: Device) -> KernelScan:
        memories.append(EmulatedMemory())
        return KernelScan(vectors, device, memory=memories[-1])

    monkeypatch.setattr(on_device, "KernelScan", emulated)
    with Gallery.open(small_gallery) as gallery:
        queries = random_queries(3, gallery.model.layout.dim)
        for options in ({}, {"per_id": True}, {"min_score": 0.0}):
            for where in (None, Filter(where="record % 3 = 0")):
                device = SearchOptions(device="cuda:1", **options)
                one = gallery.search_with_report(queries, 4, where, device)
                assert one.hits == gallery.search(queries, 4, where, SearchOptions("scan", **options))
                assert one.report.device is not None and one.report.device.startswith("kernel on cuda:1 (Fake GPU")
    assert [(memory.held, memory.closed) for memory in memories] == [(0, True)]


def failing(message: str) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise BackendError(message)

    return fail


def test_what_searches_is_chosen_and_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    vectors = stored_vectors(5, 8, "float16")
    monkeypatch.setattr(on_device, "KernelScan", failing("NVRTC is missing."))
    portable = DeviceScan(vectors, Device("cpu"))
    monkeypatch.setattr(on_device, "DeviceScan", lambda *_: portable)
    stage = on_device.open_device_stage(vectors, CUDA)
    assert stage.description.startswith("ONNX Runtime") and "NVRTC is missing." in stage.description
    assert "runs by ONNX Runtime, not by the kernel: NVRTC is missing." in caplog.text
    with pytest.raises(BackendError, match=r"^NVRTC is missing\.$"):
        on_device.open_device_stage(vectors, CUDA, "kernel")
    monkeypatch.setattr(on_device, "DeviceScan", failing("No provider."))
    with pytest.raises(BackendError, match=r"^NVRTC is missing\. No provider\.$"):
        on_device.open_device_stage(vectors, CUDA)
    with pytest.raises(BackendError, match=r"^No provider\.$"):
        on_device.open_device_stage(vectors, CUDA, "onnxruntime")


def test_a_backend_is_for_a_device() -> None:
    with pytest.raises(UsageError, match="runs on a GPU, and the search device is cpu"):
        SearchOptions(backend="kernel")
    with pytest.raises(UsageError, match="want one of auto, kernel, onnxruntime"):
        SearchOptions(device="cuda", backend="cublas")  # type: ignore[arg-type]
