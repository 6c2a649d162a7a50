"""The page in a real browser: its address, hits without end, what there is before a search, and refining one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_server import PAGE_MARKS, Server, until
from serve_world import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

pytest_plugins = ["page_fixtures"]
pytestmark = PAGE_MARKS

COUNT = 300
_LABELS = "hits => hits.map(hit => hit.getAttribute('aria-label'))"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that is not loaded yet; a script's error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = context.new_page()
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    yield made
    context.close()
    assert not problems


def _open(page: Page, server: Server, query: str = "") -> None:
    page.goto(server.address + query)
    _settled(page)


def _settled(page: Page) -> None:
    until(page, "document.getElementById('gallery').textContent && document.getElementById('busy').hidden")
    page.wait_for_selector(".hit")


def _ranks(page: Page) -> list[str]:
    return page.locator(".hit .caption b").all_inner_texts()


def _top(page: Page) -> str:
    """The id of the first card that is not under the header."""
    found: str = page.evaluate(
        "[...document.querySelectorAll('.hit')].find(hit => hit.getBoundingClientRect().top >= "
        "document.querySelector('header').offsetHeight - 1).id"
    )
    return found


def _press(page: Page, target: Locator | str) -> None:
    """Press what asks the server, and wait for the answer."""
    with page.expect_response(lambda response: "/api/v1/search" in response.url or "/api/v1/browse" in response.url):
        if isinstance(target, str):
            page.keyboard.press(target)
        else:
            target.click()
    _settled(page)


def test_the_address_brings_everything_back(page: Page, server: Server, browser: Browser) -> None:
    _open(page, server)
    page.fill("#sentence", "a woman in a red coat")
    _press(page, "Enter")
    page.click("#filters-open")
    _press(page, page.locator("#cameras button:has-text('cam_a')"))
    page.click("#filters-open")
    for _ in range(8):
        page.mouse.move(600, 600)
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(150)
    until(page, "new URLSearchParams(location.search).get('at') > 20")
    page.wait_for_timeout(400)
    seen, address = _top(page), page.url
    page.reload()
    _settled(page)
    until(page, "scrollY > 100")
    assert _top(page) == seen
    assert page.input_value("#sentence") == "a woman in a red coat" and page.inner_text("#filters-count") == "1"
    other = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    other.goto(address)  # somebody else, who was sent it
    _settled(other)
    until(other, "scrollY > 100")
    assert _top(other) == seen and "cam_b" not in (other.get_attribute(f"#{seen}", "aria-label") or "")
    other.context.close()


def test_back_and_forward_go_through_the_queries(page: Page, server: Server) -> None:
    _open(page, server)
    for sentence in ("a hat", "a backpack"):
        page.fill("#sentence", sentence)
        _press(page, "Enter")
    page.go_back()
    until(page, "document.getElementById('sentence').value === 'a hat'")
    page.go_back()
    until(page, "!document.getElementById('start').hidden && document.getElementById('sentence').value === ''")
    page.go_forward()
    page.go_forward()
    until(page, "document.getElementById('sentence').value === 'a backpack'")
    until(page, "document.querySelectorAll('.hit .caption').length > 0")


def test_hits_go_on_while_scrolling_and_only_those_in_sight_are_made(page: Page, server: Server) -> None:
    _open(page, server, "/?q=a+hat")
    most = 0
    for _ in range(60):
        page.mouse.move(600, 600)
        page.mouse.wheel(0, 1500)
        page.wait_for_timeout(80)
        most = max(most, page.locator(".hit").count())
        if _ranks(page)[-1] == str(COUNT):
            break
    assert _ranks(page)[-1] == str(COUNT) and most < 120
    assert page.get_attribute(".hit:last-child", "aria-posinset") == str(COUNT)
    assert page.get_attribute(".hit:last-child", "aria-setsize") == str(COUNT)
    page.focus(".hit:last-child")
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.id") == "hit-0"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.id") == f"hit-{COUNT - 1}"


def test_before_a_search_there_are_the_newest_and_when_and_where(page: Page, server: Server) -> None:
    _open(page, server)
    assert (page.get_attribute("#hit-0", "aria-label") or "").endswith(f"{COUNT - 1:03d}.png")
    assert page.locator("#start-cameras button").all_inner_texts() == ["cam_a150", "cam_b150"]
    bars = page.locator("#timeline button:enabled")
    assert bars.count() > 5
    bars.nth(0).focus()
    page.keyboard.press("ArrowRight")
    said = page.evaluate("document.activeElement.getAttribute('aria-label')")
    _press(page, "Enter")
    count = int(said.split(": ")[1].split(" ")[0])
    assert page.inner_text("#newest-title") == f"Newest of {count} that pass the filters"
    assert "after=2024" in page.url and page.input_value("#before")
    _press(page, page.locator("#start-clear"))
    assert page.inner_text("#newest-title") == f"Newest of {COUNT}"
    _press(page, page.locator("#start-cameras button:has-text('cam_b')"))
    assert all("cam_b" in text for text in page.locator(".hit").all_inner_texts())


def test_a_day_of_the_calendar_is_a_filter(page: Page, server: Server) -> None:
    _open(page, server, "/?after=2024-03-01T00:00&q=a+hat")
    page.click("#filters-open")
    page.click("#calendar-open")
    page.wait_for_selector("#calendar-days button")
    assert page.inner_text("#calendar-title") == "March 2024"
    day = page.locator("#calendar-days button[aria-label^='2024-03-05: 1 picture']")
    _press(page, day)
    assert [page.input_value(field) for field in ("#after", "#before")] == ["2024-03-05T00:00", "2024-03-06T00:00"]
    until(page, "document.querySelectorAll('.hit').length === 1")
    _press(page, page.locator("#calendar-days button[aria-label^='2024-03-08']"))
    until(page, "document.querySelectorAll('.hit').length === 4")


def test_many_cameras_are_a_list_to_search_in(page: Page, server: Server) -> None:
    def with_cameras(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["cameras"] = {f"hall {number:03d}": number for number in range(1, 151)} | {"cam_a": 150}
        route.fulfill(response=answer, body=json.dumps(told))

    page.route("**/api/v1/columns*", with_cameras)
    _open(page, server)
    assert page.locator("#start-cameras button").count() == 9
    page.click("#start-cameras button:has-text('All 151 cameras')")
    assert page.evaluate("document.activeElement.id") == "camera-find"
    assert page.locator("#cameras button").count() == 40 and "111 more" in page.inner_text("#cameras-rest")
    page.keyboard.type("cam")
    assert page.locator("#cameras button").all_inner_texts() == ["cam_a150"]
    _press(page, page.locator("#cameras button"))
    page.fill("#camera-find", "hall 07")
    assert page.locator("#cameras button").count() == 10


def test_judging_moves_the_query_by_weights_that_are_shown(page: Page, server: Server) -> None:
    _open(page, server, "/?q=a+hat")
    fourth = page.get_attribute("#hit-3", "aria-label") or ""
    page.focus("#hit-3")
    _press(page, "+")
    assert (page.get_attribute("#hit-0", "aria-label") or "").endswith(f"judged right, {fourth.split(', ')[-1]}")
    assert page.inner_text("#judged-count") == "Judged: 1 right, 0 wrong" and "right=" in page.url
    assert [page.input_value(f"#rocchio-{name}") for name in ("query", "relevant", "not_relevant")] == [
        "1",
        "0.75",
        "0.15",
    ]
    before = page.locator("#hit-0 .caption span").inner_text()
    with page.expect_response("**/api/v1/search"):
        page.fill("#rocchio-relevant", "0.2")
    _settled(page)
    assert float(page.locator("#hit-0 .caption span").inner_text()) < float(before)
    page.reload()
    _settled(page)
    assert page.inner_text("#rocchio-relevant-value") == "0.20"
    _press(page, page.locator("#judged-clear"))
    assert page.get_attribute("#hit-3", "aria-label") == fourth and not page.is_visible("#judged")


def test_sentences_are_a_set(page: Page, server: Server) -> None:
    _open(page, server, "/?q=a+hat")
    page.click("#sentence-add")
    page.keyboard.type("a red coat")
    _press(page, "Enter")
    average = _ranks(page), page.locator(".hit .caption span").all_inner_texts()
    with page.expect_response("**/api/v1/search"):
        page.select_option("#combine", "any")
    _settled(page)
    best = page.locator(".hit .caption span").all_inner_texts()
    assert best != average[1] and "combine=any" in page.url
    page.reload()
    _settled(page)
    assert page.locator("#more-sentences input").input_value() == "a red coat"
    assert page.locator(".hit .caption span").all_inner_texts() == best
    _press(page, page.locator("#more-sentences button"))
    assert not page.is_visible("#combination")


def test_stripes_of_a_hit_are_searched_alone(page: Page, server: Server) -> None:
    _open(page, server, "/?q=a+hat")
    page.click("#hit-0 .shot")
    page.wait_for_selector("#detail[open]")
    until(page, "document.getElementById('detail-picture').naturalWidth > 0")
    page.click("#parts button[data-part='1']")
    assert page.get_attribute("#parts button[data-part='1']", "aria-pressed") == "true"
    box = page.locator("#detail-picture").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 4)
    page.mouse.up()
    assert page.inner_text("#parts-search") == "Search with fine.0"
    _press(page, page.locator("#parts-search"))
    assert "part=" in page.url and "fine.0 of record" in page.inner_text("#examples")
    page.fill("#sentence", "")
    _press(page, "Enter")
    page.click("#hit-0 .shot")
    shares = page.locator("#parts li > span:last-child").all_inner_texts()
    assert [share.split(" of ")[1] for share in shares] == ["0.000", "0.000", "0.500", "0.000"]


def test_weights_of_parts_change_what_they_count(page: Page, server: Server) -> None:
    _open(page, server, "/?q=a+hat")
    page.click("#part-weights-open")
    with page.expect_response("**/api/v1/search"):
        page.fill("#part-weight-global", "0")
    _settled(page)
    assert page.inner_text("#part-weights-count") == "1" and "weight=global%3A0" in page.url
    page.click("#hit-0 .shot")
    assert page.locator("#parts li > span:last-child").first.inner_text() == "0.000 of 0.000"
    assert "of 2 at most" in page.inner_text("#detail-score")


def test_hits_are_grouped_in_words(page: Page, server: Server) -> None:
    _open(page, server, "/?q=a+hat&group=id")
    assert page.inner_text("#hit-0 .stack") == "2 pictures"
    page.evaluate("window.kept = true")
    page.click("#filters-open")

    def with_stacks(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        for hit in told["hits"][1:4]:
            hit["stack"] = told["hits"][0]["rank"]
        route.fulfill(response=answer, body=json.dumps(told))

    page.route("**/api/v1/search", with_stacks)
    with page.expect_response("**/api/v1/search"):
        page.select_option("#group", "alike")
    until(page, "document.querySelector('#hit-0 .stack').textContent === '3 more like it'")
    assert "3 more like it" in (page.get_attribute("#hit-0", "aria-label") or "")
    page.click("#filters-open")
    page.click("#hit-0 .shot")
    assert page.inner_text("#alike-title") == "4 pictures that look the same"
    page.click("#alike button >> nth=2")
    assert page.inner_text("#detail-score").startswith("Rank 3 ")


def test_words_that_the_model_does_not_know_are_underlined(page: Page, server: Server) -> None:
    _open(page, server, "/?q=a+hat+穿+and+a+coat")
    assert page.locator("#sentence-words u").all_inner_texts() == ["穿"]
    assert page.evaluate("document.getElementById('sentence-words').textContent") == page.input_value("#sentence")


def test_galleries_are_chosen_alone_and_together(page: Page, tmp_path: Path) -> None:
    worlds = []
    for name, numbers in (("monday", range(5)), ("tuesday", range(5, 12))):
        (tmp_path / name).mkdir()
        worlds.append(World(tmp_path / name))
        worlds[-1].add(numbers)
    both = Server(worlds[0], others=worlds[1:])
    _open(page, both, "/?q=a+hat")
    choices = page.locator("#galleries option").all_inner_texts()
    assert choices == ["monday (5)", "tuesday (7)", "monday + tuesday, together"]
    for choice, count in ((choices[1], 7), (choices[2], 12)):
        with page.expect_response("**/api/v1/search"):
            page.select_option("#galleries", label=choice)
        until(page, f"document.querySelectorAll('.hit .caption').length === {count}")
    page.reload()
    until(page, "document.querySelectorAll('.hit .caption').length === 12")
    assert page.inner_text("#gallery") == "12 records"
    until(page, "[...document.querySelectorAll('.hit img')].every(each => each.naturalWidth)")
    assert len({label.split(", ")[-1] for label in page.eval_on_selector_all(".hit", _LABELS)}) == 12
    page.focus("#hit-0")
    _press(page, "m")
    assert "like=" in page.url and len(_ranks(page)) == 11
    both.stop()
