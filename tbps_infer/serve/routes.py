"""The JSON API."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tbps_infer.errors import ImageError
from tbps_infer.explain.attention import AttentionGraphs
from tbps_infer.gallery import Filter, Record, why_nothing
from tbps_infer.queries import plain_sentence
from tbps_infer.serve.asking import answer_to, columns_of, in_pool, job_of
from tbps_infer.serve.failures import ANSWERS, BODY_ANSWERS, RefusedError, answers
from tbps_infer.serve.filtering import matching
from tbps_infer.serve.jobs import SearchAnswer, SearchJob
from tbps_infer.serve.models import (
    LARGEST_RECORD,
    AttentionRequest,
    ColumnsReply,
    GalleryName,
    GalleryReply,
    HitReply,
    RecordReply,
    SearchReply,
    SearchRequest,
    SegmentReply,
)
from tbps_infer.serve.pictures import PictureKind
from tbps_infer.serve.plain_text import plain_metadata, plain_text
from tbps_infer.serve.searcher import Searcher
from tbps_infer.serve.service import Service, service_of

__all__ = ["router"]

_PICTURE_CACHE = "private, max-age=300, must-revalidate"

_PICTURE_ANSWERS: dict[int | str, dict[str, Any]] = {
    304: {"description": "The picture is the one of the ETag."},
    **answers(404, content="image/jpeg"),
}

RecordPath = Annotated[int, Path(ge=0, le=LARGEST_RECORD)]
InGalleryQuery = Annotated[GalleryName | None, Query(description="The gallery; the first where left out.")]

router = APIRouter(responses=ANSWERS)


@router.post("/api/v1/search", response_model=SearchReply, responses=BODY_ANSWERS | answers(404))
async def search(asked: SearchRequest, request: Request) -> Response:
    """Find the people that a query describes."""
    service = service_of(request)
    where = asked.filter.filter()
    searcher, job = await job_of(service, asked)
    job = replace(job, records=await matching(service, job.galleries, where))
    sentences = (*job.texts, *job.exclude)
    warnings = await run_in_threadpool(searcher.text_warnings, sentences)
    if warnings and asked.strict:
        raise RefusedError(422, " ".join(warnings), "Describe the person in other words, or without strict.")
    unknown = await run_in_threadpool(_unknown_words, searcher, sentences) if warnings else []
    answer = await answer_to(service, searcher, job)
    if not answer.hits and not job.skip:
        warnings = (*warnings, await run_in_threadpool(_why_nothing, service, where, job, answer.searched))
    # Built here of values that have these types, so nothing is validated: that took longer than the search.
    reply = SearchReply.model_construct(
        hits=await run_in_threadpool(_hit_replies, service, job, answer),
        warnings=list(map(plain_text, warnings)),
        unknown=unknown,
        most=dict(answer.most),
        searched=answer.searched,
        total=sum(service.gallery(name).count for name in job.galleries),
        method=answer.method,
        encode_ms=round(answer.encode_ms, 3),
        search_ms=round(answer.search_ms, 3),
    )
    return Response(reply.model_dump_json(), media_type="application/json")


@router.get("/api/v1/columns", responses=answers(404))
async def columns(request: Request, gallery: InGalleryQuery = None) -> ColumnsReply:
    """What a gallery can be filtered by, how its scores divide, and which galleries there are."""
    service = service_of(request)
    live = service.gallery(gallery)
    facets = await run_in_threadpool(live.facets)
    limits = service.options.limits
    searcher, names = service.together([] if gallery is None else [gallery])
    facts = searcher.facts
    return ColumnsReply(
        columns=await run_in_threadpool(columns_of, service, names),
        cameras={plain_text(name): count for name, count in facets.cameras.items()},
        first_time=facets.first_time,
        last_time=facets.last_time,
        total=live.count,
        galleries=[
            GalleryReply(name=name, total=each.count, model=one.facts.fingerprint[:12])
            for one in service.searchers
            for name, each in one.galleries.items()
        ],
        family=facts.family,
        segments=[SegmentReply(name=s.name, weight=s.weight) for s in facts.layout.segments],
        attention=searcher.attention is not None,
        removal=service.access.needs_token,
        limits={
            "hits": limits.hits,
            "depth": limits.depth,
            "stacked": limits.stacked,
            "judged": limits.judged,
            "texts": limits.texts,
            "pictures": limits.pictures,
            "text_characters": limits.text_characters,
            "body_bytes": limits.body_bytes,
        },
    )


@router.get("/api/v1/records/{record}", responses=answers(404))
async def record_facts(record: RecordPath, request: Request, gallery: InGalleryQuery = None) -> RecordReply:
    """What is known about one record."""
    found = await _record(service_of(request), gallery, record)
    return await run_in_threadpool(_reply, found)


@router.get("/api/v1/records/{record}/thumbnail", response_class=Response, responses=_PICTURE_ANSWERS)
async def thumbnail(record: RecordPath, request: Request, gallery: InGalleryQuery = None) -> Response:
    """A record's picture, 192 pixels wide at most, as JPEG."""
    return await _picture(request, gallery, record, "thumbnail")


