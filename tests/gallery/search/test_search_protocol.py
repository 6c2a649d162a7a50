"""A search needs nothing of a gallery but what its Protocol names, and the store lies below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from places import ROOT

from tbps_infer.devices import Device, SearchBackend
from tbps_infer.errors import GalleryError
from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.search.device import DeviceScan
from tbps_infer.gallery.search.graph import Graph
from tbps_infer.gallery.search.results import SearchMethod, SearchOptions
from tbps_infer.gallery.search.rows import Rows, Selection
from tbps_infer.gallery.search.run import search_gallery
from tbps_infer.gallery.search.sketch import Sketch, build_sketch
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import ModelFacts
from tbps_infer.preprocessing import Preprocessing

DIM = 16


@dataclass(frozen=True)
class Picture:
    path: Path
    metadata: Mapping[str, Value]


@dataclass
class InMemory:
    """Vectors without a folder: record n is row n - 1."""

    stored: StoredVectors
    path: Path
    sketch: Sketch | None = None
    graph: Graph | None = None
    model: ModelFacts = ModelFacts(  # noqa: RUF009 - frozen
        "part", {}, Preprocessing(), "none", 64, 0, VectorLayout((Segment("global", DIM),)), "f" * 64
    )

    def on_device(self, device: Device, backend: SearchBackend) -> DeviceScan:
        del backend
        return DeviceScan(self.stored, device)

    def release(self, first: int, last: int) -> None:
        pass

    @property
    def scan_release(self) -> None:
        return None

    def details(self, records: NDArray[np.int64]) -> Mapping[int, Picture]:
        return {number: Picture(Path(f"/{number}"), {"id": number}) for number in records.tolist()}

    def damaged(self, error: DamagedVectorsError, method: SearchMethod) -> GalleryError:
        return GalleryError(f"{method}: {error}")


def test_what_is_no_gallery_on_disk_is_searched_all_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    gallery = InMemory(StoredVectors(values), tmp_path)
    everything = Selection(np.arange(1, 201), Rows.of(np.arange(200)))
    scanned = search_gallery(gallery, everything, values[:3], 5, SearchOptions("scan"))
    assert [hits[0].record for hits in scanned.hits] == [1, 2, 3]
    build_sketch(gallery.stored, tmp_path / "sketch")
    gallery.sketch = Sketch.read(tmp_path / "sketch", DIM)
    by_sketch = search_gallery(gallery, everything, values[:3], 5, SearchOptions("sketch"))
    assert (by_sketch.hits, by_sketch.report.method) == (scanned.hits, "sketch")
    values[7] = np.nan
    with pytest.raises(GalleryError, match="scan: Rows 0 to 199 hold damaged numbers"):
        search_gallery(gallery, everything, values[:1], 5, SearchOptions("scan"))


def test_searching_knows_of_the_store_only_what_a_vector_and_a_column_are() -> None:
    allowed = {"tbps_infer.gallery.vectors", "tbps_infer.gallery.columns"}
    for file in sorted((ROOT / "tbps_infer/gallery/search").glob("*.py")):
        nodes = ast.walk(ast.parse(file.read_text()))
        imported = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        store = {name for name in imported if re.match(r"tbps_infer\.gallery(?!\.search)", name)}
        assert store <= allowed, file


READ_AND_INDEXED = ("__init__.py", "folder_upkeep.py", "protocols.py", "reader.py", "shards.py", "upkeep.py")


def test_the_store_searches_only_where_it_is_read_and_indexed() -> None:
    for file in sorted((ROOT / "tbps_infer/gallery").glob("*.py")):
        if file.name not in READ_AND_INDEXED:
            assert "gallery.search" not in file.read_text(), file
