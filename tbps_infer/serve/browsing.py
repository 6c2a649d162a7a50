"""Records without a query: the newest first, and how many there are over time."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from tbps_infer.gallery import Filter, Record
from tbps_infer.serve.failures import ANSWERS, BODY_ANSWERS, answers
from tbps_infer.serve.filtering import Matching, matching
from tbps_infer.serve.live_gallery import Snapshot
from tbps_infer.serve.models import BrowsedReply, BrowseReply, BrowseRequest, TimelineReply
from tbps_infer.serve.plain_text import plain_metadata, plain_text
from tbps_infer.serve.service import Service, service_of

__all__ = ["browsing_router", "timeline"]

_MOST_STEPS = 120
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
# Each divides a day, or is made of whole ones, so that no step lies across midnight.
_STEPS_S = (
    *(_MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR),
    *(_DAY, 2 * _DAY, 7 * _DAY, 28 * _DAY, 91 * _DAY, 364 * _DAY, 3640 * _DAY),
)

browsing_router = APIRouter(responses=ANSWERS)


@browsing_router.post("/api/v1/browse", responses=BODY_ANSWERS | answers(404))
async def browse(asked: BrowseRequest, request: Request) -> BrowseReply:
    """The newest records of some galleries, and how many there are over time."""
    service = service_of(request)
    asked.check(service.options.limits)
    _, names = service.together(asked.gallery)
    found = await matching(service, names, asked.filter.filter())
    return await run_in_threadpool(_newest, service, names, found, asked)


def timeline(clocks_s: NDArray[np.float64]) -> TimelineReply | None:
    """Counts of float64 ``[n]`` times, NaN for none, in at most so many steps that a page can show them."""
    known = clocks_s[np.isfinite(clocks_s)]
    if not len(known):
        return None
    first, last = float(known.min()), float(known.max())
    step = next((step for step in _STEPS_S if last // step - first // step < _MOST_STEPS), None)
    if step is None:  # centuries: as many whole days as it takes
        step = _DAY * int(np.ceil((last - first) / _DAY / (_MOST_STEPS - 1)))
    start = first // step
    counts = np.bincount((known // step - start).astype(np.int64))
    return TimelineReply(start_s=start * step, step_s=step, counts=counts.tolist())


def _newest(service: Service, names: tuple[str, ...], found: Matching, asked: BrowseRequest) -> BrowseReply:
    with ExitStack() as opened:
        snapshots = [opened.enter_context(service.gallery(name).snapshot()) for name in names]
        of_each = [
            _of(one, None if found is None else found[name]) for name, one in zip(names, snapshots, strict=True)
        ]
        numbers, seconds = (np.concatenate([each[which] for each in of_each]) for which in (0, 1))
        owners = np.repeat(np.arange(len(names)), [len(each[0]) for each in of_each])
        # The last key counts most; without a time -inf, which is the oldest.
        order = np.lexsort((numbers, np.nan_to_num(seconds[:, 0], nan=-np.inf)))[::-1]
        page = order[asked.skip : asked.skip + asked.k]
        replies: list[BrowsedReply] = []
        for place in page.tolist():
            snapshot: Snapshot = snapshots[owners[place]]
            record = snapshot.record(int(numbers[place]))
            if record is not None:
                replies.append(_reply(names[owners[place]], record))
        total = sum(snapshot.gallery.count for snapshot in snapshots)
    return BrowseReply(records=replies, passing=len(numbers), total=total, timeline=timeline(seconds[:, 1]))


def _of(snapshot: Snapshot, only: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers int64 ``[n]`` of some records of a gallery, and their times float64 ``[n, 2]``."""
    everything, times = snapshot.gallery.selected(Filter()).records, snapshot.times()
    if only is None:
        return everything, times
    kept = np.isin(everything, only, assume_unique=True)
    return everything[kept], times[kept]


def _reply(gallery: str, record: Record) -> BrowsedReply:
    return BrowsedReply(
        record=record.record,
        gallery=gallery,
        name=plain_text(record.path.name),
        metadata=plain_metadata(record.metadata),
    )
