"""Connections: how many there may be, how long a client may take to ask, and how long to take the answer."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tbps_infer.serve.addresses import is_among, owner, plain
from tbps_infer.serve.failures import failure_body
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import Limits

__all__ = ["ClientProtocol", "Connections"]

log = logging.getLogger(__name__)


class Connections:
    """The open connections of one server.

    Where an address has its share, or all connections are in use, the one that has waited longest without asking
    anything is closed for a new one: whoever only holds connections pushes out his own, and nobody else waits. A new
    one is refused only when all that it competes with are being answered.

    Args:
        limits: How many, and how long they may take.
        metrics: Where closed connections are counted.
        proxies: Addresses and networks of reverse proxies, whose connections are many clients' and have no share.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        proxies: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.proxies = tuple(proxies)
        self.clock = clock
        self._metrics = metrics
        self._open: defaultdict[str, set[ClientProtocol]] = defaultdict(set)
        self._told: set[str] = set()
        metrics.watch_connections(lambda: sum(map(len, self._open.values())))

    def admit(self, new: ClientProtocol) -> bool:
        """Count a new connection, closing one that only waits where the limits ask for it; False refuses it."""
        limits = self.limits
        own = self._open[new.owner]
        if len(own) >= limits.connections_per_address and not is_among(new.host, self.proxies):
            self._tell("address", f"{new.owner} has {len(own)} connections, and the limit per address is that")
            if not self._make_room(list(own)):
                return False
        everyone = [each for group in self._open.values() for each in group]
        if len(everyone) >= limits.connections:
            self._tell("all", f"All {limits.connections} connections are in use")
            if not self._make_room(everyone):
                return False
        self._open[new.owner].add(new)
        return True

    def leave(self, gone: ClientProtocol) -> None:
        """Count a connection no more; one that was never admitted is none."""
        group = self._open[gone.owner]
        group.discard(gone)
        if not group:
            del self._open[gone.owner]

    def sweep(self) -> None:
        """Close the connections whose time is up; called about once a second."""
        for each in [each for group in self._open.values() for each in group]:
            reason = each.close_overdue()
            if reason:
                self._metrics.connections_closed.labels(reason).inc()

    def _make_room(self, rivals: list[ClientProtocol]) -> bool:
        waiting = {since: each for each in rivals if (since := each.waiting_since) is not None}
        self._metrics.connections_closed.labels("waiting" if waiting else "refused").inc()
        if waiting:
            longest = waiting[min(waiting)]
            self.leave(longest)
            longest.transport.abort()
        return bool(waiting)

    def _tell(self, kind: str, what: str) -> None:
        """Log the first time only: whoever opens connections must not fill the log."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("%s: those that wait without asking are closed. tbps_connections_closed counts them.", what)


class ClientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, whose clients have a limited time for everything that they do.

    The answer is limited where it is made: a body by `tbps_infer.serve.bodies`, a query by `BatchOptions`.

    Attributes:
        host: The address of the other end.
        owner: What stands for it in limits.
        waiting_since: Since when the connection has asked nothing; None while a request is answered.
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = connections
        self.host = self.owner = ""
        self.waiting_since: float | None = None
        self._head_since: float | None = None
        self._blocked_since: float | None = None
        self._closing_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        if self.client is not None:
            self.client = plain(self.client[0]), self.client[1]
            self.host, self.owner = self.client[0], owner(self.client[0])
        self.waiting_since = self._head_since = self._all.clock()
        if not self._all.admit(self):
            self._answer_and_close(HTTPStatus.SERVICE_UNAVAILABLE, "All connections are in use.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what a client sends; its time for a request's head runs from the first byte, whatever follows."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._answering:
            self.waiting_since = self._head_since = None
        elif self._head_since is None:
            self._head_since = self._all.clock()

    def on_response_complete(self) -> None:
        """Wait for the next request; the rest of a body that nobody wanted has to come in the time of a head."""
        super().on_response_complete()
        if not self._answering:  # else the next request was there already
            self.waiting_since = self._all.clock()
            nothing_came = not self.cycle.more_body and not self.conn.trailing_data[0]
            self._head_since = None if nothing_came else self.waiting_since

    def pause_writing(self) -> None:
        """Note since when the client has not taken what was written."""
        super().pause_writing()
        self._blocked_since = self._all.clock()

    def resume_writing(self) -> None:
        """Note that it has."""
        super().resume_writing()
        self._blocked_since = None

    def shutdown(self) -> None:
        """End with the server; what is closing already cannot be told."""
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Refuse what is not HTTP, also in the middle of a request that is being answered."""
        if not self._answering:
            self._answer_and_close(HTTPStatus.BAD_REQUEST, "This is no HTTP request.")
            return
        started = self.cycle.response_started
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        if started:
            self.transport.abort()
        else:
            self._answer_and_close(HTTPStatus.BAD_REQUEST, "The body is not what HTTP/1.1 asks for.")

    def close_overdue(self) -> str:
        """Close the connection if its time is up; why, or nothing."""
        now, limits = self._all.clock(), self._all.limits
        if self.transport.is_closing() and self._closing_since is None:
            self._closing_since = now  # what was written is still to be taken, and nothing else waits for that
        stuck = [since for since in (self._blocked_since, self._closing_since) if since is not None]
        if stuck and now - min(stuck) > limits.write_seconds:
            self.transport.abort()
            return "slow reader"
        if self._head_since is None or self.transport.is_closing() or now - self._head_since <= limits.head_seconds:
            return ""
        if self.conn.trailing_data[0]:
            self._answer_and_close(HTTPStatus.REQUEST_TIMEOUT, "The request's head took too long.")
        else:
            self.transport.close()
        return "slow head"

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _answer_and_close(self, status: HTTPStatus, message: str) -> None:
        """Answer below the application, which has seen no request."""
        body = json.dumps(failure_body(message, "", ""))
        head = [f"HTTP/1.1 {status.value} {status.phrase}", "Content-Type: application/json"]
        head += ["Retry-After: 1"] * (status == HTTPStatus.SERVICE_UNAVAILABLE)
        head += [f"Content-Length: {len(body)}", "Connection: close"]
        self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()
