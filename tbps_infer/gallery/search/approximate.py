"""Approximate search by an HNSW graph (usearch), stored in the gallery; what it proposes is scored exactly."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError, GalleryError
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import Scanned, ScanOptions, top_k
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors, inner_products

__all__ = ["Graph", "GraphOptions", "build_graph"]

_FORMAT = "tbps-graph-1"
_FACTS_BYTES = 512  # at the end of the file, so that one rename puts graph and checksum in place
_REBUILD = "Build it again with tbps gallery index --approx."


@dataclass(frozen=True)
class GraphOptions:
    """How to build: the names are those of Malkov and Yashunin, 2018.

    Attributes:
        connectivity: M, neighbours per row.
        expansion: efConstruction, rows looked at to find them.
    """

    connectivity: int = 24
    expansion: int = 128


@dataclass(frozen=True)
class Graph:
    """The graph over the first `count` rows of a vector file; `mapped` is the file that usearch's index looks at."""

    index: Any
    count: int
    mapped: memoryview

    def top_k(
        self,
        vectors: StoredVectors,
        rows: Rows,
        queries: NDArray[np.float32],
        k: int,
        candidates: int,
        *,
        max_norm: float,
        options: ScanOptions,
    ) -> Scanned:
        """The k best of what the graph proposes and of the rows that it does not have.

        Args:
            vectors: The stored vectors.
            rows: The m rows to return; what else the graph proposes is passed over.
            queries: float32 ``[q, dim]``.
            k: Rows per query.
            candidates: Rows that the graph is asked for.
            max_norm: The largest norm that a vector can have.
            options: As for a scan.

        Returns:
            As `tbps_infer.gallery.search.scan.top_k`; -inf is the score of what was not found.
        """
        position = np.full(len(vectors), -1, dtype=np.int64)
        position[rows.numbers] = np.arange(len(rows))
        outside = np.flatnonzero(rows.numbers >= self.count)
        k = min(k, len(rows))
        if k == 0 or len(queries) == 0:
            return top_k(vectors, rows, queries, k or 1, max_norm=max_norm, options=options)
        late = top_k(vectors, Rows.of(rows.numbers[outside]), queries, k, max_norm=max_norm, options=options)
        candidates = min(candidates, self.count)
        self.index.expansion_search = candidates
        try:
            found = self.index.search(queries, candidates, threads=options.threads or 0)
        except RuntimeError as error:  # whatever usearch raises
            raise DamagedVectorsError(f"The graph cannot be searched: {error}") from error
        keys = np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        indices = np.zeros((len(queries), k), dtype=np.int64)
        for number, proposed in enumerate(keys):
            # The graph may know rows that were added after this gallery was opened.
            own = position[proposed[(proposed >= 0) & (proposed < len(position))]]
            own = own[own >= 0]
            exact = inner_products(vectors, rows.numbers[own], queries, np.full(len(own), number))
            merged_scores = np.concatenate((exact, late.scores[number]))
            merged = np.concatenate((own, outside[late.indices[number]]))
            order = np.lexsort((merged, -merged_scores))[:k]
            scores[number, : len(order)], indices[number, : len(order)] = merged_scores[order], merged[order]
        return Scanned(scores, indices, 0, len(rows) * vectors.row_bytes)

    @classmethod
    def read(cls, file: Path, dim: int) -> Graph:
        """Map a graph; raises BackendError without usearch, GalleryError when the file is none."""
        index = _new_index(dim, GraphOptions())
        try:
            mapped, facts = _mapped(file)
            # Shown to usearch without what follows it, and only when that is there: it crashes on a graph cut short.
            index.view(mapped[:-_FACTS_BYTES])
            if len(index) != facts["count"]:
                raise ValueError(f"it holds {len(index)} rows, and {facts['count']} were written")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise GalleryError(f"The search index {file} cannot be used: {error}.", _REBUILD) from error
        return cls(index, int(facts["count"]), mapped)

    @staticmethod
    def verify(file: Path) -> None:
        """Read all of a graph and compare it with its checksum; raises GalleryError."""
        try:
            mapped, facts = _mapped(file)
            if _sha256(mapped[:-_FACTS_BYTES], facts["count"]) != facts["sha256"]:
                raise ValueError("its sha256 differs")
        except (OSError, ValueError, KeyError) as error:
            raise GalleryError(f"The search index {file} is not what was written: {error}.", _REBUILD) from error


def build_graph(
    vectors: StoredVectors,
    file: Path,
    options: GraphOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Build the graph of all rows and write it, whole or not at all; returns how many rows it has.

    Raises:
        BackendError: usearch is not installed.
        GalleryError: The file cannot be written.
    """
    index = _new_index(vectors.dim, options or GraphOptions())
    step = max(1, (32 << 20) // (8 * vectors.dim))
    for start in range(0, len(vectors), step):
        stop = min(start + step, len(vectors))
        index.add(np.arange(start, stop), vectors.exact(slice(start, stop)).astype(np.float32))
        if on_progress is not None:
            on_progress(stop, len(vectors))
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        try:
            index.save(str(temporary))
        except RuntimeError as error:  # usearch does not say which of the two it was
            raise GalleryError(
                f"The search index {file} cannot be written: {error}.",
                "Check the folder's permissions and the free disk space, and run the same command again.",
            ) from error
        count = len(vectors)
        facts = {"format": _FORMAT, "count": count, "sha256": _sha256(_map(temporary), count)}
        with temporary.open("ab") as out:
            out.write(json.dumps(facts).ljust(_FACTS_BYTES).encode("ascii"))
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return len(vectors)


def _mapped(file: Path) -> tuple[memoryview, dict[str, Any]]:
    """A graph's file, mapped, and what its last bytes say about it; raises ValueError when they are none."""
    mapped = _map(file)
    try:
        facts = json.loads(bytes(mapped[-_FACTS_BYTES:]))
    except ValueError as error:
        raise ValueError("it was cut short or not written by this version") from error
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise ValueError(f"it is not of the format {_FORMAT}")
    return mapped, facts


def _map(file: Path) -> memoryview:
    with file.open("rb") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _sha256(graph: memoryview, count: object) -> str:
    digest = hashlib.sha256(f"{count} rows\n".encode())
    digest.update(graph)
    return digest.hexdigest()


def _new_index(dim: int, options: GraphOptions) -> Any:
    try:
        from usearch.index import Index
    except ImportError as error:
        raise BackendError(
            "An approximate search needs usearch, which is not installed.", 'Run pip install "tbps-infer[search]".'
        ) from error
    # Stored as float16: half the memory, and what is proposed is scored exactly from the gallery's own vectors.
    return Index(
        ndim=dim,
        metric="ip",
        dtype="f16",
        connectivity=options.connectivity,
        expansion_add=options.expansion,
    )
