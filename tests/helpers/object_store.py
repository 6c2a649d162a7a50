"""An object store on loopback: moto's S3, with or without conditional writes, in a process of its own.

In the tests' own process it would wait for Python's lock while Lance waits for its answer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["BUCKET", "object_store"]

BUCKET = "galleries"


@contextmanager
def object_store(*, conditional: bool = True) -> Iterator[dict[str, str]]:
    """A store with an empty bucket; yields the environment that names it."""
    command = [sys.executable, __file__, "conditional" if conditional else "unconditional"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint = process.stdout.readline().strip()
            assert endpoint.startswith("http://127.0.0.1:")
            yield {
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "not-a-secret",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT": endpoint,
                "AWS_ALLOW_HTTP": "true",
            }
        finally:
            process.kill()


def _unconditional(app: Callable[..., Any]) -> Callable[..., Any]:
    """The store as one that never heard of If-None-Match."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return app(environ, start)

    return answer


def _serve(conditional: bool) -> None:
    import threading

    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app: Any = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app if conditional else _unconditional(app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "-", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=BUCKET)
    print(endpoint, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    _serve(sys.argv[1] == "conditional")
