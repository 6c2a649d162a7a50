"""The graph of approximate searches: HNSW by usearch, stored in the gallery; what it proposes is scored exactly."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tbps_infer.atomic import new_file
from tbps_infer.errors import BackendError, GalleryError
from tbps_infer.formats.json_files import JsonObject, parse_json
from tbps_infer.gallery.search.candidates import Candidates
from tbps_infer.gallery.search.checksums import file_checksum, require_checksum
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import ScanOptions
from tbps_infer.gallery.vectors import DamagedVectorsError, StoredVectors

__all__ = ["Graph", "build_graph"]

_FORMAT = "tbps-graph-2"
_FACTS_BYTES = 512  # at the end of the file, so that one rename puts graph and checksum in place
_SAMPLE, _ANSWERS = 64, 10  # queries that a written graph is asked, and rows of each
_REBUILD = "Build it again with tbps gallery index --approx."


@dataclass(frozen=True)
class Graph:
    """The graph over the first `count` rows of a vector file: a `tbps_infer.gallery.search.scan.FirstStage`.

    Attributes:
        index: usearch's.
        count: How many rows it covers.
        mapped: The file, at which the index looks.
        candidates: Rows that it is asked for per query.
        row_bytes: 0: what it reads depends on the query.
    """

    index: Any
    count: int
    mapped: memoryview
    candidates: int = 200
    row_bytes: int = 0

    def scan(
        self,
        pool: Candidates,
        rows: Rows,
        queries: NDArray[np.float32],
        max_norm: float,  # noqa: ARG002 - what it proposes is scored, not bounded
        options: ScanOptions,
    ) -> None:
        """Add the rows that the graph proposes, with their scores; k that score -inf stand for what it misses.

        Raises:
            DamagedVectorsError: usearch cannot search the graph.
        """
        candidates = min(self.candidates, self.count)
        self.index.expansion_search = candidates
        try:
            found = self.index.search(queries, candidates, threads=options.threads or 0)
        except RuntimeError as error:  # whatever usearch raises
            raise DamagedVectorsError(f"The graph cannot be searched: {error}") from error
        keys = np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)
        owner, column = np.nonzero((keys >= 0) & (keys < self.count))
        positions = rows.places(self.count)[keys[owner, column]]
        wanted = positions >= 0  # the graph knows removed rows, and rows that came after the gallery was opened
        pool.add_scored(owner[wanted], positions[wanted])
        missed = np.repeat(np.arange(len(queries)), pool.k)
        nothing = np.full(len(missed), -np.inf, dtype=np.float32)
        pool.add_pairs(missed, np.zeros_like(missed), nothing, np.zeros(len(queries)))

    @classmethod
    def read(cls, file: Path, dim: int) -> Graph:
        """Compare a graph with its checksum and map it.

        Raises:
            BackendError: usearch is not installed.
            GalleryError: The file is no graph, or is damaged; usearch never sees it then, which would crash.
        """
        index = _new_index(dim)
        try:
            with file.open("rb") as opened:
                count = _check(opened)
                mapped = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
            index.view(mapped[:-_FACTS_BYTES])
            if len(index) != count:
                raise ValueError(f"it holds {len(index)} rows, and {count} were written")
        except (OSError, ValueError, RuntimeError) as error:
            raise GalleryError(f"The graph {file} cannot be used: {error}.", _REBUILD) from error
        return cls(index, count, mapped)

    @staticmethod
    def verify(file: Path) -> None:
        """Read all of a graph and compare it with its checksum; raises GalleryError."""
        try:
            with file.open("rb") as opened:
                _check(opened, again=True)
        except (OSError, ValueError) as error:
            raise GalleryError(f"The graph {file} is not what was written: {error}.", _REBUILD) from error


def build_graph(
    vectors: StoredVectors,
    file: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Build the graph of all rows and write it, whole or not at all; returns how many rows it has.

    What usearch wrote is loaded again and asked before it takes its place: it does not tell of a write that failed.

    Raises:
        BackendError: usearch is not installed.
        GalleryError: The file cannot be written, or is not what was built.
    """
    index = _new_index(vectors.dim)
    step = max(1, (32 << 20) // (8 * vectors.dim))
    for start in range(0, len(vectors), step):
        stop = min(start + step, len(vectors))
        index.add(np.arange(start, stop), vectors.exact(slice(start, stop)).astype(np.float32))
        if on_progress is not None:
            on_progress(stop, len(vectors))
    with new_file(file) as temporary:
        try:
            index.save(str(temporary))
            _compare(index, temporary, vectors)
        except (RuntimeError, ValueError) as error:  # usearch does not say which of the two it was
            raise GalleryError(
                f"The graph {file} cannot be written: {error}.",
                "Check the folder's permissions and the free disk space, and run the same command again.",
            ) from error
        facts: dict[str, Any] = {"format": _FORMAT, "count": len(vectors)}
        with temporary.open("rb") as written:
            facts["sha256"] = file_checksum(written, 0, temporary.stat().st_size, json.dumps(facts))
        with temporary.open("ab") as out:
            out.write(json.dumps(facts).ljust(_FACTS_BYTES).encode("ascii"))
    return len(vectors)


def _compare(index: Any, file: Path, vectors: StoredVectors) -> None:
    """Raise ValueError unless a file gives the answers of the graph that was saved there."""
    size = file.stat().st_size
    if size != index.serialized_length:  # first, for usearch crashes on a graph that was cut short
        raise ValueError(f"it has {size} bytes, and {index.serialized_length} were to be written")
    with file.open("rb") as opened:
        mapped = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    written = _new_index(vectors.dim)
    written.view(mapped)
    rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64))
    queries = vectors.exact(rows).astype(np.float32)
    most = min(_ANSWERS, len(vectors))
    found = [np.asarray(each.search(queries, most, threads=1).keys) for each in (index, written)]
    if len(written) != len(index) or not np.array_equal(*found):
        raise ValueError("what was read back gives other answers")


def _check(file: BinaryIO, *, again: bool = False) -> int:
    """Compare an open graph with what its last bytes say about it; returns its rows, raises ValueError or OSError."""
    stop = os.fstat(file.fileno()).st_size - _FACTS_BYTES
    if stop < 0:
        raise ValueError("it was cut short")
    try:
        facts = JsonObject(parse_json(os.pread(file.fileno(), _FACTS_BYTES, stop)))
    except ValueError as error:
        raise ValueError("it was cut short or not written by this version") from error
    if facts.get("format") != _FORMAT:
        raise ValueError(f"it is not of the format {_FORMAT}")
    count = facts.integer("count", 1)
    told = json.dumps({"format": _FORMAT, "count": count})
    require_checksum(file, (0, stop), told, facts.text("sha256"), again=again)
    return count


def _new_index(dim: int) -> Any:
    try:
        from usearch.index import Index
    except ImportError as error:
        raise BackendError(
            "An approximate search needs usearch, which is not installed.", 'Run pip install "tbps-infer[search]".'
        ) from error
    # M and efConstruction of Malkov and Yashunin, 2018: neighbours per row, and rows looked at to find them. In half
    # precision it takes half the memory, and what it proposes is scored exactly from the gallery's own vectors.
    return Index(ndim=dim, metric="ip", dtype="f16", connectivity=24, expansion_add=128)
