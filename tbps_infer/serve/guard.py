"""The checks that every request passes before it reaches a route, and the headers of every response."""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tbps_infer.serve.access import Access
from tbps_infer.serve.addresses import owner
from tbps_infer.serve.bodies import Bodies
from tbps_infer.serve.failures import RefusedError, failure_body
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import ServeOptions
from tbps_infer.serve.rate_limit import RateLimit

__all__ = ["SECURITY_HEADERS", "RequestGuard", "error_response"]

log = logging.getLogger(__name__)

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

_OPEN_PATHS = ("/healthz", "/login")
_OPEN_FOLDER = "/static/"
_ATTENTION = "/attention"
_PICTURES = ("/thumbnail", "/picture")
_COSTLY = ("/api/v1/search", "/api/v1/export", "/api/v1/browse")
_PICTURES_PER_SEARCH = 30
_WRONG_TOKENS_PER_S, _WRONG_TOKENS = 0.5, 10
_FORM_BYTES = 4096


class RequestGuard:
    """The outermost layer of the application.

    Args:
        app: What it guards.
        options: The limits.
        access: Who may ask.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions, access: Access, metrics: Metrics) -> None:
        limits = options.limits
        self._app = app
        self._limits = limits
        self._bodies = Bodies(limits)
        self._access = access
        self._metrics = metrics
        self._searches = RateLimit(limits.rate, limits.burst)
        self._pictures = RateLimit(limits.rate * _PICTURES_PER_SEARCH, limits.burst * _PICTURES_PER_SEARCH)
        self._wrong = RateLimit(_WRONG_TOKENS_PER_S, _WRONG_TOKENS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        try:
            response = await self._handle(scope, receive, answer)
        except RefusedError as error:
            response = error_response(error, request_id)
        except Exception:
            log.exception("Request %s failed: %s %r", request_id, scope["method"], scope["path"])
            response = error_response(RefusedError(500, "The server failed at this request."), request_id)
        if response is not None and not status:
            await response(scope, receive, answer)
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        client = owner(scope["client"][0]) if scope.get("client") else ""
        self._count_refusal("host", lambda: self._access.check_host(headers))
        if path.startswith("/api/") or scope["method"] not in ("GET", "HEAD"):
            self._count_refusal("origin", lambda: self._access.check_origin(headers))
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)
        if not is_open and not self._access.allows_without_token(headers):
            refusal = self._check_token(scope, headers, client)
            if refusal is not None:
                return refusal
        if path in _COSTLY or path.endswith(_ATTENTION):
            self._spend(self._searches, client)
        elif path.endswith(_PICTURES):
            self._spend(self._pictures, client)
        elif path == "/login" and (scope["method"] == "POST" or b"token=" in scope.get("query_string", b"")):
            self._spend(self._wrong, client)
        if scope["method"] != "POST":  # nothing else has a body that anybody would look at
            await self._app(scope, _replay(b"", receive), send)
            return None
        is_api = path.startswith("/api/")
        if is_api:
            self._count_refusal("content-type", lambda: _check_json(headers))
        async with self._bodies.read(headers, receive, self._limits.body_bytes if is_api else _FORM_BYTES) as body:
            await self._app(scope, _replay(body, receive), send)
        return None

    def _check_token(self, scope: Scope, headers: Headers, client: str) -> Response | None:
        """What refuses a request that does not show the token: a page asks people for it, programs get 401.

        After too many wrong tokens of an address the next is not even compared, so that guesses cost time.
        """
        given = "authorization" in headers
        if given:
            self._spend(self._wrong, client, take=False)
            if self._access.allows_bearer(headers):
                return None
        query = scope.get("query_string", b"")
        if scope["path"] == "/" and scope["method"] == "GET":
            return RedirectResponse(f"/login?{query.decode('latin-1')}" if query else "/login", 303)
        self._metrics.refused.labels("token").inc()
        if given:
            self._spend(self._wrong, client)
        response = error_response(
            RefusedError(401, "This server needs its token.", "Send it: Authorization: Bearer TOKEN."),
            scope["state"]["request_id"],
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _spend(self, limit: RateLimit, client: str, *, take: bool = True) -> None:
        wait = limit.wait_s(client, take=take)
        if wait > 0:
            self._metrics.refused.labels("rate").inc()
            raise RefusedError(429, "Too many requests in a short time.", "Wait a moment.", retry_after_s=wait)

    def _count_refusal(self, reason: str, check: Callable[[], None]) -> None:
        try:
            check()
        except RefusedError:
            self._metrics.refused.labels(reason).inc()
            raise


def error_response(error: RefusedError, request_id: str) -> Response:
    """An error as JSON, ASCII only: what a client sent may come back in it."""
    text = json.dumps(failure_body(error.message, error.hint, request_id))
    response = Response(text, error.status, media_type="application/json")
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    headers["X-Request-ID"] = request_id
    if "cache-control" not in headers:
        headers["Cache-Control"] = "no-cache" if path.startswith(_OPEN_FOLDER) else "no-store"


def _check_json(headers: Headers) -> None:
    # A page of another site cannot send this type without asking first, and nobody answers that question.
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "The body must be JSON.", "Send Content-Type: application/json.")


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
