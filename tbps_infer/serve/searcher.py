"""The model and the gallery behind a server: queries of all clients, encoded and searched together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.encoder import Encoder
from tbps_infer.explain.attention import AttentionGraphs
from tbps_infer.gallery import Hit, SearchOptions
from tbps_infer.model_facts import ModelFacts
from tbps_infer.queries import compose
from tbps_infer.serve.batching import Batcher
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.live_gallery import LiveGallery, Snapshot
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import BatchOptions

__all__ = ["SearchAnswer", "SearchJob", "Searcher"]

_logger = logging.getLogger(__name__)

_FIRST_SENTENCE = "a person"

_AS_USUAL = SearchOptions()


@dataclass(frozen=True, eq=False)
class SearchJob:
    """One search.

    Attributes:
        texts: Sentences, averaged.
        crops: uint8 ``[n, height, width, 3]`` of the model's size: example pictures, averaged with `like`.
        like: Records whose stored embeddings are example pictures, too; they are left out of the hits.
        exclude: What is subtracted.
        image_weight: The pictures' share beside sentences.
        exclude_weight: How much is subtracted.
        k: Hits.
        records: int64 ``[n]``, numbers of the records to search, ascending; None is all.
        options: How to search.
        keep_like: Whether the records of `like` may be among the hits.
    """

    texts: tuple[str, ...] = ()
    crops: NDArray[np.uint8] | None = None
    like: tuple[int, ...] = ()
    exclude: tuple[str, ...] = ()
    image_weight: float = 0.5
    exclude_weight: float = 0.5
    k: int = 10
    records: NDArray[np.int64] | None = None
    options: SearchOptions = _AS_USUAL
    keep_like: bool = False


@dataclass(frozen=True)
class SearchAnswer:
    """Hits, best first; how many records passed the filter; and what the batch took, in milliseconds."""

    hits: tuple[Hit, ...]
    searched: int
    method: str
    encode_ms: float
    search_ms: float


class Searcher:
    """One model in memory over one gallery; searches from any thread, run in one.

    Args:
        encoder: Opened; closed by `close`, in the thread that used it.
        gallery: The folder or URI.
        batch: How queries are run together.
        metrics: Where they are counted.
        options: How to search.
        attention: The model's attention graphs, where its bundle has them; closed with it.

    Raises:
        GalleryError: The gallery cannot be read.
        ModelMismatchError: It was embedded by another model.
    """

    def __init__(
        self,
        encoder: Encoder,
        gallery: Path | str,
        batch: BatchOptions,
        metrics: Metrics,
        *,
        options: SearchOptions | None = None,
        attention: AttentionGraphs | None = None,
    ) -> None:
        self.gallery = LiveGallery(gallery)
        with self.gallery.snapshot() as snapshot:
            snapshot.gallery.require_model(encoder.facts)
        self.search_options = options or _AS_USUAL
        self.attention = attention
        self._encoder = encoder
        self._metrics = metrics
        self._answer_seconds = batch.answer_seconds
        self._batcher: Batcher[SearchJob, SearchAnswer] = Batcher(self._run, batch, metrics, encoder.close)
        self._warm: Future[SearchAnswer] | None = None
        self._is_warm = False
        metrics.watch(lambda: self._batcher.depth, lambda: self.gallery.count)

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return self._encoder.facts

    @property
    def ready(self) -> bool:
        """Whether the model has answered, and still does."""
        return self._has_answered and self.stuck_seconds is None

    @property
    def stuck_seconds(self) -> float | None:
        """For how long the model has computed one batch, where that is longer than anybody waits for an answer."""
        busy = self._batcher.busy_seconds
        return busy if self._has_answered and busy > self._answer_seconds else None

    @property
    def _has_answered(self) -> bool:
        return self._warm is not None and self._warm.done() and self._warm.exception() is None

    def text_warnings(self, sentences: Sequence[str]) -> tuple[str, ...]:
        """What of some sentences the model cannot take in."""
        return self._encoder.text_warnings(sentences)

    def warm_up(self) -> Future[SearchAnswer]:
        """Run all that later queries will use, then ask once; until that is answered the server is not ready."""
        if self._warm is None:
            self._warm = self._batcher.submit(SearchJob((_FIRST_SENTENCE,), k=1))
            self._warm.add_done_callback(_log_warmth(time.perf_counter()))
        return self._warm

    def search(self, job: SearchJob) -> Future[SearchAnswer]:
        """Queue a search.

        Raises:
            RefusedError: 503, when too many wait; the future may raise 404 for an unknown record.
        """
        return self._batcher.submit(job)

    def close(self) -> None:
        """Answer what waits and give everything back."""
        self._batcher.close()
        self.gallery.close()
        if self.attention is not None:
            self.attention.close()

    def _run(self, jobs: Sequence[SearchJob]) -> list[SearchAnswer]:
        if not self._is_warm:  # here, in the thread that owns the model
            self._encoder.warm()
            self._is_warm = True
        started = time.perf_counter()
        with self.gallery.snapshot() as snapshot:
            queries = self._encode(snapshot, jobs)
            encoded = time.perf_counter()
            found = self._search(snapshot, jobs, queries)
        ended = time.perf_counter()
        self._metrics.stage_seconds.labels("encode").observe(encoded - started)
        self._metrics.stage_seconds.labels("search").observe(ended - encoded)
        encode_ms, search_ms = 1000 * (encoded - started), 1000 * (ended - encoded)
        return [replace(answer, encode_ms=encode_ms, search_ms=search_ms) for answer in found]

    def _encode(self, snapshot: Snapshot, jobs: Sequence[SearchJob]) -> NDArray[np.float32]:
        """float32 ``[n, dim]``: each job's query."""
        layout = self.facts.layout
        nothing = np.empty((0, layout.dim), dtype=np.float32)
        sentences = list(dict.fromkeys(text for job in jobs for text in (*job.texts, *job.exclude)))
        row = {text: number for number, text in enumerate(sentences)}
        texts = self._encoder.encode_texts(sentences) if sentences else nothing
        crops = [job.crops for job in jobs if job.crops is not None]
        pictures = self._encoder.encode_crops(np.concatenate(crops)) if crops else nothing
        composed, used = [], 0
        for job in jobs:
            count = 0 if job.crops is None else len(job.crops)
            stored = [self._stored(snapshot, number) for number in job.like]
            examples = np.concatenate([pictures[used : used + count], *(vector[None] for vector in stored)])
            used += count
            composed.append(
                compose(
                    layout,
                    texts[[row[text] for text in job.texts]],
                    examples,
                    texts[[row[text] for text in job.exclude]],
                    image_weight=job.image_weight,
                    exclude_weight=job.exclude_weight,
                )
            )
        return np.stack(composed)

    def _search(
        self, snapshot: Snapshot, jobs: Sequence[SearchJob], queries: NDArray[np.float32]
    ) -> list[SearchAnswer]:
        """Search once for all jobs with the same records and options."""
        alike: dict[tuple[bytes | None, SearchOptions], list[int]] = {}
        for number, job in enumerate(jobs):
            records = None if job.records is None else job.records.tobytes()
            alike.setdefault((records, job.options), []).append(number)
        answers: dict[int, SearchAnswer] = {}
        for (_, options), numbers in alike.items():
            k = max(jobs[number].k + len(jobs[number].like) for number in numbers)
            only = jobs[numbers[0]].records
            selection = None if only is None else snapshot.gallery.selection(only)
            result = snapshot.gallery.search_with_report(queries[numbers], k, selection, options)
            for number, hits in zip(numbers, result.hits, strict=True):
                job = jobs[number]
                left_out = () if job.keep_like else job.like
                kept = tuple(hit for hit in hits if hit.record not in left_out)[: job.k]
                answers[number] = SearchAnswer(kept, result.report.searched, result.report.method, 0, 0)
        return [answers[number] for number in range(len(jobs))]

    @staticmethod
    def _stored(snapshot: Snapshot, record: int) -> NDArray[np.float32]:
        vector = snapshot.vector(record)
        if vector is None:
            raise RefusedError(404, f"There is no record {record}.", "It may have been removed; search again.")
        return vector


def _log_warmth(started: float) -> Callable[[Future[SearchAnswer]], None]:
    def log(answer: Future[SearchAnswer]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if error is not None:
            _logger.error("the server does not become ready: %s", error)
        else:
            _logger.info("ready after %.1f s", time.perf_counter() - started)

    return log
