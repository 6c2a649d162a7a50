"""The JSON API."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import IO, Annotated, Any, Literal, ParamSpec, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from tbps_infer.errors import ImageError
from tbps_infer.explain.attention import AttentionGraphs
from tbps_infer.gallery import Filter, Record, why_nothing
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.queries import RocchioWeights, plain_sentence
from tbps_infer.serve.downloads import ZipContents, hits_csv, hits_zip
from tbps_infer.serve.failures import ANSWERS, BODY_ANSWERS, RefusedError, answers
from tbps_infer.serve.filtering import matching
from tbps_infer.serve.jobs import PartExample, Place, SearchAnswer, SearchJob
from tbps_infer.serve.models import (
    LARGEST_RECORD,
    AttentionRequest,
    ColumnsReply,
    ExportRequest,
    GalleryName,
    GalleryReply,
    HitReply,
    RecordReply,
    Reference,
    SearchReply,
    SearchRequest,
    SegmentReply,
)
from tbps_infer.serve.pictures import PictureKind, decode_example
from tbps_infer.serve.plain_text import plain_metadata, plain_text
from tbps_infer.serve.searcher import Searcher
from tbps_infer.serve.service import Service, service_of

__all__ = ["router"]

_CHUNK = 1 << 16
_MISSING = "X-Missing-Records"
_PICTURE_CACHE = "private, max-age=300, must-revalidate"

_PICTURE_ANSWERS: dict[int | str, dict[str, Any]] = {
    304: {"description": "The picture is the one of the ETag."},
    **answers(404, content="image/jpeg"),
}

P = ParamSpec("P")
T = TypeVar("T")

RecordPath = Annotated[int, Path(ge=0, le=LARGEST_RECORD)]
InGalleryQuery = Annotated[GalleryName | None, Query(description="The gallery; the first where left out.")]

router = APIRouter(responses=ANSWERS)


@router.post("/api/v1/search", response_model=SearchReply, responses=BODY_ANSWERS | answers(404))
async def search(asked: SearchRequest, request: Request) -> Response:
    """Find the people that a query describes."""
    service = service_of(request)
    where = asked.filter.filter()
    searcher, job = await _job(service, asked)
    job = replace(job, records=await matching(service, job.galleries, where))
    sentences = (*job.texts, *job.exclude)
    warnings = await run_in_threadpool(searcher.text_warnings, sentences)
    if warnings and asked.strict:
        raise RefusedError(422, " ".join(warnings), "Describe the person in other words, or without strict.")
    unknown = await run_in_threadpool(_unknown_words, searcher, sentences) if warnings else []
    answer = await _search(service, searcher, job)
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
        columns=await run_in_threadpool(_columns, service, names),
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
    return Response(await _in_pool(service, _attention_png, graphs, found, text), media_type="image/png")


@router.post(
    "/api/v1/export",
    response_class=Response,
    responses=BODY_ANSWERS | answers(404, content="text/csv application/zip"),
)
async def export(asked: ExportRequest, request: Request) -> Response:
    """The chosen hits of a search, as CSV or as a zip with their pictures and a sheet to print.

    Records that are not there any more are left out; the header X-Missing-Records names them.
    """
    service = service_of(request)
    first = (asked.search.gallery or list(service.galleries))[0]
    chosen = list(dict.fromkeys(service.place(reference, first) for reference in asked.records))
    if len(chosen) > service.options.limits.hits:
        raise RefusedError(422, f"{len(chosen)} records are chosen, and the limit is {service.options.limits.hits}.")
    searcher, job = await _job(service, asked.search)
    _, names = service.together([*job.galleries, *(place.gallery for place in chosen)])
    hashes = await run_in_threadpool(_hashes, service, chosen)
    only = {name: np.sort(np.array([at.record for at in chosen if at.gallery == name], np.int64)) for name in names}
    wanted = replace(job, galleries=names, records=only, k=len(chosen), skip=0, keep_like=True)
    options = replace(searcher.search_options, crops=True)
    answer = await _search(service, searcher, replace(wanted, options=options, alike=None))
    # A record may go at any moment, also between the two looks: what both saw is given, what is left out is named.
    places = [Place(name, hit.record) for name, hit in zip(answer.galleries, answer.hits, strict=True)]
    kept = [(place, hit) for place, hit in zip(places, answer.hits, strict=True) if place in hashes]
    missing = sorted(set(chosen) - {place for place, _ in kept})
    if not kept:
        raise RefusedError(404, f"There is no record {missing[0].record}.", "It may have been removed; search again.")
    several = len(names) > 1
    contents = ZipContents(
        hits=[hit for _, hit in kept],
        hashes=[hashes[place] for place, _ in kept],
        galleries=[plain_text(place.gallery) for place, _ in kept] if several else [],
        missing=[f"{place.gallery}/{place.record}" if several else str(place.record) for place in missing],
        label=_label(asked.search),
    )
    layout, columns = searcher.facts.layout, await run_in_threadpool(_columns, service, names)
    headers = {_MISSING: ", ".join(quote(record, safe="/") for record in contents.missing)} if missing else {}
    if asked.format == "csv":
        table = await run_in_threadpool(hits_csv, contents.hits, layout, columns, contents.first_columns)
        return Response(table, media_type="text/csv", headers=headers | _download("hits.csv"))
    archive = await run_in_threadpool(hits_zip, contents, layout, columns, service.options.limits.export_bytes)
    return StreamingResponse(_pieces(archive), media_type="application/zip", headers=headers | _download("hits.zip"))


async def _job(service: Service, asked: SearchRequest) -> tuple[Searcher, SearchJob]:
    """Check a query and decode its pictures, outside the model's thread; and what answers it."""
    asked.check(service.options.limits)
    searcher, names = service.together(asked.gallery)

    def places(references: Sequence[Reference]) -> tuple[Place, ...]:
        found = tuple(service.place(reference, names[0]) for reference in references)
        service.together([*names, *(place.gallery for place in found)])
        return found

    facts, pixels = searcher.facts.preprocessing, service.options.limits.picture_pixels
    crops = [await _in_pool(service, _example, text, facts, pixels) for text in asked.pictures]
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


