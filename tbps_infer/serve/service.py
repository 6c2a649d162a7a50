"""What the routes of one server share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import Request

from tbps_infer.serve.access import Access
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import ServeOptions
from tbps_infer.serve.pictures import Pictures
from tbps_infer.serve.searcher import Searcher

__all__ = ["Service", "service_of"]


@dataclass
class Service:
    """What the routes use; `expressions` bounds how many metadata expressions are evaluated at once."""

    searcher: Searcher
    pictures: Pictures
    options: ServeOptions
    access: Access
    metrics: Metrics
    expressions: asyncio.Semaphore


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service