@router.get("/api/v1/records/{record}/picture", response_class=Response, responses=_PICTURE_ANSWERS)
async def picture(record: RecordPath, request: Request, gallery: InGalleryQuery = None) -> Response:
    """A record's picture as JPEG, 1600 pixels at most."""
    return await _picture(request, gallery, record, "picture")


@router.get("/api/v1/records/{record}/frame", response_class=Response, responses=_PICTURE_ANSWERS)
async def frame(record: RecordPath, request: Request, gallery: InGalleryQuery = None) -> Response:
    """The video's frame that a record was cropped from, with its box, as JPEG, 1600 pixels at most."""
    return await _picture(request, gallery, record, "frame")


@router.get("/api/v1/records/{record}/strip", response_class=Response, responses=_PICTURE_ANSWERS)
async def strip(record: RecordPath, request: Request, gallery: InGalleryQuery = None) -> Response:
    """Seven frames of the three seconds before and after a record, side by side, as JPEG."""
    return await _picture(request, gallery, record, "strip")


@router.post(
    "/api/v1/records/{record}/attention",
    response_class=Response,
    responses=BODY_ANSWERS | answers(404, content="image/png"),
)
async def attention(
    record: RecordPath, asked: AttentionRequest, request: Request, gallery: InGalleryQuery = None
) -> Response:
    """What the model looked at in a record's picture and in a sentence, as a PNG."""
    service = service_of(request)
    graphs = service.together([] if gallery is None else [gallery])[0].attention
    if graphs is None:
        raise RefusedError(404, "The model shows no attention.", "Export its bundle again with --with-attention.")
    SearchRequest(texts=[asked.text]).check(service.options.limits)
    found = await _record(service, gallery, record)
    text = plain_sentence(asked.text)
    return Response(await in_pool(service, _attention_png, graphs, found, text), media_type="image/png")


def _hit_replies(service: Service, job: SearchJob, answer: SearchAnswer) -> list[HitReply]:
    pictures = _pictures_of(service, answer) if job.options.per_id else {}
    return [
        HitReply.model_construct(
            record=hit.record,
            gallery=gallery,
            rank=rank,
            score=hit.score,
            split=dict(hit.split),
            name=plain_text(hit.path.name),
            metadata=plain_metadata(hit.metadata),
            stack=None if stack is None else stack + 1,
            pictures=pictures.get((gallery, str(hit.metadata.get("id")))),
        )
        for rank, (hit, gallery, stack) in enumerate(
            zip(answer.hits, answer.galleries, answer.stacks, strict=True), start=job.skip + 1
        )
    ]


def _pictures_of(service: Service, answer: SearchAnswer) -> dict[tuple[str, str], int]:
    """How many records each hit's identity has, by gallery and identity."""
    counts: dict[tuple[str, str], int] = {}
    for name in dict.fromkeys(answer.galleries):
        found = zip(answer.galleries, answer.hits, strict=True)
        ids = [str(hit.metadata["id"]) for gallery, hit in found if gallery == name and "id" in hit.metadata]
        with service.gallery(name).snapshot() as snapshot:
            counts |= {(name, each): count for each, count in snapshot.gallery.counts_of("id", ids).items()}
    return counts


def _unknown_words(searcher: Searcher, sentences: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(word for sentence in sentences for word in searcher.unknown_words(sentence)))


def _why_nothing(service: Service, where: Filter, job: SearchJob, passing: int) -> str:
    with service.gallery(job.galleries[0]).snapshot() as snapshot:
        return why_nothing(snapshot.gallery, where, job.options.min_score, passing=passing)


async def _picture(request: Request, gallery: str | None, number: int, kind: PictureKind) -> Response:
    service = service_of(request)
    record = await _record(service, gallery, number)
    etag = await in_pool(service, service.pictures.etag, record, kind)
    headers = {"ETag": etag, "Cache-Control": _PICTURE_CACHE}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await in_pool(service, service.pictures.make, record, kind, etag)
    return Response(data, media_type="image/jpeg", headers=headers)


async def _record(service: Service, gallery: str | None, number: int) -> Record:
    live = service.gallery(gallery)

    def find() -> Record | None:
        with live.snapshot() as snapshot:
            return snapshot.record(number)

    record = await in_pool(service, find)
    if record is None:
        raise RefusedError(404, f"There is no record {number}.", "It may have been removed; search again.")
    return record


def _attention_png(graphs: AttentionGraphs, record: Record, text: str) -> bytes:
    from tbps_infer.explain.figure import draw_attention

    try:
        figure = draw_attention(record.picture, graphs.attend(record.picture, text))
    except (ImageError, OSError):
        raise RefusedError(404, "The picture cannot be read any more.", "Embed the gallery again.") from None
    data = io.BytesIO()
    figure.save(data, "PNG")
    return data.getvalue()


def _reply(record: Record) -> RecordReply:
    try:
        stat = record.path.stat()
        same = (stat.st_size, stat.st_mtime_ns) == (record.stamp.size, record.stamp.mtime_ns)
        state: Literal["same", "changed", "missing"] = "same" if same else "changed"
    except OSError:
        state = "missing" if record.crop is None else "same"
    return RecordReply(
        record=record.record,
        name=plain_text(record.path.name),
        path=plain_text(str(record.path)),
        metadata=plain_metadata(record.metadata),
        size=record.stamp.size,
        sha256=record.stamp.sha256,
        state=state,
    )
