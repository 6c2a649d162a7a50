"""A model and the galleries embedded by it: queries of all clients, encoded and searched together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.encoder import Encoder
from tbps_infer.explain.attention import AttentionGraphs
from tbps_infer.gallery import Filter, Hit, SearchOptions, StoredGallery
from tbps_infer.model_facts import ModelFacts
from tbps_infer.serve.batching import Batcher
from tbps_infer.serve.composing import queries_of
from tbps_infer.serve.jobs import SearchAnswer, SearchJob
from tbps_infer.serve.live_gallery import LiveGallery, Snapshot, name_galleries
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import BatchOptions
from tbps_infer.serve.ranking import Found, best_of, lowest_of, stacks

__all__ = ["Searcher"]

_logger = logging.getLogger(__name__)

_FIRST_SENTENCE = "a person"


class Searcher:
    """One model in memory over its galleries; searches from any thread, run in one.

    Args:
        encoder: Opened; closed by `close`, in the thread that used it.
        galleries: The folders and URIs by name, or a single one, whose name is its own.
        batch: How queries are run together.
        metrics: Where they are counted.
        options: How to search.
        attention: The model's attention graphs, where its bundle has them; closed with it.

    Raises:
        GalleryError: A gallery cannot be read.
        ModelMismatchError: It was embedded by another model.

    Attributes:
        galleries: As they grow, by name.
    """

    def __init__(
        self,
        encoder: Encoder,
        galleries: Path | str | Mapping[str, Path | str],
        batch: BatchOptions,
        metrics: Metrics,
        *,
        options: SearchOptions | None = None,
        attention: AttentionGraphs | None = None,
    ) -> None:
        named = galleries if isinstance(galleries, Mapping) else name_galleries([galleries])
        self.galleries = {name: LiveGallery(place) for name, place in named.items()}
        for gallery in self.galleries.values():
            with gallery.snapshot() as snapshot:
                snapshot.gallery.require_model(encoder.facts)
        self.search_options = options or SearchOptions()
        self.attention = attention
        self._encoder = encoder
        self._metrics = metrics
        self._answer_seconds = batch.answer_seconds
        self._batcher: Batcher[SearchJob, SearchAnswer] = Batcher(self._run, batch, metrics, encoder.close)
        self._warm: Future[SearchAnswer] | None = None
        self._is_warm = False
        metrics.watch(lambda: self._batcher.depth, lambda: sum(each.count for each in self.galleries.values()))

    @property
    def gallery(self) -> LiveGallery:
        """The first of the galleries."""
        return next(iter(self.galleries.values()))

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

    def unknown_words(self, sentence: str) -> tuple[str, ...]:
        """The words of a sentence that the model does not know."""
        return self._encoder.unknown_words(sentence)

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
        for gallery in self.galleries.values():
            gallery.close()
        if self.attention is not None:
            self.attention.close()

    def _run(self, jobs: Sequence[SearchJob]) -> list[SearchAnswer]:
        if not self._is_warm:  # here, in the thread that owns the model
            self._encoder.warm()
            self._is_warm = True
        started = time.perf_counter()
        with self._snapshots() as snapshots:
            queries = self._encode(snapshots, jobs)
            encoded = time.perf_counter()
            found = self._search(snapshots, jobs, queries)
        ended = time.perf_counter()
        self._metrics.stage_seconds.labels("encode").observe(encoded - started)
        self._metrics.stage_seconds.labels("search").observe(ended - encoded)
        encode_ms, search_ms = 1000 * (encoded - started), 1000 * (ended - encoded)
        return [replace(answer, encode_ms=encode_ms, search_ms=search_ms) for answer in found]

    @contextmanager
    def _snapshots(self) -> Iterator[dict[str, Snapshot]]:
        with ExitStack() as opened:
            yield {name: opened.enter_context(each.snapshot()) for name, each in self.galleries.items()}

    def _encode(self, snapshots: Mapping[str, Snapshot], jobs: Sequence[SearchJob]) -> list[NDArray[np.float32]]:
        """float32 ``[m, dim]`` per job: its query, or one per sentence where these are scored apart."""
        galleries = {name: snapshot.gallery for name, snapshot in snapshots.items()}
        return queries_of(self._encoder, galleries, jobs)

    def _search(
        self, snapshots: Mapping[str, Snapshot], jobs: Sequence[SearchJob], queries: Sequence[NDArray[np.float32]]
    ) -> list[SearchAnswer]:
        """Search each gallery once for all jobs with the same records and options."""
        alike: dict[object, list[int]] = {}
        for number, job in enumerate(jobs):
            key: object = number  # what is ranked by the lowest of several scores is searched alone
            if job.combine != "all":
                records = {name: each.tobytes() for name, each in (job.records or {}).items()}
                key = (tuple(self._names(job)), tuple(records.items()), job.options)
            alike.setdefault(key, []).append(number)
        answers: dict[int, SearchAnswer] = {}
        for numbers in alike.values():
            some = [jobs[number] for number in numbers]
            found = self._search_alike(snapshots, some, [queries[number] for number in numbers])
            answers.update(zip(numbers, found, strict=True))
        return [answers[number] for number in range(len(jobs))]

    def _search_alike(
        self, snapshots: Mapping[str, Snapshot], jobs: Sequence[SearchJob], queries: Sequence[NDArray[np.float32]]
    ) -> list[SearchAnswer]:
        """Answer jobs that have the same galleries, records and options."""
        first, most = jobs[0], max(job.depth for job in jobs)
        lists: list[list[list[Found]]] = [[] for _ in jobs]
        searched, method = 0, ""
        for name in self._names(first):
            gallery = snapshots[name].gallery
            selection = None if first.records is None else gallery.selection(first.records[name])
            if first.combine == "all":
                selection = selection or gallery.selected(Filter())
                hits = lowest_of(gallery, selection, queries[0], most, first.options)
                lists[0].append([(name, hit) for hit in hits])
                searched, method = searched + len(selection.records), "scan"
                continue
            result = gallery.search_with_report(np.concatenate(queries), most, selection, first.options)
            searched, method = searched + result.report.searched, result.report.method
            every = iter(result.hits)
            for mine, asked in zip(lists, queries, strict=True):
                mine += [[(name, hit) for hit in next(every)] for _ in asked]
        galleries = {name: snapshot.gallery for name, snapshot in snapshots.items()}
        return [
            replace(
                self._answer(galleries, job, best_of(mine, job.depth, per_id=job.options.per_id), asked),
                searched=searched,
                method=method,
            )
            for job, mine, asked in zip(jobs, lists, queries, strict=True)
        ]

    def _answer(
        self,
        galleries: Mapping[str, StoredGallery],
        job: SearchJob,
        found: Sequence[Found],
        queries: NDArray[np.float32],
    ) -> SearchAnswer:
        examples = {*job.like, *(part.place for part in job.parts)}
        left_out = set() if job.keep_like else {(place.gallery, place.record) for place in examples}
        kept = [each for each in found if (each[0], each[1].record) not in left_out][: job.skip + job.k]
        on: list[int | None] = [None] * len(kept)
        if job.alike is not None:
            on = stacks({name: galleries[name] for name in self._names(job)}, kept, job.alike)
        hits: list[Hit] = [hit for _, hit in kept[job.skip :]]
        layout = self.facts.layout
        most = {
            each.name: float(np.linalg.norm(queries[:, layout.slices[each.name]], axis=1).max() * each.weight**0.5)
            for each in layout.segments
        }
        return SearchAnswer(
            tuple(hits), tuple(name for name, _ in kept[job.skip :]), tuple(on[job.skip :]), most, 0, ""
        )

    def _names(self, job: SearchJob) -> tuple[str, ...]:
        return job.galleries or (next(iter(self.galleries)),)


def _log_warmth(started: float) -> Callable[[Future[SearchAnswer]], None]:
    def log(answer: Future[SearchAnswer]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if error is not None:
            _logger.error("the server does not become ready: %s", error)
        else:
            _logger.info("ready after %.1f s", time.perf_counter() - started)

    return log
