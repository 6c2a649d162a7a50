"""What a client is told when something is wrong: a sentence, a hint, a request's number, never a traceback."""

from __future__ import annotations

from typing import Any

__all__ = ["RefusedError", "failure_body"]


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


def failure_body(message: str, hint: str, request_id: str) -> dict[str, Any]:
    """The JSON of every error."""
    return {"error": {"message": message, "hint": hint, "request_id": request_id}}
