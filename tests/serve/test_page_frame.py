"""The page in a real browser: back to the video that a hit was cropped from."""

from __future__ import annotations

from pathlib import Path

from page_server import PAGE_MARKS, Server, chromium, until
from serve_world import World
from videos import write_video

pytestmark = PAGE_MARKS


def test_a_hit_of_a_video_shows_its_frame_and_one_of_a_picture_does_not(tmp_path: Path) -> None:
    video = write_video(tmp_path / "gate.mp4", [k / 10 for k in range(60)])
    world = World(tmp_path)
    world.add_with({"video": str(video), "offset": 3.0, "box": "124 40 30 70"}, {"camera": "yard"})
    server = Server(world)
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.goto(server.address)
            until(page, "document.getElementById('gallery').textContent && document.getElementById('busy').hidden")
            seen = {}
            for place in range(2):
                page.locator(".hit").nth(place).click()
                page.wait_for_selector("#detail[open]")
                name = page.inner_text("#detail-title")
                seen[name] = page.locator("#detail-frame").is_visible()
                if seen[name]:
                    page.click("#detail-frame")
                    until(page, "document.querySelectorAll('#detail-panel a.frame img').length === 2")
                    widths = "[...document.querySelectorAll('#detail-panel img')].map((one) => one.naturalWidth)"
                    until(page, f"{widths}.every((width) => width > 0)")
                    assert page.evaluate(widths) == [320, 7 * 320 + 6 * 4]
                page.keyboard.press("Escape")
                page.wait_for_selector("#detail[open]", state="detached")
            assert seen == {"0.png": True, "1.png": False}
    finally:
        server.stop()
