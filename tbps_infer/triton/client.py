"""Asks a Triton server for embeddings, over HTTP by the open inference protocol, version 2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError, UsageError
from tbps_infer.formats.json_files import JsonObject, parse_json

__all__ = ["TritonClient"]

_SECONDS = 60
_MOST_BYTES = 64 << 20


class TritonClient:
    """The models of one bundle's repository on a server.

    Args:
        url: The server, as in ``http://localhost:8000``.
        name: What the models' names begin with.

    Raises:
        UsageError: The URL is not one of HTTP.
        BackendError: In every method: the server does not answer, or refuses; says what it says.
    """

    def __init__(self, url: str, name: str = "tbps") -> None:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise UsageError(f"{url!r} is not a URL: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"{url!r} is not the URL of a server.", "Give it as in http://localhost:8000.")
        self._url = url.rstrip("/")
        self._name = name

    def parameter(self, model: str, name: str) -> str:
        """What a model (``image`` or ``text_graph``) was configured with: its ``fingerprint``, its ``precision``."""
        answer = self._ask(f"{self._name}_{model}/config", None)
        try:
            return answer.object("parameters").object(name).text("string_value")
        except ValueError as error:
            raise self._wrong(f"{self._name}_{model} carries no {name}: {error}") from error

    def embed_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings float32 ``[n, dim]`` of crops uint8 ``[n, height, width, 3]``."""
        given = {"name": "pixels", "shape": pixels.shape, "datatype": "UINT8", "data": pixels.reshape(-1).tolist()}
        return self._infer("image", given)

    def embed_texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings float32 ``[n, dim]`` of sentences, which the server tokenizes."""
        given = {"name": "text", "shape": [len(captions), 1], "datatype": "BYTES", "data": list(captions)}
        return self._infer("text", given)

    def _infer(self, model: str, given: dict[str, Any]) -> NDArray[np.float32]:
        answer = self._ask(f"{self._name}_{model}/infer", {"inputs": [given]})
        try:
            (output,) = answer.objects("outputs")
            embeddings = np.array(output.numbers("data"), dtype=np.float32)
            return embeddings.reshape(output.integers("shape"))
        except ValueError as error:
            raise self._wrong(f"{self._name}_{model} answers something else than one embedding: {error}") from error

    def _ask(self, path: str, question: dict[str, Any] | None) -> JsonObject:
        """Send a question, and read the answer; a question of None is a GET."""
        body = None if question is None else json.dumps(question).encode()
        request = Request(f"{self._url}/v2/models/{path}", body, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=_SECONDS) as answer:
                return JsonObject(parse_json(answer.read(_MOST_BYTES)))
        except HTTPError as error:
            said = error.read(500).decode(errors="replace").strip()
            raise self._wrong(f"{path}: {error.code} {said or error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._wrong(str(getattr(error, "reason", error))) from error

    def _wrong(self, what: str) -> BackendError:
        return BackendError(
            f"The server {self._url} does not serve the bundle: {what}.",
            "Start Triton with the repository that tbps deploy triton writes.",
        )
