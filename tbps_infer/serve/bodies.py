"""Bodies of requests: read within a size, a time and a sum over all requests, before any route sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.types import Receive

from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.options import Limits

__all__ = ["Bodies"]

# Bodies up to this size are not counted in the sum: unfinished uploads must not keep sentences out.
_SMALL = 64 << 10
# What Python's parser makes of JSON costs by the value: a picture is one, whatever its size.
_MOST_VALUES = 1 << 15
_STRUCTURE = b",:[{"


class Bodies:
    """Reads the bodies of one server; all in one event loop.

    Args:
        limits: Their size, their sum, and how long they may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._used = 0

    @asynccontextmanager
    async def read(self, headers: Headers, receive: Receive, most: int) -> AsyncIterator[bytes]:
        """All of a body of at most so many bytes, which counts in the sum until the request is answered.

        Raises:
            RefusedError: 400 (not as declared, or it ends early), 408, 413, 422 (more values than any request has),
                or 503 when the bodies of others leave no room.
        """
        share = _Share(self, most)
        try:
            share.grow(_declared(headers))
            try:
                body = await asyncio.wait_for(_read(receive, share), self._limits.body_seconds)
            except asyncio.TimeoutError:
                raise RefusedError(
                    408, f"The request took longer than {self._limits.body_seconds:g} seconds."
                ) from None
            if len(body) - len(body.translate(None, _STRUCTURE)) > _MOST_VALUES:
                raise RefusedError(422, f"The request has more than {_MOST_VALUES} values.", "See /openapi.json.")
            yield body
        finally:
            self._used -= share.counted

    def take(self, size: int) -> None:
        """Count some bytes more in the sum; raises RefusedError (503) when they do not fit."""
        if self._used + size > self._limits.bodies_bytes:
            raise RefusedError(503, "Other uploads leave no room for this one.", "Ask again soon.", retry_after_s=1)
        self._used += size


class _Share:
    """One body's part of the sum."""

    def __init__(self, bodies: Bodies, most: int) -> None:
        self._bodies = bodies
        self._most = most
        self.counted = 0

    def grow(self, size: int) -> None:
        """Count a body that has or will have so many bytes."""
        if size > self._most:
            raise RefusedError(
                413, f"The request is larger than the limit of {self._most} bytes.", "Send smaller pictures."
            )
        if size > max(_SMALL, self.counted):
            self._bodies.take(size - self.counted)
            self.counted = size


def _declared(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        raise RefusedError(400, "The Content-Length is not a number of bytes.")
    return int(text)


async def _read(receive: Receive, share: _Share) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedError(400, "The request ended early.")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        share.grow(size)
        if not message.get("more_body", False):
            return b"".join(pieces)
