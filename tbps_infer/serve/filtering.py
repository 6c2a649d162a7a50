"""Which records a request's filter lets pass: found outside the model's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from tbps_infer.gallery import Filter
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.service import Service

__all__ = ["Matching", "matching"]

Matching = dict[str, NDArray[np.int64]] | None
"""Numbers int64 ``[n]`` of records, ascending, by gallery; None is all."""


async def matching(service: Service, names: Sequence[str], where: Filter) -> Matching:
    """The records of some galleries that a filter lets pass.

    Only an expression can be slow: the other conditions do not wait for one.

    Raises:
        RefusedError: 503, when other filters take too long.
        FilterError: It is not valid, or takes too long itself.
    """
    if not where:
        return None
    limits, slot = service.options.limits, service.expressions
    find = [partial(service.gallery(name).matching, where, limits.where_seconds) for name in names]
    if where.where is None:
        return {name: await run_in_threadpool(each) for name, each in zip(names, find, strict=True)}
    try:
        await asyncio.wait_for(slot.acquire(), service.options.batch.answer_seconds)
    except asyncio.TimeoutError:
        message = "Other filters take long; the query waited too long."
        raise RefusedError(503, message, "Ask again later.", retry_after_s=5) from None
    try:
        return {name: await run_in_threadpool(each) for name, each in zip(names, find, strict=True)}
    finally:
        slot.release()
