"""A search by the sketch returns exactly what a scan returns, and its bounds hold for every row and query."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.gallery import Gallery, GalleryWriter, SearchOptions, index_gallery
from tbps_infer.gallery.search.candidates import Candidates, Radius
from tbps_infer.gallery.search.multiply import numkong_usable
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import ScanOptions, top_k
from tbps_infer.gallery.search.sketch import Sketch, build_sketch, principal_directions
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors, quantise
from tbps_infer.model_facts import ModelFacts


def unit_vectors(rng: np.random.Generator, count: int, dim: int, rank: int, noise: float) -> NDArray[np.float64]:
    """Unit vectors near a subspace, as a trained model's are."""
    basis = rng.normal(size=(rank, dim))
    values = rng.normal(size=(count, rank)) @ basis + noise * rng.normal(size=(count, dim)) + rng.normal(size=dim)
    unit: NDArray[np.float64] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def stored(values: NDArray[np.floating[Any]], dtype: str) -> StoredVectors:
    return StoredVectors(*quantise(values)) if dtype == "int8" else StoredVectors(values.astype(dtype))


class Recorder(Candidates):
    """Keeps what is added, as bounds [rows, queries]."""

    def __init__(self, rows: int, queries: int) -> None:
        super().__init__(queries, 1, lambda owner, _: np.zeros(len(owner), dtype=np.float32))
        self.lower = np.full((rows, queries), np.nan)
        self.upper = np.full((rows, queries), np.nan)

    def add(
        self,
        positions: Callable[[NDArray[np.int64]], NDArray[np.int64]],
        tops: NDArray[np.float32],
        slack: NDArray[np.float64],
        radius: Radius | None = None,
    ) -> None:
        assert radius is not None
        index = np.arange(len(tops))
        places = positions(index)
        radii = radius(index[:, None], np.arange(tops.shape[1])[None])
        self.lower[places] = tops.astype(np.float64) - 2 * radii - slack
        self.upper[places] = tops.astype(np.float64) + slack


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 150),
    dim=st.integers(8, 60),
    rank=st.integers(1, 6),
    noise=st.sampled_from([0.0, 0.01, 1.0]),
    dtype=st.sampled_from(["float16", "float32", "int8"]),
    numkong=st.booleans(),
    data=st.data(),
)
def test_a_search_by_the_sketch_is_a_scan(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    dim: int,
    rank: int,
    noise: float,
    dtype: str,
    numkong: bool,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    values = unit_vectors(rng, count, dim, rank, noise)
    values = values[rng.integers(0, count, count)]  # with duplicates, which tie
    covered = data.draw(st.integers(1, count))
    file = tmp_path_factory.mktemp("sketch") / "sketch"
    vectors = stored(values, dtype)
    first = StoredVectors(vectors.values[:covered], None if vectors.scales is None else vectors.scales[:covered])
    build_sketch(first, file, directions=data.draw(st.sampled_from([None, 1, 5])))
    sketch = Sketch.read(file, dim)
    assert sketch.count == covered
    # Queries near the gallery, far from it, long, and zero.
    drawn = np.concatenate(
        (values[:2], rng.normal(size=(2, dim)), 1e4 * rng.normal(size=(1, dim)), np.zeros((1, dim)))
    )
    # Six are bounded one after the other, twelve at once.
    # Sometimes so many pairs are left that their rows are multiplied before any is scored.
    queries = np.concatenate([drawn] * data.draw(st.integers(1, 2))).astype(np.float32)
    rows = rng.permutation(count)[: data.draw(st.integers(1, count))]
    if data.draw(st.booleans()):
        rows = np.arange(rows.min(), rows.max() + 1)
    options = ScanOptions(block_bytes=16 * dim, threads=2, numkong=numkong and numkong_usable())
    k = data.draw(st.integers(1, 12))
    want = top_k(vectors, Rows.of(rows), queries, k, max_norm=1.02)
    found = top_k(vectors, Rows.of(rows), queries, k, max_norm=1.02, options=options, first_stage=sketch)
    np.testing.assert_array_equal(found.indices, want.indices)
    np.testing.assert_array_equal(found.scores, want.scores)

    bounds = Recorder(covered, len(queries))
    sketch.scan(bounds, Rows.of(np.arange(covered)), queries, 1.02, options)
    exact = first.exact(slice(None)) @ queries.T.astype(np.float64)
    assert (bounds.lower <= exact).all()
    assert (exact <= bounds.upper).all()


def test_a_search_by_the_sketch_reads_little_of_vectors_near_a_subspace(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = stored(unit_vectors(rng, 20_000, 256, 12, 0.02), "float16")
    directions = build_sketch(vectors, tmp_path / "sketch")
    assert directions == 16
    queries = vectors.exact(rng.integers(0, 20_000, 8)).astype(np.float32)
    rows = np.arange(20_000)
    found = top_k(
        vectors, Rows.of(rows), queries, 10, max_norm=1.02, first_stage=Sketch.read(tmp_path / "sketch", 256)
    )
    # The sketch itself is 28 of 512 bytes; the rest are rows that had to be scored.
    assert 28 / 512 < found.bytes_read / (20_000 * 512) < 0.1


@pytest.mark.parametrize(("noise", "method"), [(0.02, "sketch"), (100.0, "scan")])
def test_auto_is_the_sketch_where_it_excludes_rows(tmp_path: Path, noise: float, method: str) -> None:
    """Where it excludes next to none, as among random directions, a search by it took 70 times as long as a scan."""
    rng = np.random.default_rng(3)
    vectors = unit_vectors(rng, 4000, 256, 12, noise).astype(np.float32)
    model = ModelFacts.of_vectors(256, "test")
    with GalleryWriter.open(tmp_path / "g", model) as writer:
        writer.add([str(number) for number in range(4000)], vectors)
    index_gallery(tmp_path / "g")
    with Gallery.open(tmp_path / "g") as opened:
        for count in (1, 20):
            found = opened.search_with_report(vectors[:count], 10)
            assert found.report.method == method
            for other in ("scan", "sketch"):
                assert found.hits == opened.search(vectors[:count], 10, options=SearchOptions(other))
        few = opened.search_with_report(vectors[:3], 50, where="record <= 40")
        assert [len(hits) for hits in few.hits] == [40] * 3


def test_auto_asks_queries_of_the_whole_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    near = unit_vectors(rng, 3000, 128, 8, 0.01).astype(np.float32)
    far = rng.standard_normal((192, 128)).astype(np.float32)
    with GalleryWriter.open(tmp_path / "g", ModelFacts.of_vectors(128, "test")) as writer:
        writer.add([str(number) for number in range(3000)], near)
    index_gallery(tmp_path / "g")
    with Gallery.open(tmp_path / "g") as opened:
        methods = [
            opened.search_with_report(queries, 10).report.method
            for queries in (near[:64], np.concatenate((near[:64], far)), np.concatenate((far, near[:64])))
        ]
    assert methods == ["sketch", "scan", "scan"]


def test_directions_are_the_principal_components() -> None:
    values = unit_vectors(np.random.default_rng(1), 3000, 40, 4, 0.01)
    mean, directions = principal_directions(StoredVectors(values.astype(np.float32)), 4)
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(directions @ directions.T, np.eye(4), atol=1e-5)
    _, _, right = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    overlap = np.linalg.svd(directions @ right[:4].T, compute_uv=False)
    np.testing.assert_allclose(overlap, 1, atol=1e-4)


def test_a_stopped_build_leaves_the_sketch_before_it(tmp_path: Path) -> None:
    file = tmp_path / "sketch"
    vectors = stored(unit_vectors(np.random.default_rng(2), 100, 16, 2, 0.1), "float16")
    build_sketch(vectors, file)
    before = file.read_bytes()

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_sketch(vectors, file, directions=5, on_progress=stop)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["sketch"]


def nowhere(count: int, directions: NDArray[np.float32], numbers: float, largest: float) -> Sketch:
    codes = np.ones((count, len(directions)), dtype=np.int8)
    every = np.full((3, count), numbers, dtype=np.float32)
    return Sketch(np.zeros(directions.shape[1], np.float32), directions, codes, every, largest)


@pytest.mark.parametrize("largest", [1.0, 1e30])
def test_bounds_that_are_no_numbers_are_an_error_and_not_a_hit(largest: float) -> None:
    vectors = stored(unit_vectors(np.random.default_rng(3), 100, 16, 2, 0.1), "float32")
    sketch = nowhere(100, np.full((4, 16), 3e38, dtype=np.float32), 3e38, largest)
    with np.errstate(all="ignore"), pytest.raises(DamagedVectorsError):
        queries = np.ones((2, 16), dtype=np.float32)
        rows = Rows.of(np.arange(100))
        top_k(vectors, rows, queries, 5, max_norm=1.01, options=ScanOptions(threads=1), first_stage=sketch)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (b'"largest": ', b'"largest": -'),
        (b'"largest": ', b'"largest": NaN, "x": '),
        (b'"largest": ', b'"largest": null, "x": '),
        (b'"sha256"', b'"sha257"'),
        (b'"count": 100', b'"count": -99'),
        (b'"count": 100', b'"count": 1e9'),
        (b'"directions": ', b'"directions": 9'),
    ],
)
def test_a_damaged_header_is_an_error(tmp_path: Path, part: bytes, other: bytes) -> None:
    file = tmp_path / "sketch"
    build_sketch(stored(unit_vectors(np.random.default_rng(3), 100, 16, 2, 0.1), "float16"), file)
    data = file.read_bytes()
    header = data[:256].replace(part, other).rstrip().ljust(256)
    assert len(header) == 256 and header != data[:256]
    file.write_bytes(header + data[256:])
    with pytest.raises(GalleryError, match="The sketch"):
        Sketch.read(file, 16)
    with pytest.raises(GalleryError, match="The sketch"):
        Sketch.verify(file, 16)


def test_a_bound_that_was_made_smaller_is_found(tmp_path: Path) -> None:
    file = tmp_path / "sketch"
    build_sketch(stored(unit_vectors(np.random.default_rng(3), 100, 16, 2, 0.1), "float16"), file)
    Sketch.verify(file, 16)
    data = file.read_bytes()
    header = json.loads(data[:256])
    header["largest"] /= 2
    file.write_bytes(json.dumps(header).encode().ljust(256) + data[256:])
    with pytest.raises(GalleryError, match="its sha256 differs"):
        Sketch.verify(file, 16)


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_sketch_is_an_error(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "sketch"
    build_sketch(stored(unit_vectors(np.random.default_rng(3), 100, 16, 2, 0.1), "float16"), file)
    data = file.read_bytes()
    file.write_bytes({"cut": data[:-1], "other": b"x" * len(data), "empty": b""}[damage])
    with pytest.raises(GalleryError, match="The sketch"):
        Sketch.read(file, 16)