async def _search(service: Service, searcher: Searcher, job: SearchJob) -> SearchAnswer:
    """Wait for the model's thread; a client that goes away takes its query out of the queue."""
    future = asyncio.wrap_future(searcher.search(job))
    try:
        return await asyncio.wait_for(future, service.options.batch.answer_seconds)
    except asyncio.TimeoutError:
        raise RefusedError(503, "The query waited too long.", "Ask again later.", retry_after_s=5) from None


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


def _columns(service: Service, names: Sequence[str]) -> list[str]:
    """The metadata columns of some galleries, each once."""
    found: dict[str, None] = {}
    for name in names:
        with service.gallery(name).snapshot() as snapshot:
            found |= dict.fromkeys(snapshot.gallery.columns)
    return list(found)


def _hashes(service: Service, places: Sequence[Place]) -> dict[Place, str]:
    """The sha256 of some records' files; of those that are there."""
    found: dict[Place, str] = {}
    for name in dict.fromkeys(place.gallery for place in places):
        numbers = np.array([place.record for place in places if place.gallery == name], dtype=np.int64)
        with service.gallery(name).snapshot() as snapshot:
            details = snapshot.gallery.details(numbers)
        found |= {Place(name, number): record.stamp.sha256 for number, record in details.items()}
    return found


def _why_nothing(service: Service, where: Filter, job: SearchJob, passing: int) -> str:
    with service.gallery(job.galleries[0]).snapshot() as snapshot:
        return why_nothing(snapshot.gallery, where, job.options.min_score, passing=passing)


async def _picture(request: Request, gallery: str | None, number: int, kind: PictureKind) -> Response:
    service = service_of(request)
    record = await _record(service, gallery, number)
    etag = await _in_pool(service, service.pictures.etag, record, kind)
    headers = {"ETag": etag, "Cache-Control": _PICTURE_CACHE}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await _in_pool(service, service.pictures.make, record, kind, etag)
    return Response(data, media_type="image/jpeg", headers=headers)


async def _record(service: Service, gallery: str | None, number: int) -> Record:
    live = service.gallery(gallery)

    def find() -> Record | None:
        with live.snapshot() as snapshot:
            return snapshot.record(number)

    record = await _in_pool(service, find)
    if record is None:
        raise RefusedError(404, f"There is no record {number}.", "It may have been removed; search again.")
    return record


async def _in_pool(service: Service, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    call = partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(service.pictures.pool, call)


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


def _label(asked: SearchRequest) -> str:
    """A query in words."""
    parts = [" / ".join(asked.texts)] if asked.texts else []
    parts += [f"like record {each if isinstance(each, int) else each.record}" for each in asked.like]
    parts += [f"like {', '.join(each.segments)} of a record" for each in asked.parts]
    parts += ["like an example picture"] * bool(asked.pictures)
    parts += [f"not {text}" for text in asked.exclude]
    return " · ".join(parts)


def _example(text: str, facts: Preprocessing, most_pixels: int) -> NDArray[np.uint8]:
    """An example picture, which came in base64, as a crop uint8 ``[1, height, width, 3]``."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(422, "A picture is not valid base64.", "Send the file's bytes in base64.") from error
    return decode_example(content, facts, most_pixels)


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_CHUNK):
            yield piece
