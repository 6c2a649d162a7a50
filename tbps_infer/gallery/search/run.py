"""Runs a search of an opened gallery: chooses the first stage by the method, and makes hits of what was found.

Which rows are read is decided in `tbps_infer.gallery.search.candidates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.devices import Device, SearchBackend
from tbps_infer.errors import GalleryError, UsageError
from tbps_infer.gallery.columns import Value
from tbps_infer.gallery.search.graph import Graph
from tbps_infer.gallery.search.queries import best_per_identity
from tbps_infer.gallery.search.results import Hit, SearchMethod, SearchOptions, SearchReport, SearchResult
from tbps_infer.gallery.search.rows import Selection
from tbps_infer.gallery.search.scan import Scanned, ScanOptions, top_k, undecided_share
from tbps_infer.gallery.search.sketch import Sketch
from tbps_infer.gallery.vectors import NORM_MARGIN, DamagedVectorsError, StoredVectors, split_products
from tbps_infer.model_facts import ModelFacts

if TYPE_CHECKING:
    from tbps_infer.gallery.search.on_device import DeviceStage

__all__ = ["Searchable", "search_gallery"]

# A block's scores are kept for this many queries at once; more are searched in turns.
_QUERIES_AT_ONCE = 1024
# `auto` and `exact` take the sketch where it leaves no more of a sample's rows than this to exact scores for the
# queries asked: a search then took 0.2 to 0.8 of a scan's time, beyond it 1.8 to 70 times as long (measured at 832
# numbers).
_MOST_UNDECIDED = 0.03
_QUERIES_ASKED = 64


class Described(Protocol):
    """What a hit tells of its record: the picture, and the metadata columns in which it holds a value."""

    @property
    def path(self) -> Path: ...

    @property
    def metadata(self) -> Mapping[str, Value]: ...


class Searchable(Protocol):
    """What a search needs of a gallery."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def model(self) -> ModelFacts:
        """The model whose embeddings it holds."""

    @property
    def stored(self) -> StoredVectors:
        """The vectors, usually memory-mapped."""

    @property
    def sketch(self) -> Sketch | None:
        """The sketch; None where it was not built."""

    @property
    def graph(self) -> Graph | None:
        """The graph; None where it was not built."""

    def on_device(self, device: Device, backend: SearchBackend) -> DeviceStage:
        """The vectors on a device."""

    def release(self, first: int, last: int) -> None:
        """Give the memory of mapped rows first to last+1 back."""

    @property
    def scan_release(self) -> Callable[[int, int], None] | None:
        """What a scan calls when it is done with rows: as `release`, or None where that would only cost time."""

    def details(self, records: NDArray[np.int64]) -> Mapping[int, Described]:
        """Some records, by number."""

    def damaged(self, error: DamagedVectorsError, method: SearchMethod) -> GalleryError:
        """What to raise when a search by a method finds that stored numbers are damaged."""


@dataclass(frozen=True)
class _Task:
    """What every turn of a search has in common."""

    gallery: Searchable
    selection: Selection
    method: SearchMethod
    first_stage: Sketch | Graph | DeviceStage | None
    options: SearchOptions

    def top_k(self, queries: NDArray[np.float32], k: int) -> Scanned:
        first_stage = self.first_stage
        if isinstance(first_stage, Graph):
            first_stage = replace(first_stage, candidates=max(k, self.options.candidates))
        with self._damage_reported():
            return top_k(
                self.gallery.stored,
                self.selection.rows,
                queries,
                k,
                max_norm=self._norm,
                options=self._scan_options,
                first_stage=first_stage,
            )

    def undecided(self, queries: NDArray[np.float32], k: int) -> float:
        """The share of rows that the first stage, which is there, leaves to exact scores."""
        assert self.first_stage is not None
        with self._damage_reported():
            return undecided_share(
                self.gallery.stored,
                self.selection.rows,
                queries,
                k,
                max_norm=self._norm,
                options=self._scan_options,
                first_stage=self.first_stage,
            )

    @property
    def _norm(self) -> float:
        return NORM_MARGIN * math.sqrt(self.gallery.model.layout.squared_norm)

    @property
    def _scan_options(self) -> ScanOptions:
        return ScanOptions(threads=self.options.threads, release=self.gallery.scan_release)

    @contextmanager
    def _damage_reported(self) -> Iterator[None]:
        try:
            yield
        except DamagedVectorsError as error:
            raise self.gallery.damaged(error, self.method) from error

    def hits(self, query: NDArray[np.float32], scores: NDArray[np.float32], found: NDArray[np.int64]) -> list[Hit]:
        """Hits of one query, those below the smallest score left out."""
        smallest = -np.inf if self.options.min_score is None else self.options.min_score
        kept = np.isfinite(scores) & (scores >= smallest)  # -inf stands for what a graph did not find
        found, scores = found[kept], scores[kept]
        records, layout = self.selection.records[found], self.gallery.model.layout
        starts = [piece.start for piece in layout.slices.values()]
        shares = split_products(self.gallery.stored, self.selection.rows.numbers[found], query, starts)
        self.gallery.release(0, len(self.gallery.stored))
        details = self.gallery.details(records)
        hits = []
        for number, score, share in zip(records.tolist(), scores.tolist(), shares, strict=True):
            record, split = details[number], dict(zip(layout.names, share.tolist(), strict=True))
            hits.append(Hit(number, record.path, score, split, record.metadata))
        return hits


