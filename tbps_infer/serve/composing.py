"""The queries of a batch of jobs: what they name is encoded together, and each job's is composed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tbps_infer.encoder import Encoder
from tbps_infer.errors import UsageError
from tbps_infer.gallery import StoredGallery
from tbps_infer.layout import VectorLayout
from tbps_infer.queries import compose, only_segments, refine, weigh_segments
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.jobs import Place, SearchJob

__all__ = ["queries_of"]


def queries_of(
    encoder: Encoder, galleries: Mapping[str, StoredGallery], jobs: Sequence[SearchJob]
) -> list[NDArray[np.float32]]:
    """float32 ``[m, dim]`` per job: its query, or one per sentence where these are scored apart.

    Args:
        encoder: The model.
        galleries: Where the records that jobs name are, by name.
        jobs: What is asked.

    Raises:
        RefusedError: 404, where a record that a job names is not there.
        UsageError: A segment or a weight is not there, or out of range.
    """
    layout = encoder.facts.layout
    nothing = np.empty((0, layout.dim), dtype=np.float32)
    sentences = list(dict.fromkeys(text for job in jobs for text in (*job.texts, *job.exclude)))
    row = {text: number for number, text in enumerate(sentences)}
    texts = encoder.encode_texts(sentences) if sentences else nothing
    crops = [job.crops for job in jobs if job.crops is not None]
    pictures = encoder.encode_crops(np.concatenate(crops)) if crops else nothing
    queries, used = [], 0
    for job in jobs:
        count = 0 if job.crops is None else len(job.crops)
        examples = np.concatenate([pictures[used : used + count], _examples(layout, galleries, job)])
        used += count
        mine = texts[[row[text] for text in job.texts]]
        exclude = texts[[row[text] for text in job.exclude]]
        apart = [mine] if job.combine == "mean" or len(mine) < 2 else [each[None] for each in mine]
        weights = {"image_weight": job.image_weight, "exclude_weight": job.exclude_weight}
        relevant, not_relevant = (_stored(layout, galleries, each) for each in (job.relevant, job.not_relevant))
        composed = [compose(layout, each, examples, exclude, **weights) for each in apart]
        refined = [refine(each, relevant, not_relevant, job.rocchio) for each in composed]
        queries.append(np.stack([weigh_segments(layout, each, job.part_weights) for each in refined]))
    return queries


def _examples(layout: VectorLayout, galleries: Mapping[str, StoredGallery], job: SearchJob) -> NDArray[np.float32]:
    """float32 ``[n, dim]``: stored vectors that are examples, and parts of such."""
    whole = _stored(layout, galleries, job.like)
    vectors = _stored(layout, galleries, [part.place for part in job.parts])
    parts = [only_segments(layout, vector, part.segments) for vector, part in zip(vectors, job.parts, strict=True)]
    return np.concatenate([whole, *(part[None] for part in parts)])


def _stored(
    layout: VectorLayout, galleries: Mapping[str, StoredGallery], places: Sequence[Place]
) -> NDArray[np.float32]:
    """float32 ``[n, dim]``: the stored vectors of some records."""
    vectors = np.empty((len(places), layout.dim), dtype=np.float32)
    for number, place in enumerate(places):
        try:
            vectors[number] = galleries[place.gallery].vectors_of(np.array([place.record], dtype=np.int64))[0]
        except UsageError as error:
            raise RefusedError(404, error.message, error.hint) from error
    return vectors
