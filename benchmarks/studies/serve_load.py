"""A load run of ``tbps serve`` on loopback: many clients, one real server process, every answer looked at.

::

    python -m tbps_infer.benchmarks.studies.serve_load GALLERY --clients 50 --requests 2000 -o load.json

Clients are coroutines of one process over keep-alive connections of their own; each sends its next query when it has
read the last answer, so that the load is closed: 50 clients are 50 queries in flight. A latency is from the first
byte sent to the last byte read. A query is a sentence of its own, so that none is answered for two clients at once.
With ``--pictures N`` each query's N first thumbnails are read as well, one after the other; ``first row`` is the time
until the last of them is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tbps_infer.atomic import write_text
from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.errors import BenchmarkError

__all__ = ["LoadReport", "main", "percentile", "run_load", "sentences"]

_WORN = ("coat", "jacket", "shirt", "dress", "sweater", "hoodie", "skirt", "suit")
_COLOURS = ("red", "blue", "green", "black", "white", "grey", "yellow", "brown", "pink", "orange")
_CARRIED = ("a backpack", "a handbag", "an umbrella", "a suitcase", "a hat", "glasses", "a phone", "nothing")
_START_SECONDS = 60


@dataclass(frozen=True)
class LoadReport:
    """What a load run gave; times in milliseconds, of answered queries.

    Attributes:
        clients: Queries in flight.
        requests: Queries sent.
        errors: Answers that were none, by status or exception.
        queries_per_s: Over the whole run.
        p50_ms, p90_ms, p99_ms, max_ms: Of a query.
        first_row_p50_ms, first_row_p99_ms: Of a query and its first thumbnails; None when none were asked for.
        pictures: Thumbnails per query.
    """

    clients: int
    requests: int
    errors: dict[str, int]
    queries_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    first_row_p50_ms: float | None
    first_row_p99_ms: float | None
    pictures: int


def sentences(count: int) -> list[str]:
    """Different descriptions, the same ones every time."""
    made = []
    for number in range(count):
        colour, rest = _COLOURS[number % len(_COLOURS)], number // len(_COLOURS)
        worn, rest = _WORN[rest % len(_WORN)], rest // len(_WORN)
        carried, rest = _CARRIED[rest % len(_CARRIED)], rest // len(_CARRIED)
        made.append(f"a {'wo' * (number % 2)}man number {number} in a {colour} {worn} with {carried}")
    return made


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of none."""
    return float(np.quantile(values, share, method="inverted_cdf")) if values else float("nan")


def run_load(host: str, port: int, *, clients: int, requests: int, pictures: int = 0, k: int = 24) -> LoadReport:
    """Ask a server that runs.

    Args:
        host: Where it listens.
        port: Its port.
        clients: Queries in flight.
        requests: Queries altogether.
        pictures: Thumbnails to read after each query.
        k: Hits per query.

    Raises:
        BenchmarkError: The numbers make no load.
    """
    if not 1 <= clients <= requests:
        raise BenchmarkError(f"{clients} clients for {requests} requests make no load.", "Ask for more requests.")
    load = _Load(host, port, pictures, k, iter(sentences(requests)))
    seconds = asyncio.run(load.run(clients))
    latencies, rows = load.latencies, load.rows
    return LoadReport(
        clients=clients,
        requests=requests,
        errors=dict(load.errors),
        queries_per_s=len(latencies) / seconds,
        p50_ms=percentile(latencies, 0.5),
        p90_ms=percentile(latencies, 0.9),
        p99_ms=percentile(latencies, 0.99),
        max_ms=max(latencies, default=float("nan")),
        first_row_p50_ms=percentile(rows, 0.5) if pictures else None,
        first_row_p99_ms=percentile(rows, 0.99) if pictures else None,
        pictures=pictures,
    )


@dataclass
class _Load:
    """What all clients share: where they ask, what is left to ask, and what came of it."""

    host: str
    port: int
    pictures: int
    k: int
    remaining: Iterator[str]
    latencies: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    async def run(self, clients: int) -> float:
        """Ask until nothing remains; the seconds that took."""
        started = time.perf_counter()
        await asyncio.gather(*(self._client() for _ in range(clients)))
        return time.perf_counter() - started

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            for text in self.remaining:
                try:
                    await self._query(reader, writer, text)
                except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                    self.errors[type(error).__name__] += 1
                    writer.close()
                    reader, writer = await asyncio.open_connection(self.host, self.port)
        finally:
            writer.close()

    async def _query(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
        """One query and its first thumbnails."""
        body = json.dumps({"texts": [text], "k": self.k}).encode()
        begun = time.perf_counter()
        status, answer = await _ask(reader, writer, "POST /api/v1/search", self.host, body)
        if status != 200:
            self.errors[str(status)] += 1
            return
        self.latencies.append(1000 * (time.perf_counter() - begun))
        for hit in json.loads(answer)["hits"][: self.pictures]:
            what = f"GET /api/v1/records/{hit['record']}/thumbnail"
            status, data = await _ask(reader, writer, what, self.host)
            if status != 200 or not data.startswith(b"\xff\xd8"):
                self.errors[f"thumbnail {status}"] += 1
        self.rows.append(1000 * (time.perf_counter() - begun))


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str, host: str, body: bytes = b""
) -> tuple[int, bytes]:
    """One HTTP/1.1 request over a connection that stays open: status and body."""
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{what} HTTP/1.1\r\nHost: {host}\r\n{kind}\r\n".encode() + body)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"^content-length: (\d+)", head, re.IGNORECASE | re.MULTILINE)
    if length is None:
        raise ValueError("an answer without its length")
    return int(head.split(" ", 2)[1]), await reader.readexactly(int(length[1]))


@contextmanager
def served(gallery: Path, *, threads: int | None = None) -> Iterator[int]:
    """A server process over a gallery, without a rate limit; its port."""
    command = [sys.executable, "-m", "tbps_infer.cli.main", "serve", str(gallery), "--port", "0", "--rate", "0"]
    if threads is not None:
        command += ["--threads", str(threads)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        found = re.search(r"http://[^ ]+:(\d+)", said)
        if found is None:
            raise BenchmarkError(f"The server did not start: {said.strip()} {process.stderr.read().strip()}")
        port = int(found[1])
        asyncio.run(_ready(port))
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stderr.close()


async def _ready(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status, _ = await _ask(reader, writer, "GET /healthz", "127.0.0.1")
            writer.close()
            if status == 200:
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.05)
    raise BenchmarkError(f"The server was not ready after {_START_SECONDS} s.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line: a table on standard output, JSON where asked; 1 when there was an error."""
    parser = argparse.ArgumentParser(description="A load run of tbps serve on loopback.")
    parser.add_argument("gallery", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=0, help="thumbnails to read after each query")
    parser.add_argument("--threads", type=int, help="CPU threads of the server")
    parser.add_argument("-o", "--output", type=Path, help="write the report as JSON")
    given = parser.parse_args(arguments)
    with served(given.gallery, threads=given.threads) as port:
        report = run_load("127.0.0.1", port, clients=given.clients, requests=given.requests, pictures=given.pictures)
    rows = [(name.replace("_", " "), value) for name, value in asdict(report).items() if value is not None]
    for name, value in rows:
        sys.stdout.write(f"{name:<20} {value:.1f}\n" if isinstance(value, float) else f"{name:<20} {value}\n")
    if given.output is not None:
        environment = asdict(record_environment())
        values = {**asdict(report), "environment": environment}
        write_text(given.output, json.dumps(values, indent=2, default=str) + "\n")
    return int(bool(report.errors))


if __name__ == "__main__":
    sys.exit(main())
