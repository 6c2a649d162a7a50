"""The page over a dataset in an object store, in a real browser: pictures come from the store alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from page_server import PAGE_MARKS, chromium, until

pytestmark = [*PAGE_MARKS, pytest.mark.skipif(find_spec("moto") is None, reason="moto is not installed")]


def test_the_demos_gallery_is_pushed_served_and_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from object_store import BUCKET, object_store

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
                with chromium() as browser:
                    page = browser.new_page()
                    page.goto(address)
                    until(page, "document.getElementById('gallery').textContent")
                    page.fill("#sentence", "a woman in a red coat")
                    page.keyboard.press("Enter")
                    until(page, "[...document.querySelectorAll('.hit img')].filter(i => i.naturalWidth).length >= 10")
                    assert "24 best of 24" in page.inner_text("#status")
                    page.screenshot(path=tmp_path / "page.png")
            finally:
                server.terminate()
                server.wait(30)
