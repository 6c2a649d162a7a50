"""From a request to what the model's thread is asked, and the waiting for its answer."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tbps_infer.preprocessing import Preprocessing
from tbps_infer.queries import RocchioWeights, plain_sentence
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.jobs import PartExample, Place, SearchAnswer, SearchJob
from tbps_infer.serve.models import Reference, SearchRequest
from tbps_infer.serve.pictures import decode_example
from tbps_infer.serve.searcher import Searcher
from tbps_infer.serve.service import Service

__all__ = ["answer_to", "columns_of", "in_pool", "job_of"]

P = ParamSpec("P")
T = TypeVar("T")


async def job_of(service: Service, asked: SearchRequest) -> tuple[Searcher, SearchJob]:
    """Check a query and decode its pictures, outside the model's thread; and what answers it."""
    asked.check(service.options.limits)
    searcher, names = service.together(asked.gallery)

    def places(references: Sequence[Reference]) -> tuple[Place, ...]:
        found = tuple(service.place(reference, names[0]) for reference in references)
        service.together([*names, *(place.gallery for place in found)])
        return found

    facts, pixels = searcher.facts.preprocessing, service.options.limits.picture_pixels
    crops = [await in_pool(service, _example, text, facts, pixels) for text in asked.pictures]
    parts = zip(places([part.record for part in asked.parts]), asked.parts, strict=True)
    return searcher, SearchJob(
        texts=tuple(map(plain_sentence, asked.texts)),
        crops=np.concatenate(crops) if crops else None,
        like=places(asked.like),
        parts=tuple(PartExample(place, tuple(part.segments)) for place, part in parts),
        exclude=tuple(map(plain_sentence, asked.exclude)),
        image_weight=asked.image_weight,
        exclude_weight=asked.exclude_weight,
        combine=asked.combine,
        relevant=places(asked.relevant),
        not_relevant=places(asked.not_relevant),
        rocchio=RocchioWeights(**asked.rocchio.model_dump()),
        part_weights=asked.part_weights,
        k=asked.k,
        skip=asked.skip,
        galleries=names,
        options=replace(searcher.search_options, per_id=asked.per_id, min_score=asked.min_score),
        alike=asked.alike,
    )


async def answer_to(service: Service, searcher: Searcher, job: SearchJob) -> SearchAnswer:
    """Wait for the model's thread; a client that goes away takes its query out of the queue."""
    future = asyncio.wrap_future(searcher.search(job))
    try:
        return await asyncio.wait_for(future, service.options.batch.answer_seconds)
    except asyncio.TimeoutError:
        raise RefusedError(503, "The query waited too long.", "Ask again later.", retry_after_s=5) from None


def columns_of(service: Service, names: Sequence[str]) -> list[str]:
    """The metadata columns of some galleries, each once."""
    found: dict[str, None] = {}
    for name in names:
        with service.gallery(name).snapshot() as snapshot:
            found |= dict.fromkeys(snapshot.gallery.columns)
    return list(found)


async def in_pool(service: Service, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run something in the threads for pictures."""
    call = partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(service.pictures.pool, call)


def _example(text: str, facts: Preprocessing, most_pixels: int) -> NDArray[np.uint8]:
    """An example picture, which came in base64, as a crop uint8 ``[1, height, width, 3]``."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(422, "A picture is not valid base64.", "Send the file's bytes in base64.") from error
    return decode_example(content, facts, most_pixels)
