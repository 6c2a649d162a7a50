"""The chosen hits of a search as files, through the API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from tbps_infer.serve.asking import answer_to, columns_of, job_of
from tbps_infer.serve.downloads import ZipContents, hits_csv, hits_zip
from tbps_infer.serve.failures import ANSWERS, BODY_ANSWERS, RefusedError, answers
from tbps_infer.serve.jobs import Place
from tbps_infer.serve.models import ExportRequest, SearchRequest
from tbps_infer.serve.plain_text import plain_text
from tbps_infer.serve.service import Service, service_of

__all__ = ["exporting_router"]

_CHUNK = 1 << 16
_MISSING = "X-Missing-Records"

exporting_router = APIRouter(responses=ANSWERS)


@exporting_router.post(
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
    searcher, job = await job_of(service, asked.search)
    _, names = service.together([*job.galleries, *(place.gallery for place in chosen)])
    hashes = await run_in_threadpool(_hashes, service, chosen)
    only = {name: np.sort(np.array([at.record for at in chosen if at.gallery == name], np.int64)) for name in names}
    wanted = replace(job, galleries=names, records=only, k=len(chosen), skip=0, keep_like=True)
    options = replace(searcher.search_options, crops=True)
    answer = await answer_to(service, searcher, replace(wanted, options=options, alike=None))
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
    layout, columns = searcher.facts.layout, await run_in_threadpool(columns_of, service, names)
    headers = {_MISSING: ", ".join(quote(record, safe="/") for record in contents.missing)} if missing else {}
    if asked.format == "csv":
        table = await run_in_threadpool(hits_csv, contents.hits, layout, columns, contents.first_columns)
        return Response(table, media_type="text/csv", headers=headers | _download("hits.csv"))
    archive = await run_in_threadpool(hits_zip, contents, layout, columns, service.options.limits.export_bytes)
    return StreamingResponse(_pieces(archive), media_type="application/zip", headers=headers | _download("hits.zip"))


def _hashes(service: Service, places: Sequence[Place]) -> dict[Place, str]:
    """The sha256 of some records' files; of those that are there."""
    found: dict[Place, str] = {}
    for name in dict.fromkeys(place.gallery for place in places):
        numbers = np.array([place.record for place in places if place.gallery == name], dtype=np.int64)
        with service.gallery(name).snapshot() as snapshot:
            details = snapshot.gallery.details(numbers)
        found |= {Place(name, number): record.stamp.sha256 for number, record in details.items()}
    return found


def _label(asked: SearchRequest) -> str:
    """A query in words."""
    parts = [" / ".join(asked.texts)] if asked.texts else []
    parts += [f"like record {each if isinstance(each, int) else each.record}" for each in asked.like]
    parts += [f"like {', '.join(each.segments)} of a record" for each in asked.parts]
    parts += ["like an example picture"] * bool(asked.pictures)
    parts += [f"not {text}" for text in asked.exclude]
    return " · ".join(parts)


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_CHUNK):
            yield piece
