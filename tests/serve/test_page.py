"""The page in a real browser: headless Chromium against a real server process."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_server import PAGE_MARKS, Server, until
from PIL import Image
from serve_world import SCRIPT, World

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest_plugins = ["page_fixtures"]
pytestmark = PAGE_MARKS

COUNT = 30


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, loaded; a script's error, a refused resource or a request elsewhere fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = context.new_page()
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    made.on("request", lambda request: problems.append(request.url) if not _own(request.url, server) else None)
    made.goto(server.address)
    until(made, "document.getElementById('gallery').textContent")
    yield made
    context.close()
    assert not [problem for problem in problems if "Failed to load resource" not in problem]


def _own(url: str, server: Server) -> bool:
    return url.startswith((server.address, "blob:", "data:"))


def _search(page: Page, sentence: str) -> None:
    page.fill("#sentence", sentence)
    with page.expect_response("**/api/v1/search"):
        page.keyboard.press("Enter")
    until(page, "document.getElementById('busy').hidden")


def _start_again(page: Page) -> None:
    """The page without a query: a reload would bring the query back."""
    page.goto(page.url.partition("?")[0])


def _names(page: Page) -> list[str]:
    labels = page.eval_on_selector_all(".hit", "hits => hits.map(hit => hit.getAttribute('aria-label'))")
    return [label.split(", ")[-1] for label in labels]


def _focused(page: Page) -> str:
    found: str = page.evaluate("document.activeElement.id")
    return found


def test_a_sentence_shows_people_best_first(page: Page) -> None:
    _search(page, "a woman in a red coat")
    scores = [float(text) for text in page.locator(".hit .caption span").all_inner_texts()]
    assert len(scores) == 24 and scores == sorted(scores, reverse=True)
    until(page, "[...document.querySelectorAll('.hit img')].slice(0, 9).every(i => i.naturalWidth === 20)")
    assert "24 best of 30" in page.inner_text("#status")
    assert _focused(page) == "hit-0"


def test_what_was_asked_is_remembered_on_this_machine(page: Page) -> None:
    _search(page, "a man with a hat")
    _start_again(page)
    page.wait_for_selector("#recent button")
    assert page.locator("#recent button").all_inner_texts() == ["a man with a hat"]
    page.click("#recent button")
    until(page, "document.querySelectorAll('.hit .caption').length === 24")
    _start_again(page)
    page.click("#forget")
    assert not page.is_visible("#recent-part")


def test_filters_narrow_and_clear(page: Page) -> None:
    _search(page, "a hat")
    page.click("#filters-open")
    with page.expect_response("**/api/v1/search"):
        page.click("#cameras button:has-text('cam_a')")
    until(page, "document.querySelectorAll('.hit').length === 15")
    assert all(int(name[:3]) % 2 == 1 for name in _names(page))
    with page.expect_response("**/api/v1/search"):
        page.fill("#before", "2024-03-05T00:00")
        page.dispatch_event("#before", "change")
    until(page, "document.querySelectorAll('.hit').length === 2")
    assert sorted(_names(page)) == ["001.png", "003.png"]
    page.fill("#where", "note = 'nothing'")
    page.press("#where", "Enter")
    page.wait_for_selector("#empty:not([hidden])")
    assert page.inner_text("#filters-count") == "3"
    assert page.inner_text("#warnings") == "No picture satisfies camera, before, where together."
    page.click("#empty-clear")
    until(page, "document.querySelectorAll('.hit').length === 24")


def test_what_the_model_cannot_read_is_told(page: Page) -> None:
    _search(page, "a hat 穿")
    assert page.inner_text("#warnings") == "The model does not know '穿'; the search ignores its meaning."
    _search(page, "a hat")
    until(page, "document.querySelector('#warnings').childElementCount === 0")


def test_times_are_filtered_as_they_are_shown(page: Page) -> None:
    _search(page, "a hat")
    page.click("#filters-open")
    for field, moment in (("#after", "2024-03-04T10:00"), ("#before", "2024-03-04T10:01")):
        with page.expect_response("**/api/v1/search"):
            page.fill(field, moment)
            page.dispatch_event(field, "change")
    until(page, "document.querySelectorAll('.hit').length === 1")
    assert _names(page) == ["003.png"]
    assert "2024-03-04 10:00 +05:00" in page.inner_text(".hit")


def test_a_filter_that_makes_no_sense_is_explained(page: Page) -> None:
    _search(page, "a hat")
    page.keyboard.press("f")
    page.fill("#where", "colour = 3")
    page.press("#where", "Enter")
    page.wait_for_selector("#failure:not([hidden])")
    assert "there is no column 'colour'" in page.inner_text("#failure h2")
    assert "camera" in page.inner_text("#failure p")
    page.click("#filters-clear")
    page.wait_for_selector(".hit")


def test_the_keyboard_does_it_all(page: Page) -> None:
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert _focused(page) == "sentence"
    _search(page, "a hat")
    names = _names(page)
    page.keyboard.press("ArrowRight")
    assert _focused(page) == "hit-1"
    page.keyboard.press("ArrowDown")
    row = int(_focused(page).removeprefix("hit-")) - 1
    assert row == page.evaluate(
        "getComputedStyle(document.getElementById('hits')).gridTemplateColumns.split(' ').length"
    )
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    assert page.get_attribute("#hit-1", "aria-selected") == "true"
    page.keyboard.press("End")
    assert _focused(page) == "hit-23"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    assert page.inner_text("#detail-title") == names[0]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#detail-title") == names[1]
    assert page.get_attribute("#detail-choose", "aria-pressed") == "true"
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail[open]", state="detached")
    assert _focused(page) == "hit-1"
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    page.keyboard.press("Escape")
    with page.expect_response("**/api/v1/search"):
        page.focus("#hit-1")
        page.keyboard.press("m")
    page.wait_for_selector(".example")
    until(page, f"!document.querySelector('.hit').getAttribute('aria-label').endsWith({names[1]!r})")
    assert names[1] not in _names(page)
    page.go_back()
    until(page, "document.getElementById('sentence').value === 'a hat'")
    until(page, f"document.querySelector('.hit').getAttribute('aria-label').endsWith({names[0]!r})")


def test_a_picture_beside_the_words(page: Page, server: Server) -> None:
    page.set_input_files("#picture", server.world.folder / "007.png")
    page.wait_for_selector(".hit .caption")
    assert _names(page)[0] == "007.png"  # the model gives one picture one vector
    assert float(page.locator(".hit .caption span").first.inner_text()) == pytest.approx(3, abs=0.01)
    _search(page, "but with a hat")
    assert page.is_visible("#image-weight")
    page.click(".example button")
    page.wait_for_selector(".example", state="detached")


def test_details_show_shares_that_sum_and_text_as_text(page: Page) -> None:
    _search(page, "a hat")
    page.click("#filters-open")
    page.fill("#where", "note like '%script%'")
    page.press("#where", "Enter")
    until(page, "document.querySelectorAll('.hit').length === 1")
    page.click(".hit .shot")
    until(page, "document.getElementById('metadata').textContent.includes('file')")
    assert SCRIPT in page.inner_text("#metadata") and page.title() == "Person search"
    shares = [float(text.split(" of ")[0]) for text in page.locator("#parts li > span:last-child").all_inner_texts()]
    score = float(page.inner_text("#detail-score").split("score ")[1].split(" ")[0])
    assert sum(shares) == pytest.approx(score, abs=0.003)
    page.hover("#parts li:last-child")
    picture, stripe = page.locator("#detail-picture").bounding_box(), page.locator("#stripe").bounding_box()
    assert picture is not None and stripe is not None
    assert stripe["height"] == pytest.approx(picture["height"] / 2, abs=2)
    assert stripe["y"] == pytest.approx(picture["y"] + picture["height"] / 2, abs=2)


def test_a_sentence_with_markup_stays_text(page: Page) -> None:
    _search(page, SCRIPT)
    _start_again(page)
    page.wait_for_selector("#recent button")
    assert page.inner_text("#recent button") == SCRIPT and page.title() == "Person search"


def test_chosen_hits_are_saved(page: Page, tmp_path: Path) -> None:
    _search(page, "a hat")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    names = _names(page)[:2]
    assert page.inner_text("#chosen-count") == "2 chosen"
    with page.expect_download() as waiting:
        page.click("#save-csv")
    table = Path(waiting.value.path()).read_text().splitlines()
    assert len(table) == 3 and names[0] in table[1] and names[1] in table[2]
    with page.expect_download() as waiting:
        page.click("#save-zip")
    waiting.value.save_as(tmp_path / "hits.zip")
    shutil.unpack_archive(tmp_path / "hits.zip", tmp_path / "hits")
    with Image.open(next((tmp_path / "hits/pictures").iterdir())) as picture:
        assert picture.size == (20, 60)


def test_a_narrow_window_needs_no_sideways_scrolling(browser: Browser, server: Server) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 640})
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("#suggestions button")
    widths = "[document.documentElement.scrollWidth, innerWidth]"
    assert page.evaluate(widths) == [320, 320]
    _search(page, "a woman in a red coat with a very long description that does not fit a line")
    page.keyboard.press("Space")
    page.click("#filters-open")
    assert page.evaluate(widths) == [320, 320]
    assert (
        page.evaluate("getComputedStyle(document.getElementById('hits')).gridTemplateColumns.split(' ').length") == 2
    )
    page.click("#hit-1 .shot")
    page.wait_for_selector("#detail[open]")
    box = page.locator("#detail").bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 320
    assert page.evaluate(
        "document.getElementById('detail').scrollWidth <= document.getElementById('detail').clientWidth"
    )
    context.close()


def test_a_server_that_is_gone_is_said_and_tried_again(browser: Browser, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(range(4))
    server = Server(world)
    port = int(server.address.rpartition(":")[2])
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("#suggestions button")
    assert server.stop() in (0, -signal.SIGTERM)
    page.fill("#sentence", "a hat")
    page.keyboard.press("Enter")
    page.wait_for_selector("#failure:not([hidden])")
    assert page.inner_text("#failure h2") == "The server does not answer."
    server = Server(world, port)
    with contextlib.closing(context):
        page.click("#retry")
        page.wait_for_selector(".hit")
        assert len(_names(page)) == 4
    server.stop()


def test_chosen_hits_are_removed_after_asking_twice(browser: Browser, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(range(8))
    server = Server(world, token="token-of-sixteen-characters")
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()
        page.goto(f"{server.address}/?token=token-of-sixteen-characters")
        if page.locator("form button[type=submit]").first.inner_text() != "Search":
            page.click("form button[type=submit]")
        until(page, "document.getElementById('gallery')?.textContent")
        _search(page, "a person")
        for index in (0, 2):
            page.click(f"#hit-{index}", modifiers=["Control"])
        page.click("#remove")
        assert page.inner_text("#removal-title") == "Remove 2 from the gallery?"
        assert not page.is_visible("#removal-second")
        page.click("#removal-first")
        assert "Really remove 2?" in page.inner_text("#removal-title")
        page.click("#removal-second")
        until(page, "document.getElementById('status').textContent === 'Removed 2.'")
        assert page.locator("#hits li").count() == 6
    finally:
        context.close()
        server.stop()
