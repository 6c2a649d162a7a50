"""A server in a process of its own, for tests that attack it: its memory is its own, and so are its connections."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from places import ROOT
from serve_world import World

TOKEN = "a-token-of-some-length"

_PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from serve_world import World
from tbps_infer.serve.app import create_app
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import Limits, ServeOptions
from tbps_infer.serve.searcher import Searcher
from tbps_infer.serve.server import bind, run
world, metrics, given = World(Path(sys.argv[2])), Metrics(), json.loads(sys.argv[3])
options = ServeOptions(port=0, token=given.pop("token"), limits=Limits(**given))
searcher = Searcher(world.encoder(), world.gallery, options.batch, metrics)
searcher.warm_up().result(30)
run(create_app(searcher, options, metrics), bind(options), lambda address: print(address, flush=True))
"""


@dataclass
class ServedProcess:
    """A server that runs; `said` is what it wrote to standard error, once it has ended."""

    process: subprocess.Popen[str]
    port: int
    said: str = ""

    def connect(self, data: bytes = b"", *, receive_buffer: int = 0) -> socket.socket:
        """A connection over which something was sent."""
        made = socket.socket()
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(20)
        made.connect(("127.0.0.1", self.port))
        made.sendall(data)
        return made

    def ask(
        self, method: str, path: str, asked: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of one request over a connection of its own; with the token, if not told else."""
        sent = {"Authorization": f"Bearer {TOKEN}"} if headers is None else dict(headers)
        body = None if asked is None else json.dumps(asked)
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def counted(self, name: str) -> float:
        """A line of the metrics; 0 where there is none."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("GET", "/metrics")[1].decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def resident_bytes(self) -> int:
        """Memory of the process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) << 10


@contextmanager
def served(world: World, **limits: Any) -> Iterator[ServedProcess]:
    """A server with a token over a world; ended in the end, without a traceback."""
    given = json.dumps({"token": TOKEN, "rate": 0, **limits})
    command = [sys.executable, "-c", _PROGRAM, str(ROOT / "tests" / "helpers"), str(world.folder), given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline()
    made = ServedProcess(process, int(address.rpartition(":")[2] or 0))
    try:
        yield made
    finally:
        process.terminate()
        made.said = process.communicate(timeout=30)[1]
    assert "Traceback" not in made.said, made.said
