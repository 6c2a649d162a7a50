"""The page over a dataset in an object store, in a real browser: pictures come from the store alone."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="moto is not installed"),
]


def test_the_demos_gallery_is_pushed_served_and_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from object_store import BUCKET, object_store
    from page_server import until
    from playwright.sync_api import sync_playwright

    tbps = [sys.executable, "-m", "tbps_infer.cli.main"]
    subprocess.run([*tbps, "demo", "-o", tmp_path / "out", "--people", "8"], check=True, capture_output=True)
    with object_store() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        uri = f"s3://{BUCKET}/demo.lance"
        subprocess.run(
            [*tbps, "gallery", "push", tmp_path / "out" / "gallery", uri, "--with-crops"],
            check=True,
            capture_output=True,
        )
        shutil.rmtree(tmp_path / "out" / "people")
        with subprocess.Popen([*tbps, "serve", uri, "--port", "0"], stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                told = server.stderr.readline()
                assert f"Serving 24 records of {uri} at " in told, told
                address = told.split(" at ")[1].split()[0]
                with sync_playwright() as playwright:
                    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                    page = browser.new_page()
                    page.goto(address)
                    until(page, "document.getElementById('gallery').textContent")
                    page.fill("#sentence", "a woman in a red coat")
                    page.keyboard.press("Enter")
                    until(page, "[...document.querySelectorAll('.hit img')].filter(i => i.naturalWidth).length >= 10")
                    assert "24 best of 24" in page.inner_text("#status")
                    page.screenshot(path=tmp_path / "page.png")
                    browser.close()
            finally:
                server.terminate()
                server.wait(30)
