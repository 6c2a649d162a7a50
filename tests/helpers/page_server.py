"""The page in a real browser: a server in a process of its own, and headless Chromium in front of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from places import ROOT
from serve_world import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["PAGE_MARKS", "Server", "chromium", "until"]

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

PAGE_MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
]

SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from serve_world import World
from tbps_infer.serve.app import create_app
from tbps_infer.serve.searcher import Searcher
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import ServeOptions
from tbps_infer.serve.server import bind, run
world, metrics = World(Path(sys.argv[2])), Metrics()
options = ServeOptions(port=int(sys.argv[3]), token=sys.argv[4] or None)
galleries = {Path(folder).parent.name: Path(folder) for folder in (world.gallery, *sys.argv[5:])}
searcher = Searcher(world.encoder(), galleries, options.batch, metrics)
run(create_app(searcher, options, metrics), bind(options), lambda address: print(address, flush=True))
"""


class Server:
    """A server process over a world, and over others embedded by the same model; `address` is where."""

    def __init__(self, world: World, port: int = 0, token: str = "", others: Sequence[World] = ()) -> None:
        self.world = world
        command = [sys.executable, "-c", SERVER, str(ROOT / "tests" / "helpers"), str(world.folder), str(port), token]
        command += [str(other.gallery) for other in others]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


def until(page: Page, condition: str) -> None:
    """Wait for a condition; Playwright's own wait needs ``eval``, which the page's policy forbids."""
    end = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)
