"""The search of an opened gallery: which rows, by which method, and hits of what was found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import Device
from tbps_infer.errors import GalleryError, UsageError
from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.folder import GRAPH_FILE, SKETCH_FILE
from tbps_infer.gallery.search.graph import Graph
from tbps_infer.gallery.search.sketch import Sketch
from tbps_infer.gallery.search.device import DeviceScan
from tbps_infer.gallery.search.results import Hit, SearchMethod, SearchOptions, SearchReport, SearchResult
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import Scanned, ScanOptions, top_k
from tbps_infer.gallery.vectors import NORM_MARGIN, DamagedVectorsError, split_products

if TYPE_CHECKING:
    from tbps_infer.gallery.reader import Gallery

__all__ = ["search_gallery"]

# A block's scores are kept for this many queries at once; more are searched in turns.
_QUERIES_AT_ONCE = 1024
# Rows that each round of a search by identity looks at, relative to the round before.
_MORE_ROWS = 4


@dataclass(frozen=True)
class _Task:
    """What every turn of a search has in common; `rows` are those of `records`."""

    gallery: Gallery
    records: NDArray[np.int64]
    rows: Rows
    method: SearchMethod
    sketch: Sketch | None
    graph: Graph | None
    device: DeviceScan | None
    options: SearchOptions

    def top_k(self, queries: NDArray[np.float32], k: int) -> Scanned:
        gallery = self.gallery
        norm = NORM_MARGIN * math.sqrt(gallery.model.layout.squared_norm)
        scan = ScanOptions(threads=self.options.threads, release=gallery.release)
        try:
            if self.graph is not None:
                asked = max(k, self.options.candidates)
                return self.graph.top_k(gallery.stored, self.rows, queries, k, asked, max_norm=norm, options=scan)
            first = self.device or self.sketch
            return top_k(gallery.stored, self.rows, queries, k, max_norm=norm, options=scan, preselection=first)
        except DamagedVectorsError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: DamagedVectorsError) -> GalleryError:
        gallery = self.gallery
        index = GRAPH_FILE if self.graph is not None else SKETCH_FILE if self.sketch is not None else None
        file = gallery.path / gallery.facts.vectors_file(gallery.generation)
        if index is None:
            return GalleryError(f"{file} is damaged: {error}", "Restore the file from a copy.")
        return GalleryError(
            f"{file} or its index {index.format(gallery.generation)} is damaged: {error}",
            "tbps gallery verify GALLERY tells which: an index is built again, vectors are restored from a copy.",
        )

    def hits(self, query: NDArray[np.float32], scores: NDArray[np.float32], found: NDArray[np.int64]) -> list[Hit]:
        """Hits of one query, those below the smallest score left out."""
        smallest = -np.inf if self.options.min_score is None else self.options.min_score
        kept = np.isfinite(scores) & (scores >= smallest)  # -inf stands for what a graph did not find
        found, scores = found[kept], scores[kept]
        layout = self.gallery.model.layout
        starts = [piece.start for piece in layout.slices.values()]
        shares = split_products(self.gallery.stored, self.rows.numbers[found], query, starts)
        self.gallery.release(0, len(self.gallery.stored))
        details = self.gallery.details(self.records[found])
        hits = []
        for number, score, share in zip(self.records[found].tolist(), scores.tolist(), shares, strict=True):
            record, split = details[number], dict(zip(layout.names, share.tolist(), strict=True))
            hits.append(Hit(number, record.path, score, split, record.metadata))
        return hits


def search_gallery(
    gallery: Gallery, queries: NDArray[np.float32], k: int, where: Filter, options: SearchOptions
) -> SearchResult:
    """Search with queries that were checked; see `Gallery.search_with_report`."""
    task = _task(gallery, where, options)
    hits: list[list[Hit]] = []
    read = 0.0
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = queries[start : start + _QUERIES_AT_ONCE]
        if options.per_id:
            turn = [_one_per_identity(task, query, k) for query in some]
            hits += [found for found, _ in turn]
            read += sum(share for _, share in turn)
        else:
            scanned = task.top_k(some, k)
            hits += [task.hits(*each) for each in zip(some, scanned.scores, scanned.indices, strict=True)]
            read += scanned.bytes_read * len(some)
    covered = next((index.count for index in (task.graph, task.sketch) if index is not None), None)
    report = SearchReport(
        method=task.method,
        searched=len(task.records),
        unindexed=0 if covered is None else int((task.rows.numbers >= covered).sum()),
        bytes_read=None if task.graph is not None else read / max(1, len(queries)),
        bytes_of_all=len(task.rows) * gallery.stored.row_bytes,
    )
    return SearchResult(hits, report)


def _task(gallery: Gallery, where: Filter, options: SearchOptions) -> _Task:
    method, sketch, graph, device = options.method, None, None, None
    if Device.parse(options.device).kind != "cpu":
        method, device = "scan", gallery.on_device(Device.parse(options.device))
    elif method in ("auto", "cascade"):
        sketch = gallery.sketch
        if sketch is None and method == "cascade":
            raise UsageError(
                f"The gallery {gallery.path} has no index for a cascade.", "Build it with tbps gallery index GALLERY."
            )
        method = "scan" if sketch is None else "cascade"
    elif method == "approx":
        if where:
            raise UsageError(
                "An approximate search cannot be filtered: its graph proposes rows without regard to the filter.",
                "Leave the approximate method out; the exact search is fast where few records pass.",
            )
        graph = gallery.graph
        if graph is None:
            raise UsageError(
                f"The gallery {gallery.path} has no index for an approximate search.",
                "Build it with tbps gallery index --approx GALLERY.",
            )
    records, rows = gallery.selected(where)
    return _Task(gallery, records, rows, method, sketch, graph, device, options)


def _one_per_identity(task: _Task, query: NDArray[np.float32], k: int) -> tuple[list[Hit], float]:
    """The best hit of each of the k best identities, and the bytes read: more rows until there are k identities."""
    asked, read = _MORE_ROWS * k, 0.0
    while True:
        scanned = task.top_k(query[None], asked)
        read += scanned.bytes_read
        hits = task.hits(query, scanned.scores[0], scanned.indices[0])
        best: dict[object, Hit] = {}
        for hit in hits:
            identity = hit.metadata.get("id")
            best.setdefault(("record", hit.record) if identity is None else ("id", str(identity)), hit)
        exhausted = len(hits) < asked  # no more rows, or none that reaches the smallest score
        if len(best) >= k or exhausted:
            return list(best.values())[:k], read
        asked *= _MORE_ROWS
