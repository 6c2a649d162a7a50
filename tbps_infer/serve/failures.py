"""What a client is told when something is wrong: a sentence, a hint, a request's number, never a traceback."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

__all__ = ["ANSWERS", "BODY_ANSWERS", "FailureReply", "RefusedError", "answers", "failure_body"]


class RefusedError(Exception):
    """Raised where a request is answered with an error.

    Args:
        status: The HTTP status.
        message: A sentence: what was given and what was wanted.
        hint: What to do about it.
        retry_after_s: For 429 and 503: when to ask again.
    """

    def __init__(self, status: int, message: str, hint: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s


class _Failure(BaseModel):
    message: str
    hint: str
    request_id: str = Field(description="Also in the header X-Request-ID, and in the server's log.")


class FailureReply(BaseModel):
    """Every answer that is no success."""

    error: _Failure


_REASONS: dict[int, str] = {
    400: "The request cannot be read.",
    401: "The server needs its token.",
    403: "Another site's page asks.",
    404: "There is no such record, or no such picture any more.",
    408: "The body took too long.",
    409: "Another process is writing to the gallery.",
    413: "The body, or a picture, is too large.",
    415: "The body is not JSON.",
    421: "The Host header names another machine.",
    422: "A value is not what is wanted.",
    429: "Too many requests, or wrong tokens, in a short time; Retry-After tells when to ask again.",
    500: "The server failed; its log has the same request id.",
    503: "The server is busy, starting or ending, or cannot read the gallery; ask again later.",
}


def answers(*statuses: int, content: str = "") -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route's answers: failures by status, and the types of a success that is not JSON."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": FailureReply, "description": _REASONS[status]} for status in statuses
    }
    if content:
        told[200] = {"content": {kind: {"schema": {"type": "string"}} for kind in content.split()}}
    return told


ANSWERS = answers(400, 401, 403, 421, 422, 429, 500, 503)
"""What every route of the API may answer."""

BODY_ANSWERS = answers(408, 413, 415)
"""What one that takes a body may answer, too."""


def failure_body(message: str, hint: str, request_id: str) -> dict[str, Any]:
    """The JSON of every error."""
    return {"error": {"message": message, "hint": hint, "request_id": request_id}}
