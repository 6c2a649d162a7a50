"""Fixtures of the tests of the page in a browser, which name this module in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from page_server import Server, chromium
from serve_world import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over as many pictures as the module's COUNT says."""
    world = World(tmp_path_factory.mktemp("page"))
    world.add(range(request.module.COUNT))
    made = Server(world)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with chromium() as made:
        yield made
