"""The ASGI application: routes behind the request guard, and what they share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from tbps_infer import __version__
from tbps_infer.errors import FilterError, GalleryError, TbpsError, UsageError
from tbps_infer.serve.access import Access
from tbps_infer.serve.browsing import browsing_router
from tbps_infer.serve.connections import Connections
from tbps_infer.serve.exporting import exporting_router
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.guard import RequestGuard, error_response
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import ServeOptions
from tbps_infer.serve.pages import STATIC, page_router
from tbps_infer.serve.pictures import Pictures
from tbps_infer.serve.removal import removal_router
from tbps_infer.serve.routes import router
from tbps_infer.serve.searcher import Searcher
from tbps_infer.serve.service import Service

__all__ = ["create_app"]

log = logging.getLogger(__name__)

_EXPRESSIONS_AT_ONCE = 2
_PROBLEMS_TOLD = 3
_LOG_LOOK_SECONDS = 1.0


def create_app(searchers: Searcher | Sequence[Searcher], options: ServeOptions, metrics: Metrics) -> FastAPI:
    """An application over searchers, which it closes when it ends.

    Args:
        searchers: Each a model and its galleries, whose names are all different.
        options: The limits and the token.
        metrics: The same that the searchers count in.
    """
    every = [searchers] if isinstance(searchers, Searcher) else list(searchers)
    access = Access(options)
    pictures = Pictures(options.threads, options.thumbnail_bytes, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        expressions = asyncio.Semaphore(_EXPRESSIONS_AT_ONCE)
        app.state.service = Service(every, pictures, options, access, metrics, expressions)
        for searcher in every:
            searcher.warm_up()
        upkeep = asyncio.create_task(_keep_log_short(every))
        yield
        upkeep.cancel()
        pictures.close()
        for searcher in every:
            await asyncio.get_running_loop().run_in_executor(None, searcher.close)

    app = FastAPI(
        title="tbps serve",
        description="Search a gallery of people by description.",
        version=__version__,
        docs_url=None,  # its pages load scripts from the network
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.connections = Connections(options.limits, metrics, options.proxies)
    app.include_router(router)
    app.include_router(browsing_router)
    app.include_router(exporting_router)
    app.include_router(removal_router)
    app.include_router(page_router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(TbpsError, _library_error)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(RequestGuard, options=options, access=access, metrics=metrics)
    return app


async def _keep_log_short(searchers: Sequence[Searcher]) -> None:
    galleries = [gallery for searcher in searchers for gallery in searcher.galleries.values()]
    while True:
        await asyncio.sleep(_LOG_LOOK_SECONDS)
        for gallery in galleries:
            await asyncio.get_running_loop().run_in_executor(None, gallery.keep_log_short)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return error_response(error, request.state.request_id)


async def _library_error(request: Request, error: Exception) -> Response:
    """What the client can change is told; what only the operator can is logged, not told."""
    if isinstance(error, GalleryError):
        log.error("Request %s: %s", request.state.request_id, error)
        refused = RefusedError(503, "The gallery cannot be read.", "See the server's log.", retry_after_s=10)
        return error_response(refused, request.state.request_id)
    if isinstance(error, UsageError | FilterError):
        return error_response(RefusedError(422, error.message, error.hint), request.state.request_id)
    raise error


async def _not_valid(request: Request, error: Exception) -> Response:
    """Where in the request and what is wrong there; never what was sent."""
    assert isinstance(error, RequestValidationError)
    problems = []
    for problem in error.errors()[:_PROBLEMS_TOLD]:
        place = ".".join(str(step) for step in problem["loc"][1:]) or "the request"
        problems.append(f"{place[:80]}: {problem['msg'][:200]}")
    return error_response(RefusedError(422, "; ".join(problems), "See /openapi.json."), request.state.request_id)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    message = sentences.get(error.status_code, "The request cannot be answered.")
    return error_response(RefusedError(error.status_code, message), request.state.request_id)
