"""The sketch: a few bytes per row, read before the vectors, that bound every row's score.

A row x is written as ``x = m + s R c + e``: the mean m and p directions R learnt from the gallery (principal
components), p integers c of 8 bits with one scale s, and what is left, e. Then for a query q

    x·q = m·q + s c·(Rᵀq) + e·q,    |e·q| ≤ |Rᵀe||Rᵀq| + |e||q - RRᵀq|

for any R (Cauchy-Schwarz on ``e·RRᵀq`` and on ``e·(q - RRᵀq)``). Both norms of e are stored with the row, rounded up,
so the bound is proven and the search that uses it returns exactly what a search of every vector returns.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tbps_infer.atomic import new_file
from tbps_infer.errors import GalleryError
from tbps_infer.formats.json_files import JsonObject, parse_json
from tbps_infer.gallery.search.blocks import in_blocks
from tbps_infer.gallery.search.candidates import Candidates
from tbps_infer.gallery.search.checksums import file_checksum, require_checksum
from tbps_infer.gallery.search.multiply import ROUNDOFF, Multiplier, multiplier_for
from tbps_infer.gallery.search.rows import Rows
from tbps_infer.gallery.search.scan import MANY, ScanOptions
from tbps_infer.gallery.vectors import StoredVectors, quantise

__all__ = ["Sketch", "build_sketch", "principal_directions"]

_MAGIC = "tbps-sketch 2"
_HEADER_BYTES = 256
_NUMBERS = 3  # per row after c: s, |Rᵀe|, |e|, float32
# The share of the variance that the directions are to keep; measured with a trained model, see docs/search.md.
_KEEP = 0.98
_SIZES = (8, 16, 32, 48, 64, 96, 128, 192, 256)
_SAMPLE_BYTES = 128 << 20
_ROUND_UP = 1 + 1e-6


@dataclass(frozen=True)
class Sketch:
    """The sketch of the first `count` rows of a vector file: a `tbps_infer.gallery.search.scan.FirstStage`.

    Attributes:
        mean: float32 ``[dim]``.
        directions: float32 ``[p, dim]``.
        codes: int8 ``[count, p]``.
        numbers: float32 ``[3, count]``: s, |Rᵀe| and |e|.
        largest: A bound on ``s |c|`` of every row.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    codes: NDArray[np.int8]
    numbers: NDArray[np.float32]
    largest: float

    @property
    def count(self) -> int:
        """How many rows it covers."""
        return len(self.codes)

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return int(self.codes.shape[1]) + 4 * _NUMBERS

    def scan(
        self,
        pool: Candidates,
        rows: Rows,
        queries: NDArray[np.float32],
        max_norm: float,
        options: ScanOptions,
    ) -> None:
        """Add rows to the pool, where they are known by their positions, with the bounds on their scores."""
        exact = queries.astype(np.float64)
        directions = self.directions.astype(np.float64)
        inside = exact @ directions.T
        outside = exact - inside @ directions
        rounded = inside.astype(np.float32)
        offsets = (exact @ self.mean.astype(np.float64)).astype(np.float32)
        norms = np.linalg.norm(exact, axis=1)
        weights = (np.stack((np.linalg.norm(inside, axis=1), np.linalg.norm(outside, axis=1))) * _ROUND_UP).astype(
            np.float32
        )
        slack = self.largest * np.linalg.norm(inside - rounded, axis=1)
        # The roundings of what is added up below.
        slack += 64 * ROUNDOFF * (max_norm + self.largest + float(np.linalg.norm(self.mean))) * norms
        # Two to eight times as fast for 64 queries and up to 96 directions; for one, the copy of the codes in float32
        # costs more (measured).
        at_once = len(queries) >= MANY
        if at_once:
            terms = np.concatenate((rounded, offsets[:, None], weights.T), axis=1)
            multiplier = multiplier_for(terms, np.dtype(np.float32))
            longest = math.sqrt(self.largest**2 + 1 + float((self.numbers[1:].max(axis=1, initial=0) ** 2).sum()))
        else:
            multiplier = multiplier_for(rounded, self.codes.dtype, numkong=options.numkong)
            longest = self.largest
        slack += longest * multiplier.error

        def scan(multiply: Multiplier, start: int, stop: int) -> None:
            stored = rows.stored(start, stop)
            codes, (scales, inner, outer) = self.codes[stored], self.numbers[:, stored]
            if at_once:
                tops = multiply(_with_terms(codes, scales, inner, outer))
            else:
                tops = multiply(codes)
                tops *= scales[:, None]
                tops += offsets
                tops += inner[:, None] * weights[0]
                tops += outer[:, None] * weights[1]

            def radius(index: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
                radii: NDArray[np.float64] = inner[index].astype(np.float64) * weights[0, owner]
                radii += outer[index].astype(np.float64) * weights[1, owner]
                return radii

            pool.add(lambda found: rows.positions_of(start + found), tops, slack, radius)

        size = options.rows_per_block(multiplier.working_bytes * self.codes.shape[1], 2 * len(queries))
        in_blocks(len(rows), size, scan, multiplier, options.threads)

    @classmethod
    def verify(cls, file: Path, dim: int) -> None:
        """Read all of a sketch and compare it with its checksum; raises GalleryError."""
        cls.read(file, dim, again=True)

    @classmethod
    def read(cls, file: Path, dim: int, *, again: bool = False) -> Sketch:
        """Compare a sketch with its checksum and map it; raises GalleryError when it is none, or is damaged.

        Args:
            file: The sketch.
            dim: Of the vectors.
            again: Whether to read it even if this process has before.
        """
        try:
            with file.open("rb") as opened:
                count, p, largest = _check(opened, dim, again)
                raw = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
            learnt = raw[_HEADER_BYTES : _HEADER_BYTES + 4 * (p + 1) * dim].view("<f4").reshape(p + 1, dim)
            table = raw[_HEADER_BYTES + learnt.nbytes :]
            # A copy, for they need not be aligned in the file.
            numbers = np.frombuffer(table[count * p :].tobytes(), dtype="<f4").reshape(_NUMBERS, count)
            if not (np.isfinite(learnt).all() and np.isfinite(numbers).all() and (numbers >= 0).all()):
                raise ValueError("its numbers are damaged")
        except (OSError, ValueError) as error:
            raise GalleryError(f"The sketch {file} cannot be used: {error}.", _REBUILD) from error
        codes = table[: count * p].view(np.int8).reshape(count, p)
        return cls(np.array(learnt[0]), np.array(learnt[1:]), codes, numbers, largest)


_REBUILD = "Build it again with tbps gallery index."


def _with_terms(
    codes: NDArray[np.int8], scales: NDArray[np.float32], inner: NDArray[np.float32], outer: NDArray[np.float32]
) -> NDArray[np.float32]:
    """float32 ``[n, p + 3]``: what gives the upper bounds in one product with ``(Rᵀq, m·q, |Rᵀq|, |q - RRᵀq|)``."""
    terms = np.empty((len(codes), codes.shape[1] + _NUMBERS), dtype=np.float32)
    np.multiply(codes, scales[:, None], out=terms[:, :-_NUMBERS])
    terms[:, -3], terms[:, -2], terms[:, -1] = 1, inner, outer
    return terms


def _header(count: int, directions: int, largest: float) -> dict[str, Any]:
    return {"format": _MAGIC, "count": count, "directions": directions, "largest": largest}


def _check(file: BinaryIO, dim: int, again: bool) -> tuple[int, int, float]:
    """Compare an open sketch with its header; returns rows, p and the largest; raises ValueError or OSError."""
    try:
        read = JsonObject(parse_json(file.read(_HEADER_BYTES)))
    except ValueError as error:
        raise ValueError("its header is damaged") from error
    if read.get("format") != _MAGIC:
        raise ValueError(f"its format is {str(read.get('format'))[:40]!r}, want {_MAGIC!r}")
    count, p, largest = read.integer("count"), read.integer("directions", 1), read.number("largest")
    size = os.fstat(file.fileno()).st_size
    if largest < 0 or size != _HEADER_BYTES + 4 * (p + 1) * dim + count * (p + 4 * _NUMBERS):
        raise ValueError("its header is damaged, or it was cut short")
    told = json.dumps(_header(count, p, largest))
    require_checksum(file, (_HEADER_BYTES, size), told, read.text("sha256"), again=again)
    return count, p, largest


def build_sketch(
    vectors: StoredVectors,
    file: Path,
    *,
    directions: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Learn directions from a sample of the rows, and write the sketch of all of them, whole or not at all.

    Args:
        vectors: At least one.
        file: Where; an existing one is replaced.
        directions: p; None chooses the fewest that keep 98 % of the variance, an eighth of the dimensions at most.
        on_progress: Called with how many of how many rows are done.

    Returns:
        p.
    """
    mean, learnt = principal_directions(vectors, directions)
    p = len(learnt)
    step = max(16, (16 << 20) // (8 * vectors.dim))
    largest = 0.0
    numbers = np.empty((_NUMBERS, len(vectors)), dtype="<f4")
    with new_file(file) as temporary, temporary.open("w+b") as out:
        out.write(b" " * _HEADER_BYTES)
        out.write(mean.astype("<f4").tobytes())
        out.write(learnt.astype("<f4").tobytes())
        for start in range(0, len(vectors), step):
            stop = min(start + step, len(vectors))
            codes, numbers[:, start:stop], longest = _sketch_rows(vectors.exact(slice(start, stop)), mean, learnt)
            largest = max(largest, longest)
            out.write(codes.tobytes())
            if on_progress is not None:
                on_progress(stop, len(vectors))
        out.write(numbers.tobytes())
        out.flush()
        header = _header(len(vectors), p, largest)
        header["sha256"] = file_checksum(out, _HEADER_BYTES, out.tell(), json.dumps(header))
        out.seek(0)
        out.write(json.dumps(header).ljust(_HEADER_BYTES).encode("ascii"))
    return p


def _sketch_rows(
    exact: NDArray[np.float64], mean: NDArray[np.float32], directions: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], float]:
    """Codes int8 ``[n, p]``, numbers float32 ``[3, n]``, and the largest ``s |c|``."""
    basis = directions.astype(np.float64)
    centred = exact - mean
    codes, scales = quantise(centred @ basis.T)
    rebuilt = codes * scales.astype(np.float64)[:, None]
    left = centred - rebuilt @ basis
    numbers = np.stack(
        (scales, np.linalg.norm(left @ basis.T, axis=1) * _ROUND_UP, np.linalg.norm(left, axis=1) * _ROUND_UP)
    ).astype("<f4")
    return codes, numbers, _longest(codes, scales) * _ROUND_UP


def _longest(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> float:
    """The largest ``s |c|``."""
    return float(np.linalg.norm(codes * scales.astype(np.float64)[:, None], axis=1).max(initial=0))


def principal_directions(
    vectors: StoredVectors, directions: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean float32 ``[dim]`` and principal components float32 ``[p, dim]`` of a sample, the most telling first.

    Found by subspace iteration with a random start (Halko, Martinsson and Tropp, 2011, algorithm 4.4): for 6656
    dimensions an eigendecomposition of the covariance would take minutes.
    """
    rng = np.random.default_rng(0)
    count = min(len(vectors), max(256, _SAMPLE_BYTES // (8 * vectors.dim)))
    sample: NDArray[Any] = vectors.exact(np.sort(rng.choice(len(vectors), count, replace=False)))
    mean = sample.mean(axis=0).astype(np.float32)
    centred = (sample - mean).astype(np.float32)
    most = directions or max(1, min(_SIZES[-1], vectors.dim // 8))
    width = min(most + 8, *centred.shape)
    basis = rng.normal(size=(vectors.dim, width)).astype(np.float32)
    for _ in range(4):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    _, strengths, right = np.linalg.svd(centred @ basis, full_matrices=False)
    components = (right @ basis.T)[:most]
    if directions is None:
        kept = np.cumsum(strengths.astype(np.float64) ** 2) / max(
            1e-30, float((centred.astype(np.float64) ** 2).sum())
        )
        enough = [size for size in _SIZES if size <= len(components) and kept[size - 1] >= _KEEP]
        components = components[: enough[0]] if enough else components
    return mean, np.ascontiguousarray(components)
