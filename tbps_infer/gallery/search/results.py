"""What a search is asked for and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tbps_infer.devices import SEARCH_BACKENDS, Device, SearchBackend
from tbps_infer.errors import UsageError
from tbps_infer.gallery.columns import Value

__all__ = ["Hit", "SearchMethod", "SearchOptions", "SearchReport", "SearchResult"]

_CARD = (192, 64)
"""Height and width in pixels."""

SearchMethod = Literal["auto", "exact", "scan", "sketch", "graph", "index"]


@dataclass(frozen=True, slots=True)
class Hit:
    """One record found by a query.

    Attributes:
        record: Its number in the gallery.
        path: The picture, absolute.
        score: Inner product of the query's and the picture's embedding, as stored.
        split: The score's share of every segment of the model's layout, by name; they sum to the score.
        metadata: The columns in which the record holds a value.
        gallery: Which of several galleries it is in; empty where one was searched.
        crop: Its crop as JPEG, where the gallery keeps crops and the search asked for them.
    """

    record: int
    path: Path
    score: float
    split: Mapping[str, float]
    metadata: Mapping[str, Value]
    gallery: str = ""
    crop: bytes | None = None

    @property
    def picture(self) -> Path | bytes:
        """What to show: the crop where there is one, else the file."""
        return self.path if self.crop is None else self.crop

    def _repr_html_(self) -> str:
        """The picture beside what is known about the hit, for notebooks."""
        from html import escape

        from tbps_infer.inline_picture import image_html

        rows = {"score": f"{self.score:.3f}", **{name: f"{share:.3f}" for name, share in self.split.items()}}
        rows |= {"file": str(self.path), **{name: str(value) for name, value in self.metadata.items()}}
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        picture = image_html(self.picture, _CARD, "<i>The picture cannot be read.</i>")
        return f'<div style="display:flex;gap:1em">{picture}<table>{cells}</table></div>'


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        method: ``scan`` reads every vector; ``sketch`` reads the gallery's sketch first, and then the vectors that
            can still be among the k best: the same result; ``graph`` asks the gallery's graph, which may miss some,
            and ``index`` a dataset's index, which may, too. ``exact`` is ``sketch`` where the gallery has one that
            excludes enough rows for these queries, else ``scan``; ``auto`` is ``index`` for a dataset that has one,
            else ``exact``.
        min_score: Hits with a smaller score are left out.
        per_id: Return the best hit of each identity (metadata column ``id``), k identities; records without one
            stand for themselves.
        threads: How many; None is one per core that this process may use.
        candidates: For ``graph`` and ``index``: how many rows are proposed per query, of which the best are returned.
        probes: For ``index``: how many of its partitions are searched; None is what reached a recall of 0.99 when it
            was built. Searches with a filter take more candidates and partitions, in the proportion in which fewer
            rows pass; where that would be all that pass, these are scanned.
        crops: Whether hits bring their crops, where the gallery keeps crops.
        device: ``cpu``, or a CUDA device, ``cuda`` or ``cuda:N``, which keeps the vectors as far as its memory goes
            and scans them, whether or not the gallery has a sketch. The result is the same.
        backend: What searches on a CUDA device: ``kernel``, the project's own, compiled there by NVRTC;
            ``onnxruntime``; or ``auto``, the kernel where it can run, else ONNX Runtime, with a warning.
    """

    method: SearchMethod = "auto"
    min_score: float | None = None
    per_id: bool = False
    threads: int | None = None
    candidates: int = 200
    probes: int | None = None
    crops: bool = False
    device: str = "cpu"
    backend: SearchBackend = "auto"

    def __post_init__(self) -> None:
        if self.method not in get_args(SearchMethod):
            raise UsageError(f"The method is {self.method!r}, want one of {', '.join(get_args(SearchMethod))}.")
        if self.min_score is not None and math.isnan(self.min_score):
            raise UsageError("min_score is NaN, want a number.")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}, want at least 1.")
        if self.candidates < 1:
            raise UsageError(f"candidates is {self.candidates}, want at least 1.")
        if self.probes is not None and self.probes < 1:
            raise UsageError(f"probes is {self.probes}, want at least 1.")
        if self.probes is not None and self.method not in ("auto", "index"):
            raise UsageError(f"The method {self.method} has no partitions to probe.", "Leave one of the two out.")
        if self.backend not in SEARCH_BACKENDS:
            raise UsageError(f"The search backend is {self.backend!r}, want one of {', '.join(SEARCH_BACKENDS)}.")
        if self.backend != "auto" and Device.parse(self.device).kind == "cpu":
            raise UsageError(
                f"The search backend {self.backend} runs on a GPU, and the search device is cpu.",
                "Name the GPU as the search device.",
            )
        if Device.parse(self.device).kind != "cpu" and self.method not in ("auto", "exact", "scan"):
            raise UsageError(
                f"The method {self.method} runs on the CPU, and the search device is {self.device}.",
                "Leave one of the two out.",
            )


@dataclass(frozen=True)
class SearchReport:
    """How a search went.

    Attributes:
        method: ``scan``, ``sketch``, ``graph`` or ``index``.
        searched: Records that passed the filter.
        unindexed: Of these, the ones that came after the sketch or graph was built and were read in full.
        bytes_read: Bytes of vectors and sketch that an average query needed; None for ``graph`` and ``index``.
        bytes_of_all: Bytes of the vectors of all records that were searched.
        device: What searched on a device, and how; None on the CPU.
        approximate: That an index was searched, and how good it is, as a sentence; None where the result is exact.
        left_out: Of several galleries, those that could not be searched, and why.
    """

    method: SearchMethod
    searched: int
    unindexed: int
    bytes_read: float | None
    bytes_of_all: int
    device: str | None = None
    approximate: str | None = None
    left_out: tuple[str, ...] = ()

    @property
    def share_read(self) -> float | None:
        """`bytes_read` as a share of `bytes_of_all`."""
        if self.bytes_read is None:
            return None
        return self.bytes_read / self.bytes_of_all if self.bytes_of_all else 0.0


@dataclass(frozen=True)
class SearchResult:
    """Hits of every query, best first, and how they were found."""

    hits: list[list[Hit]]
    report: SearchReport
