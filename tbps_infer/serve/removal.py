"""Removing records through the API, for holders of the token alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, FailFast, Field
from starlette.concurrency import run_in_threadpool

from tbps_infer.errors import GalleryBusyError
from tbps_infer.gallery import Removal, remove_records
from tbps_infer.serve.failures import ANSWERS, BODY_ANSWERS, RefusedError, answers
from tbps_infer.serve.models import Count, Reference, Strict
from tbps_infer.serve.service import service_of

__all__ = ["removal_router"]

_MOST = 1000

removal_router = APIRouter(responses=ANSWERS)


class RemovalRequest(Strict):
    """Records to remove for good; `confirm` repeats how many, so that a slip removes nothing."""

    records: Annotated[list[Reference], Field(min_length=1, max_length=_MOST), FailFast()]
    confirm: Annotated[Count, Field(description="How many different records are to go.")]


class RemovalReply(BaseModel):
    """How many records were removed; the others were not there any more."""

    removed: int


@removal_router.post("/api/v1/remove", responses=BODY_ANSWERS | answers(404, 409))
async def remove(asked: RemovalRequest, request: Request) -> RemovalReply:
    """Remove records from their galleries; 403 without a token. Embedding the same pictures leaves them out."""
    service = service_of(request)
    if not service.access.needs_token:
        raise RefusedError(403, "Records can be removed with a token only.", "Start the server with a token.")
    first = next(iter(service.galleries))
    places = tuple(dict.fromkeys(service.place(reference, first) for reference in asked.records))
    if asked.confirm != len(places):
        raise RefusedError(422, f"confirm is {asked.confirm}, and {len(places)} records are named.")
    gone = 0
    for name in dict.fromkeys(place.gallery for place in places):
        records = tuple(place.record for place in places if place.gallery == name)
        gallery = service.gallery(name)
        try:
            gone += await run_in_threadpool(remove_records, gallery.path, Removal(records=records))
        except GalleryBusyError as error:
            so_far = f" {gone} records of others were removed." if gone else ""
            raise RefusedError(
                409, f"Another process is writing to the gallery.{so_far}", "Try again when it is done."
            ) from error
        await run_in_threadpool(gallery.refresh)
    return RemovalReply(removed=gone)