def search_gallery(
    gallery: Searchable, selection: Selection, queries: NDArray[np.float32], k: int, options: SearchOptions
) -> SearchResult:
    """Search the records that passed a filter, with queries float32 ``[q, dim]`` that are finite.

    Raises:
        UsageError: The gallery has no sketch or no graph, and the method needs it.
        GalleryError: Stored numbers are damaged.
        BackendError: The device, or a package that the method needs, is missing.
    """
    task = _Task(gallery, selection, *_first_stage(gallery, options), options)
    chosen = options.method in ("auto", "exact") and isinstance(task.first_stage, Sketch)
    if chosen and task.undecided(_evenly(queries, _QUERIES_ASKED), k) > _MOST_UNDECIDED:
        task = replace(task, method="scan", first_stage=None)
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
    rows, first_stage = selection.rows, task.first_stage
    covered = len(gallery.stored) if first_stage is None else first_stage.count
    report = SearchReport(
        method=task.method,
        searched=len(rows),
        unindexed=int((rows.numbers >= covered).sum()) if covered < len(gallery.stored) else 0,
        bytes_read=None if task.method == "graph" else read / max(1, len(queries)),
        bytes_of_all=len(rows) * gallery.stored.row_bytes,
        device=None if first_stage is None or isinstance(first_stage, Sketch | Graph) else first_stage.description,
    )
    return SearchResult(hits, report)


def _evenly(queries: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """No more than so many of the queries, spread over all: neighbours are often alike."""
    return queries[np.linspace(0, len(queries) - 1, min(most, len(queries))).astype(np.int64)]


def _first_stage(
    gallery: Searchable, options: SearchOptions
) -> tuple[SearchMethod, Sketch | Graph | DeviceStage | None]:
    """The method that ``auto`` stands for, and what goes through the rows first; None is a scan on the CPU."""
    if options.method == "index" or options.probes is not None:
        raise UsageError(
            f"The gallery {gallery.path} has no index with partitions: only datasets do.",
            "Make one with tbps gallery push GALLERY URI, and tbps gallery index URI.",
        )
    device = Device.parse(options.device)
    if device.kind != "cpu":
        return "scan", gallery.on_device(device, options.backend)
    if options.method == "scan":
        return "scan", None
    if options.method == "graph":
        if gallery.graph is None:
            raise UsageError(
                f"The gallery {gallery.path} has no graph for approximate searches.",
                "Build it with tbps gallery index --approx GALLERY.",
            )
        return "graph", gallery.graph
    sketch = gallery.sketch
    if sketch is None and options.method == "sketch":
        raise UsageError(f"The gallery {gallery.path} has no sketch.", "Build it with tbps gallery index GALLERY.")
    return "scan" if sketch is None else "sketch", sketch


def _one_per_identity(task: _Task, query: NDArray[np.float32], k: int) -> tuple[list[Hit], float]:
    """The best hit of each of the k best identities, and the bytes read."""
    read = 0.0

    def look(asked: int) -> list[Hit]:
        nonlocal read
        scanned = task.top_k(query[None], asked)
        read += scanned.bytes_read
        return task.hits(query, scanned.scores[0], scanned.indices[0])

    return best_per_identity(look, k), read
