"""`tbps doctor --triton`: a server's embeddings of the golden inputs, compared with the bundle's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pytest
from command_line import fail, succeed
from places import SHIPPED_BUNDLE

from tbps_infer.bundle import Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError
from tbps_infer.triton.client import TritonClient

pytestmark = pytest.mark.usefixtures("no_driver")


class Handler(BaseHTTPRequestHandler):
    """The open inference protocol as Triton speaks it, as far as a replay needs."""

    encoder: ClassVar[Encoder]
    fingerprint: ClassVar[str]
    noise: ClassVar[float]

    def do_GET(self) -> None:
        said = {
            name: {"string_value": value}
            for name, value in (("fingerprint", self.fingerprint), ("precision", "fp32"))
        }
        self._answer({"parameters": said})

    def do_POST(self) -> None:
        (given,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        if given["name"] == "text":
            found = self.encoder.encode_texts(given["data"])
        else:
            found = self.encoder.encode_crops(np.array(given["data"], np.uint8).reshape(given["shape"]))
        found = found + self.noise
        self._answer({"outputs": [{"shape": found.shape, "data": found.reshape(-1).tolist()}]})

    def _answer(self, value: dict[str, Any]) -> None:
        known = self.path.startswith("/v2/models/tbps_")
        body = json.dumps(value if known else {"error": "unknown model"}).encode()
        self.send_response(200 if known else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.fingerprint, Handler.noise = Bundle.open(SHIPPED_BUNDLE).model.fingerprint, 0.0
    with Encoder.open(SHIPPED_BUNDLE) as Handler.encoder, ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_server_that_gives_the_golden_embeddings_is_well(url: str) -> None:
    done = succeed("doctor", SHIPPED_BUNDLE, "--triton", url)
    for branch in ("image", "text"):
        assert f"ok       triton {branch}: golden cosine 1.0000000 at least, fp32" in done.stdout


def test_another_model_or_other_numbers_are_problems(url: str) -> None:
    Handler.noise = 0.05
    done = fail(1, "doctor", SHIPPED_BUNDLE, "--triton", url)
    assert "PROBLEM  triton image: golden cosine 0." in done.stdout
    Handler.fingerprint = "0" * 64
    done = fail(1, "doctor", SHIPPED_BUNDLE, "--triton", url)
    assert "PROBLEM  triton text: the server runs the model 000000000000, and the bundle is " in done.stdout


def test_a_server_that_is_not_there_or_has_other_models_is_told(url: str) -> None:
    done = fail(1, "doctor", SHIPPED_BUNDLE, "--triton", url, "--triton-name", "other")
    assert (
        "PROBLEM  triton image: " in done.stdout
        and 'other_image/config: 400 {"error": "unknown model"}' in done.stdout
    )
    with pytest.raises(BackendError, match=r"does not serve the bundle: .*refused"):
        TritonClient("http://127.0.0.1:9").parameter("image", "fingerprint")
    assert "is not the URL of a server" in fail(2, "doctor", SHIPPED_BUNDLE, "--triton", "localhost:8000").stderr
    assert "no bundle to compare it with" in fail(2, "doctor", "--triton", url).stderr
