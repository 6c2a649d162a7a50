"""Running the application: a socket that is bound first, one event loop, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from tbps_infer.errors import UsageError
from tbps_infer.serve.connections import ClientProtocol, Connections
from tbps_infer.serve.options import ServeOptions

__all__ = ["bind", "run"]

_BACKLOG = 512
_GRACE_SECONDS = 10
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


def run(app: FastAPI, bound: socket.socket, on_start: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished.

    Args:
        app: What `tbps_infer.serve.app.create_app` gives.
        bound: What `bind` gives; closed at the end.
        on_start: Given the address before the first request.
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
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ws="none",
        proxy_headers=bool(connections.proxies),
        forwarded_allow_ips=list(connections.proxies),
    )
    host, port = bound.getsockname()[:2]
    on_start(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    with bound:
        uvicorn.Server(config).run(sockets=[bound])
