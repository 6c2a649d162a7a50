"""What a server is told: its limits, its batches, and who may ask."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from tbps_infer.errors import UsageError
from tbps_infer.serve.addresses import is_loopback

__all__ = ["BatchOptions", "Limits", "ServeOptions"]

SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Limits:
    """What clients may cost; what is beyond is refused with 408, 413, 422, 429 or 503, or its connection is closed.

    Attributes:
        connections: Connections at once.
        connections_per_address: Those of one address among them.
        head_seconds: How long a client may take to send a request's head.
        write_seconds: How long it may take nothing of what is written to it.
        body_bytes: The largest body of a request.
        body_seconds: How long a client may take to send it.
        bodies_bytes: The sum of all bodies in memory, those up to 64 KiB not counted.
        text_characters: The longest sentence.
        texts: Sentences per query, and likewise exclusions.
        pictures: Example pictures per query, and likewise records that it is to be like.
        picture_pixels: The largest example picture.
        hits: Hits per query, and records per export.
        depth: Hits per query with those that were skipped.
        stacked: Likewise, where near-duplicates are stacked: each hit is compared with those before it.
        judged: Records per query that were judged right or wrong.
        export_bytes: The largest sum of the pictures in a zip.
        where_seconds: How long a metadata expression may take.
        rate: Searches and exports per second that one address may ask for over time; 0 is no limit.
        burst: How many of them at once; pictures have thirty times both.
    """

    connections: int = 1024
    connections_per_address: int = 256
    head_seconds: float = 10.0
    write_seconds: float = 30.0
    body_bytes: int = 8 << 20
    body_seconds: float = 20.0
    bodies_bytes: int = 64 << 20
    text_characters: int = 1000
    texts: int = 8
    pictures: int = 4
    picture_pixels: int = 40_000_000
    hits: int = 200
    depth: int = 2000
    stacked: int = 500
    judged: int = 100
    export_bytes: int = 256 << 20
    where_seconds: float = 2.0
    rate: float = 20.0
    burst: int = 60


@dataclass(frozen=True)
class BatchOptions:
    """How queries of several clients are run together.

    Attributes:
        most: Queries per run of the model.
        wait_ms: How long the first of them waits for others.
        queue: How many may wait; the next one is refused with 503.
        answer_seconds: How long a query may wait for its answer.
    """

    most: int = 32
    wait_ms: float = 2.0
    queue: int = 256
    answer_seconds: float = 30.0


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: The address to bind to.
        port: The port; 0 is any that is free.
        token: What every client must show; needed for any address but a loopback one.
        thumbnail_bytes: Memory for thumbnails that were made.
        threads: Threads that decode pictures.
        proxies: Addresses or networks of reverse proxies; what these say of whom they ask for is believed.

    Raises:
        UsageError: The address needs a token, the token is too short to be one, or a proxy is no address.
    """

    host: str = "127.0.0.1"
    port: int = 8321
    token: str | None = field(default=None, repr=False)
    thumbnail_bytes: int = 64 << 20
    threads: int = 4
    limits: Limits = Limits()
    batch: BatchOptions = BatchOptions()
    proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                f"The address {self.host} can be reached from other machines, and no token is set.",
                "Set one: TBPS_SERVE_TOKEN=$(openssl rand -hex 24), or stay with 127.0.0.1.",
            )
        if self.token is not None and (len(self.token) < SHORTEST_TOKEN or not self.token.isascii()):
            raise UsageError(
                f"The token has {len(self.token)} characters, want at least {SHORTEST_TOKEN} ASCII ones.",
                "Make one: openssl rand -hex 24.",
            )
        if not 0 <= self.port <= 65535:
            raise UsageError(f"The port is {self.port}, want 0 to 65535.")
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as error:
                raise UsageError(
                    f"The proxy {proxy!r} is no address.", "Give an address or a network: 127.0.0.1, 10.0.0.0/8."
                ) from error

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_loopback(self.host)
