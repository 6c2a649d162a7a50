"""Vectors as a gallery stores them: embeddings checked and rounded on the way in, files mapped on the way out."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.folder import GalleryFacts, require_length
from tbps_infer.gallery.vectors import NORM_MARGIN, StoredVectors, quantise

__all__ = ["MappedVectors", "checked_rows", "map_vectors"]

# A file beyond this is not kept in this process's memory by a scan; the system's cache of files still has it.
_RESIDENT_BYTES = 1 << 30

# Of the squared norm: float16 graphs and rounding stay far below, a vector that is not normalised far above.
_NORM_TOLERANCE = 0.01


@dataclass(frozen=True)
class MappedVectors:
    """A vector file's rows.

    Attributes:
        stored: The vectors.
        raw: uint8 ``[rows, row_bytes]``, what checksums are made of.
        release: Gives the memory of rows first to last+1 back to the system; None where that is not needed.
    """

    stored: StoredVectors
    raw: NDArray[np.uint8]
    release: Callable[[int, int], None] | None


def _stored_rows(raw: NDArray[np.uint8], facts: GalleryFacts) -> StoredVectors:
    """The vectors that uint8 ``[n, row_bytes]`` holds, without a copy."""
    width = facts.model.layout.dim * facts.dtype.itemsize
    values: NDArray[Any] = raw[:, :width].view(facts.dtype)
    scales = raw[:, width:].view("<f4")[:, 0] if width < facts.row_bytes else None
    return StoredVectors(values, scales)


def _raw_rows(vectors: NDArray[np.float32], facts: GalleryFacts) -> NDArray[np.uint8]:
    """Embeddings float32 ``[n, dim]`` as they are stored, uint8 ``[n, row_bytes]``."""
    if facts.dtype_name == "int8":
        values, scales = quantise(vectors)
        return np.concatenate((values.view(np.uint8), scales.astype("<f4")[:, None].view(np.uint8)), axis=1)
    return np.ascontiguousarray(vectors, dtype=facts.dtype).view(np.uint8).reshape(len(vectors), facts.row_bytes)


def map_vectors(path: Path, facts: GalleryFacts, generation: int, rows: int) -> MappedVectors:
    """Map the committed rows of a gallery's vector file.

    Raises:
        FileNotFoundError: It is not there, for instance because a compaction has just replaced it.
        GalleryError: It is shorter than its records say, or cannot be read.
    """
    file = path / facts.vectors_file(generation)
    wanted = rows * facts.row_bytes
    release = None
    try:
        require_length(file, file.stat().st_size, wanted)
        flat = np.empty(0, dtype=np.uint8)
        if rows:
            with file.open("rb") as handle:
                mapped = mmap.mmap(handle.fileno(), wanted, access=mmap.ACCESS_READ)
            flat = np.frombuffer(mapped, dtype=np.uint8)
            if wanted > _RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
                release = _releaser(mapped, facts.row_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise GalleryError(
            f"{file} cannot be read: {error.strerror or error}.", "Copy the whole folder, or embed again."
        ) from error
    raw = flat.reshape(rows, facts.row_bytes)
    return MappedVectors(_stored_rows(raw, facts), raw, release)


def _releaser(mapped: mmap.mmap, row_bytes: int) -> Callable[[int, int], None]:
    def release(first: int, last: int) -> None:
        # Whole pages around the rows: a neighbour that another thread is reading is simply mapped again.
        start = first * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, min(last * row_bytes, len(mapped)) - start)

    return release


def checked_rows(vectors: NDArray[np.float32] | None, count: int, facts: GalleryFacts) -> NDArray[np.uint8]:
    """Embeddings float32 ``[count, dim]`` as they are stored, uint8 ``[count, row_bytes]``.

    Raises:
        GalleryError: They have another shape or type, one is no embedding of the gallery's model, or rounding to the
            gallery's type would change one too much.
    """
    layout = facts.model.layout
    want = f"want float32[{count}, {layout.dim}], finite, of squared norm {layout.squared_norm:g}"
    hint = "The model's output is not an embedding; check its bundle with the reference it was exported from."
    if vectors is None or vectors.shape != (count, layout.dim) or vectors.dtype != np.float32:
        given = "none" if vectors is None else f"{vectors.dtype}{list(vectors.shape)}"
        raise GalleryError(f"The vectors given to the gallery are {given}, {want}.", hint)
    squared = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(squared - layout.squared_norm) <= _NORM_TOLERANCE * layout.squared_norm))
    if len(wrong):
        raise GalleryError(
            f"Vector {wrong[0]} given to the gallery has the squared norm {squared[wrong[0]]:g}, {want}.", hint
        )
    raw = _raw_rows(vectors, facts)
    if facts.dtype_name != "int8":
        return raw  # rounding changes a length by less than a thousandth
    stored = np.linalg.norm(_stored_rows(raw, facts).exact(slice(None)), axis=1)
    wrong = np.flatnonzero(stored > NORM_MARGIN * math.sqrt(layout.squared_norm))
    if len(wrong):
        raise GalleryError(
            f"Vector {wrong[0]} cannot be stored as {facts.dtype_name}: rounding would lengthen it by more than "
            f"{NORM_MARGIN - 1:.0%}.",
            "Embed the pictures into a gallery of float16.",
        )
    return raw
