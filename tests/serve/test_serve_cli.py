"""`tbps serve` as a process: it says where it serves, answers, ends on a signal, and refuses in a sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from command_line import run, succeed
from PIL import Image

COMMAND = [sys.executable, "-m", "tbps_infer.cli.main", "serve"]


@pytest.fixture(scope="module")
def gallery(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve-cli")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (20, 60), colour).save(pictures / f"{number}.png")
    out = folder / "gallery"
    succeed("embed", tiny_bundle, pictures, "-o", out)
    return out


def _refused(*arguments: object, **variables: str) -> tuple[int, str]:
    """The exit code of a command that does not serve, and what it said."""
    done = run("serve", *arguments, env=variables)
    assert isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "codes"), [(signal.SIGTERM, (0, -signal.SIGTERM)), (signal.SIGINT, (0, 130))])
def test_it_serves_until_a_signal(gallery: Path, sent: signal.Signals, codes: tuple[int, ...]) -> None:
    process = subprocess.Popen([*COMMAND, str(gallery), "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr as said:
        found = re.fullmatch(
            r"Serving 3 records of .* at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends\)\n", said.readline()
        )
        assert found is not None
        body = json.dumps({"texts": ["a red coat"], "k": 2}).encode()
        asked = urllib.request.Request(f"{found[1]}/api/v1/search", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert len(json.load(answer)["hits"]) == 2
        process.send_signal(sent)
        assert process.wait(20) in codes
        assert "Traceback" not in said.read()


def test_another_address_without_a_token_is_refused(gallery: Path) -> None:
    code, said = _refused(gallery, "--host", "0.0.0.0", "--port", "0")
    assert code == 2 and "no token is set" in said and "TBPS_SERVE_TOKEN" in said
    code, said = _refused(gallery, "--host", "0.0.0.0", "--port", "0", TBPS_SERVE_TOKEN="mytoken")
    assert code == 2 and "at least 16" in said and "mytoken" not in said


def test_a_proxy_is_an_address(gallery: Path) -> None:
    code, said = _refused(gallery, "--port", "0", "--proxy", "10.0.0.0/8", "--proxy", "nginx.example")
    assert code == 2 and "'nginx.example' is no address" in said and "10.0.0.0/8" in said


@pytest.mark.slow
def test_on_other_addresses_it_says_that_tls_is_the_proxys(gallery: Path) -> None:
    token = {**os.environ, "TBPS_SERVE_TOKEN": "a-token-of-some-length"}
    command = [*COMMAND, str(gallery), "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=token) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Serving 3 records")
        assert "TLS" in process.stderr.readline()
        process.terminate()


def test_a_port_in_use_is_refused(gallery: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = _refused(gallery, "--port", taken.getsockname()[1])
    assert code == 2 and "cannot be used" in said and "--port" in said


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    code, said = _refused(tmp_path)
    assert code == 1 and "gallery" in said


def test_a_missing_package_names_its_extra(gallery: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from tbps_infer.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", str(gallery)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and 'pip install "tbps-infer[serve]"' in done.stderr


HANGS = {
    "a thread": "threading.Thread(target=time.sleep, args=(60,), name='tbps-model').start()",
    "the interpreter": "re.match('(a+)+$', 'a' * 60 + 'b')",  # it is not given back meanwhile
}


@pytest.mark.parametrize("hangs", HANGS)
def test_the_process_ends_in_time_whatever_runs(hangs: str) -> None:
    code = f"import re, threading, time; from tbps_infer.cli.serve import _end_within; _end_within(2); {HANGS[hangs]}"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.wait(30) == 1
    assert process.stderr is not None
    with process.stderr as stream:
        said = stream.read()
    expected = (
        "did not end within 2 s of the signal. Still running: tbps-model." if hangs == "a thread" else "Timeout"
    )
    assert expected in said


@pytest.mark.slow
def test_it_ends_within_its_grace_while_the_model_hangs(gallery: Path) -> None:
    code = (
        "import time; from tbps_infer.encoder import Encoder; from tbps_infer.cli.main import main\n"
        "Encoder.encode_texts = lambda *_: time.sleep(600)\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "serve", str(gallery), "--port", "0", "--grace", "4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr as said:
        assert "Serving 3 records" in said.readline()
        time.sleep(2)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1
        assert time.monotonic() - started < 4.5
        assert "did not end within 4 s" in (told := said.read()) and "tbps-model" in told
