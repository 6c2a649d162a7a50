"""The JSON API."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import IO, Annotated, Any, Literal, ParamSpec, TypeVar

import numpy as np
from fastapi import APIRouter, Path, Request
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from tbps_infer.errors import ImageError
from tbps_infer.explain.attention import AttentionGraphs
from tbps_infer.gallery import Filter, Record, why_nothing
from tbps_infer.gallery.columns import Value
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.queries import plain_sentence
from tbps_infer.serve.downloads import ZipContents, hits_csv, hits_zip
from tbps_infer.serve.failures import ANSWERS, BODY_ANSWERS, RefusedError, answers
from tbps_infer.serve.models import (
    LARGEST_RECORD,
    AttentionRequest,
    ColumnsReply,
    ExportRequest,
    HitReply,
    RecordReply,
    SearchReply,
    SearchRequest,
    SegmentReply,
)
from tbps_infer.serve.pictures import decode_example
from tbps_infer.serve.searcher import SearchAnswer, SearchJob
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

router = APIRouter(responses=ANSWERS)


@router.post("/api/v1/search", response_model=SearchReply, responses=BODY_ANSWERS | answers(404))
async def search(asked: SearchRequest, request: Request) -> Response:
    """Find the people that a query describes."""
    service = service_of(request)
    where = asked.filter.filter()
    job = replace(await _job(service, asked), records=await _matching(service, where))
    warnings = await run_in_threadpool(service.searcher.text_warnings, (*job.texts, *job.exclude))
    if warnings and asked.strict:
        raise RefusedError(422, " ".join(warnings), "Describe the person in other words, or without strict.")
    answer = await _search(service, job)
    if not answer.hits:
        warnings = (*warnings, await run_in_threadpool(_why_nothing, service, where, job, answer.searched))
    hits = [
        HitReply.model_construct(
            record=hit.record,
            rank=rank,
            score=hit.score,
            split=dict(hit.split),
            name=_text(hit.path.name),
            metadata=_plain_metadata(hit.metadata),
        )
        for rank, hit in enumerate(answer.hits, start=1)
    ]
    # Built here of values that have these types, so nothing is validated: that took longer than the search.
    reply = SearchReply.model_construct(
        hits=hits,
        warnings=list(map(_text, warnings)),
        searched=answer.searched,
        total=service.searcher.gallery.count,
        method=answer.method,
        encode_ms=round(answer.encode_ms, 3),
        search_ms=round(answer.search_ms, 3),
    )
    return Response(reply.model_dump_json(), media_type="application/json")


@router.get("/api/v1/columns")
async def columns(request: Request) -> ColumnsReply:
    """What the gallery can be filtered by, and how its scores divide."""
    service = service_of(request)
    gallery = service.searcher.gallery
    facets = await run_in_threadpool(gallery.facets)
    limits = service.options.limits
    names = await run_in_threadpool(_columns, service)
    facts = service.searcher.facts
    return ColumnsReply(
        columns=names,
        cameras={_text(name): count for name, count in facets.cameras.items()},
        first_time=facets.first_time,
        last_time=facets.last_time,
        total=gallery.count,
        family=facts.family,
        segments=[SegmentReply(name=s.name, weight=s.weight) for s in facts.layout.segments],
        attention=service.searcher.attention is not None,
        removal=service.access.needs_token,
        limits={
            "hits": limits.hits,
            "texts": limits.texts,
            "pictures": limits.pictures,
            "text_characters": limits.text_characters,
            "body_bytes": limits.body_bytes,
        },
    )


@router.get("/api/v1/records/{record}", responses=answers(404))
async def record_facts(record: RecordPath, request: Request) -> RecordReply:
    """What is known about one record."""
    found = await _record(service_of(request), record)
    return await run_in_threadpool(_reply, found)


@router.get("/api/v1/records/{record}/thumbnail", response_class=Response, responses=_PICTURE_ANSWERS)
async def thumbnail(record: RecordPath, request: Request) -> Response:
    """A record's picture, 192 pixels wide at most, as JPEG."""
    return await _picture(request, record, "thumbnail")


@router.get("/api/v1/records/{record}/picture", response_class=Response, responses=_PICTURE_ANSWERS)
async def picture(record: RecordPath, request: Request) -> Response:
    """A record's picture as JPEG, 1600 pixels at most."""
    return await _picture(request, record, "picture")


