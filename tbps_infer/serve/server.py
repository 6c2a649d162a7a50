"""Running the application: a socket that is bound first, one event loop, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from tbps_infer.errors import UsageError
from tbps_infer.serve.connections import ClientProtocol, Connections
from tbps_infer.serve.options import ServeOptions

__all__ = ["bind", "run"]

_BACKLOG = 512
_KEEP_ALIVE_SECONDS = 15


def bind(options: ServeOptions) -> socket.socket:
    """A listening socket; raises UsageError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # With the protocol named asyncio turns Nagle's algorithm off; else answers wait 40 ms for an acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((options.host.strip("[]"), options.port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise UsageError(
            f"The address {options.host}:{options.port} cannot be used: {error.strerror or error}.",
            "Choose another port with --port, or 0 for any that is free.",
        ) from error
    return bound


class _Server(uvicorn.Server):
    """A server that tells of the first signal to end."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self._on_stop()
        super().handle_exit(sig, frame)


def run(
    app: FastAPI,
    bound: socket.socket,
    on_start: Callable[[str], None],
    *,
    grace_seconds: int = 5,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished.

    No thread can be ended from outside: to end in time whatever still runs is left to the process, in `on_stop`.

    Args:
        app: What `tbps_infer.serve.app.create_app` gives.
        bound: What `bind` gives; closed at the end.
        on_start: Given the address before the first request.
        grace_seconds: How long requests may take to end after the signal; then what they wait for is cancelled.
        on_stop: Called at the signal, in its handler.
    """
    connections: Connections = app.state.connections

    async def sweep() -> None:
        connections.sweep()

    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], partial(ClientProtocol, connections)),
        callback_notify=sweep,
        timeout_notify=0,  # at every tick, once a second
        log_config=None,  # the caller's logging; the access log would hold what people search for
        access_log=False,
        server_header=False,
        limit_concurrency=2 * connections.limits.connections,  # of requests whose clients went away, too
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
        ws="none",
        proxy_headers=bool(connections.proxies),
        forwarded_allow_ips=list(connections.proxies),
    )
    host, port = bound.getsockname()[:2]
    on_start(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    with bound:
        _Server(config, on_stop).run(sockets=[bound])
