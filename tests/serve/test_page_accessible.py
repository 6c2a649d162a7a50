"""The page for everybody: WCAG 2.2 AA by axe-core, both themes, reading order, reduced motion, any width."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from page_server import PAGE_MARKS, Server, until
from PIL import Image
from serve_world import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest_plugins = ["page_fixtures"]
pytestmark = PAGE_MARKS

Theme = Literal["light", "dark"]

COUNT = 60
TOKEN = "token-of-sixteen-characters"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
REFERENCES = Path(__file__).parent / "references"
# Screenshots are compared at an eighth of their size, so that another font's letters make no difference.
SHRINK = 8
MOST_DIFFERENCE = 6.0
"""Mean difference of grey levels, of 255: another font gives some 2, a missing row of hits 20."""


def _open(browser: Browser, server: Server, query: str = "", **context: Any) -> Page:
    settings: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, **context}
    page = browser.new_context(**settings).new_page()
    page.goto(server.address + query)
    until(page, "document.getElementById('gallery').textContent && document.getElementById('busy').hidden")
    page.wait_for_selector(".hit")
    until(page, "[...document.querySelectorAll('.hit img')].slice(0, 9).every(i => i.naturalWidth)")
    return page


def _violations(page: Page) -> list[str]:
    """What axe-core finds: rule and elements."""
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        pytest.skip("axe-playwright-python is not installed")
    page.evaluate((Path(package.origin).parent / "axe.min.js").read_text())
    found = page.evaluate("tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", TAGS)
    assert found["passes"]
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_nothing_in_any_view(browser: Browser, server: Server, theme: Theme, width: int) -> None:
    page = _open(browser, server, color_scheme=theme, viewport={"width": width, "height": 800})
    assert _violations(page) == []
    page.goto(f"{server.address}/?q=a+hat+穿&q=a+coat&right=3&wrong=4&like=5&weight=global:2&group=id")
    page.wait_for_selector(".hit .caption")
    for opened in ("#part-weights-open", "#filters-open", "#calendar-open"):
        page.click(opened)
    page.wait_for_selector("#calendar-days button")
    page.focus("#hit-1")
    page.keyboard.press(" ")
    assert _violations(page) == []
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    page.click("#parts button >> nth=0")
    assert _violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert _violations(page) == []
    page.goto(f"{server.address}/?q=a+hat&where=nonsense+%3D")
    page.wait_for_selector("#failure:not([hidden])")
    assert _violations(page) == []
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_where_the_token_is_asked_for(browser: Browser, tmp_path: Path, theme: Theme) -> None:
    world = World(tmp_path)
    world.add(range(2))
    guarded = Server(world, token=TOKEN)
    page = browser.new_context(color_scheme=theme).new_page()
    page.goto(f"{guarded.address}/?token=wrong")
    page.wait_for_selector("#wrong:not([hidden])")
    assert _violations(page) == []
    page.context.close()
    guarded.stop()


def test_the_reading_order_is_the_order_of_work(browser: Browser, server: Server) -> None:
    page = _open(browser, server, "/?q=a+hat")
    page.focus(".skip")
    order = ["skip"]
    for _ in range(9):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = ["skip", "help-open", "sentence", "main", "exclude", "sentence-add", "picture-choose"]
    assert order == [*wanted, "part-weights-open", "filters-open", "hit-0"]
    roles = "[...document.querySelectorAll('header, main, [role=search], aside')].map(each => each.tagName)"
    assert page.evaluate(roles) == ["HEADER", "FORM", "MAIN", "ASIDE"]
    page.context.close()


def test_who_wants_no_motion_sees_none(browser: Browser, server: Server) -> None:
    page = _open(browser, server, "/?q=a+hat", reduced_motion="reduce")
    moving = (
        "[...document.querySelectorAll('*')].flatMap(each => ['', '::before', '::after'].map(part => "
        "getComputedStyle(each, part || null))).filter(style => style.animationName !== 'none' || "
        "style.transitionDuration !== '0s' || style.scrollBehavior !== 'auto').length"
    )
    page.evaluate("document.getElementById('busy').hidden = false")
    assert page.evaluate(moving) == 0
    page.context.close()


@pytest.mark.parametrize(("width", "height"), [(320, 640), (768, 1024), (1280, 800), (2560, 1440)])
@pytest.mark.parametrize("view", ["start", "hits"])
def test_every_width_is_used_and_looks_as_it_did(
    browser: Browser, server: Server, tmp_path: Path, width: int, height: int, view: str
) -> None:
    query = "" if view == "start" else "/?q=a+woman+in+a+red+coat+with+a+hat+and+a+backpack"
    page = _open(browser, server, query, viewport={"width": width, "height": height}, color_scheme="light")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    right = "Math.max(...[...document.querySelectorAll('.hit')].map(hit => hit.getBoundingClientRect().right))"
    assert page.evaluate(right) > width - 60
    # The sentence is not cut.
    assert page.locator("#sentence").evaluate("field => field.scrollHeight <= field.clientHeight")
    if view == "hits":
        page.evaluate("document.getElementById('status').textContent = 'The 24 best of 60, in 50 ms'")
        whole = (
            "[...document.querySelectorAll('.hit')].map(hit => hit.getBoundingClientRect())"
            ".filter(box => box.top >= 0 && box.bottom <= innerHeight).length"
        )
        until(page, f"{whole} >= 4")
    page.evaluate("document.activeElement.blur()")
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot = shot.convert("RGB")
    page.context.close()
    reference = REFERENCES / f"{view}-{width}.webp"
    shot.resize((shot.width // 2, shot.height // 2)).save(tmp_path / reference.name, quality=70)
    if not reference.exists():
        pytest.fail(f"There is no {reference}. Look at {tmp_path / reference.name}, and put it there if it is right.")
    with Image.open(reference) as kept:
        assert kept.size == (shot.width // 2, shot.height // 2)
        difference = np.abs(_small(shot, shot.size) - _small(kept, shot.size)).mean()
    assert difference < MOST_DIFFERENCE, f"Look at {tmp_path / reference.name} beside {reference}."


def _small(image: Image.Image, size: tuple[int, int]) -> Any:
    grey = image.convert("L").resize((size[0] // SHRINK, size[1] // SHRINK), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float64)