@router.post(
    "/api/v1/records/{record}/attention",
    response_class=Response,
    responses=BODY_ANSWERS | answers(404, content="image/png"),
)
async def attention(record: RecordPath, asked: AttentionRequest, request: Request) -> Response:
    """What the model looked at in a record's picture and in a sentence, as a PNG."""
    service = service_of(request)
    graphs = service.searcher.attention
    if graphs is None:
        raise RefusedError(404, "The model shows no attention.", "Export its bundle again with --with-attention.")
    SearchRequest(texts=[asked.text]).check(service.options.limits)
    found = await _record(service, record)
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
    chosen = list(dict.fromkeys(asked.records))
    if len(chosen) > service.options.limits.hits:
        raise RefusedError(422, f"{len(chosen)} records are chosen, and the limit is {service.options.limits.hits}.")
    job = await _job(service, asked.search)
    hashes = await run_in_threadpool(_hashes, service, chosen)
    only, options = np.sort(np.array(chosen, dtype=np.int64)), replace(service.searcher.search_options, crops=True)
    answer = await _search(service, replace(job, k=len(chosen), records=only, options=options, keep_like=True))
    # A record may go at any moment, also between the two looks: what both saw is given, what is left out is named.
    hits = [hit for hit in answer.hits if hit.record in hashes]
    missing = sorted(set(chosen) - {hit.record for hit in hits})
    if not hits:
        raise RefusedError(404, f"There is no record {missing[0]}.", "It may have been removed; search again.")
    layout, names = service.searcher.facts.layout, await run_in_threadpool(_columns, service)
    headers = {_MISSING: ", ".join(map(str, missing))} if missing else {}
    if asked.format == "csv":
        table = await run_in_threadpool(hits_csv, hits, layout, names)
        return Response(table, media_type="text/csv", headers=headers | _download("hits.csv"))
    contents = ZipContents(hits, hashes, missing, _label(asked.search))
    archive = await run_in_threadpool(hits_zip, contents, layout, names, service.options.limits.export_bytes)
    return StreamingResponse(_pieces(archive), media_type="application/zip", headers=headers | _download("hits.zip"))


async def _job(service: Service, asked: SearchRequest) -> SearchJob:
    """Check a query and decode its pictures, outside the model's thread."""
    asked.check(service.options.limits)
    facts, pixels = service.searcher.facts.preprocessing, service.options.limits.picture_pixels
    crops = [await _in_pool(service, _example, text, facts, pixels) for text in asked.pictures]
    return SearchJob(
        texts=tuple(map(plain_sentence, asked.texts)),
        crops=np.concatenate(crops) if crops else None,
        like=tuple(asked.like),
        exclude=tuple(map(plain_sentence, asked.exclude)),
        image_weight=asked.image_weight,
        exclude_weight=asked.exclude_weight,
        k=asked.k,
        options=replace(service.searcher.search_options, per_id=asked.per_id, min_score=asked.min_score),
    )


async def _matching(service: Service, where: Filter) -> NDArray[np.int64] | None:
    """The records that a filter lets pass, found once, outside the model's thread; None for all.

    Only an expression can be slow: the other conditions do not wait for one.
    """
    if not where:
        return None
    limits, slot = service.options.limits, service.expressions
    find = partial(service.searcher.gallery.matching, where, limits.where_seconds)
    if where.where is None:
        return await run_in_threadpool(find)
    try:
        await asyncio.wait_for(slot.acquire(), service.options.batch.answer_seconds)
    except asyncio.TimeoutError:
        message = "Other filters take long; the query waited too long."
        raise RefusedError(503, message, "Ask again later.", retry_after_s=5) from None
    try:
        return await run_in_threadpool(find)
    finally:
        slot.release()


async def _search(service: Service, job: SearchJob) -> SearchAnswer:
    """Wait for the model's thread; a client that goes away takes its query out of the queue."""
    future = asyncio.wrap_future(service.searcher.search(job))
    try:
        return await asyncio.wait_for(future, service.options.batch.answer_seconds)
    except asyncio.TimeoutError:
        raise RefusedError(503, "The query waited too long.", "Ask again later.", retry_after_s=5) from None


def _columns(service: Service) -> list[str]:
    with service.searcher.gallery.snapshot() as snapshot:
        return list(snapshot.gallery.columns)


def _hashes(service: Service, numbers: Sequence[int]) -> dict[int, str]:
    """The sha256 of some records' files; of those that are there."""
    with service.searcher.gallery.snapshot() as snapshot:
        details = snapshot.gallery.details(np.array(numbers, dtype=np.int64))
    return {number: record.stamp.sha256 for number, record in details.items()}


def _why_nothing(service: Service, where: Filter, job: SearchJob, passing: int) -> str:
    with service.searcher.gallery.snapshot() as snapshot:
        return why_nothing(snapshot.gallery, where, job.options.min_score, passing=passing)


async def _picture(request: Request, number: int, kind: Literal["thumbnail", "picture"]) -> Response:
    service = service_of(request)
    record = await _record(service, number)
    etag = await _in_pool(service, service.pictures.etag, record, kind)
    headers = {"ETag": etag, "Cache-Control": _PICTURE_CACHE}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await _in_pool(service, service.pictures.make, record, kind, etag)
    return Response(data, media_type="image/jpeg", headers=headers)


async def _record(service: Service, number: int) -> Record:
    def find() -> Record | None:
        with service.searcher.gallery.snapshot() as snapshot:
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
        name=_text(record.path.name),
        path=_text(str(record.path)),
        metadata=_plain_metadata(record.metadata),
        size=record.stamp.size,
        sha256=record.stamp.sha256,
        state=state,
    )


def _plain_metadata(metadata: Mapping[str, Value]) -> dict[str, Value]:
    return {_text(name): _text(value) if isinstance(value, str) else value for name, value in metadata.items()}


def _text(value: str) -> str:
    """Text that is valid Unicode: names of files need not be."""
    return value.encode("utf-8", "replace").decode()


def _label(asked: SearchRequest) -> str:
    """A query in words."""
    parts = [" / ".join(asked.texts)] if asked.texts else []
    parts += [f"like record {number}" for number in asked.like]
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
