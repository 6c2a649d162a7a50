"""An object store on loopback, in this process: moto's S3, with or without conditional writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

__all__ = ["BUCKET", "object_store"]

BUCKET = "galleries"


class _Silent(WSGIRequestHandler):
    def log(self, *_: object) -> None:  # type: ignore[override]
        pass


def _unconditional(app: Callable[..., Any]) -> Callable[..., Any]:
    """The store as one that never heard of If-None-Match."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return app(environ, start)

    return answer


@contextmanager
def object_store(*, conditional: bool = True) -> Iterator[dict[str, str]]:
    """A store with an empty bucket; yields the environment that names it."""
    app: Any = DomainDispatcherApplication(create_backend_app)
    server = make_server(
        "127.0.0.1", 0, app if conditional else _unconditional(app), threaded=True, request_handler=_Silent
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="-"
    )
    try:
        client.create_bucket(Bucket=BUCKET)
        yield environment
    finally:
        client.close()
        server.shutdown()
        server.server_close()
        thread.join()
