"""The page, the way in by token, and what machines look at: health and metrics."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from tbps_infer.serve.service import service_of

__all__ = ["STATIC", "page_router"]

STATIC = Path(__file__).parent / "static"

page_router = APIRouter()


@page_router.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
async def health(request: Request) -> Response:
    """200 once the model has answered; 503 before, while it is stuck, and while the gallery cannot be read."""
    service = service_of(request)
    status = {"status": "ready" if all(searcher.ready for searcher in service.searchers) else "starting"}
    stuck = [seconds for searcher in service.searchers if (seconds := searcher.stuck_seconds) is not None]
    if stuck:
        status = {"status": "stuck", "reason": f"The model has computed one batch for {max(stuck):.0f} s."}
    else:
        for gallery in service.galleries.values():
            if await run_in_threadpool(gallery.problem):  # whose sentence names the folder, and anybody asks here
                status = {"status": "gallery unreadable"}
    return JSONResponse(status, 200 if status["status"] == "ready" else 503)


@page_router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@page_router.get("/", include_in_schema=False)
async def index(request: Request) -> Response:
    """The page."""
    if "token" in request.query_params:
        return RedirectResponse("/", 303)  # known already: only clear the address
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


@page_router.get("/login", include_in_schema=False)
async def login_page(request: Request) -> Response:
    """Ask for the token; one in the address is taken once and then gone from it."""
    access = service_of(request).access
    token = request.query_params.get("token")
    if token is not None:
        return _sign_in(request, token)
    if not access.needs_token:
        return RedirectResponse("/", 303)
    return FileResponse(STATIC / "login.html")


@page_router.post("/login", include_in_schema=False)
async def login(request: Request) -> Response:
    """Take the token of the form."""
    async with request.form(max_files=0, max_fields=1) as form:
        token = form.get("token", "")
    return _sign_in(request, token if isinstance(token, str) else "")


def _sign_in(request: Request, token: str) -> Response:
    access = service_of(request).access
    if not access.allows_token(token):
        return RedirectResponse("/login?wrong", 303)
    headers = {"Set-Cookie": access.set_cookie(request.scope["scheme"] == "https")} if access.needs_token else {}
    return RedirectResponse("/", 303, headers=headers)
