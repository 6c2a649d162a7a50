"""`tbps serve`: a gallery as a page and a JSON API."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.options import query_options, run_options, verbosity_options
from tbps_infer.cli.shared.parameter_types import EXISTING_GALLERY, Finite
from tbps_infer.cli.shared.progress import say

if TYPE_CHECKING:
    from tbps_infer.devices import SearchBackend
    from tbps_infer.explain.attention import AttentionGraphs
    from tbps_infer.runners.options import RunOptions

__all__ = ["serve"]


@click.command()
@click.argument("galleries", metavar="GALLERY...", type=EXISTING_GALLERY, nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", help="Address to listen on; all but loopback addresses need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8321, help="Port to listen on; 0 for any free port.")
@click.option("--token", help="Token that clients must send; safer in TBPS_SERVE_TOKEN.")
@click.option("--rate", type=Finite(0), default=20.0, help="Searches per second and client address; 0 for no limit.")
@click.option("--batch", type=click.IntRange(1), default=32, help="Maximum queries per forward pass.")
@click.option("--queue", type=click.IntRange(1), default=256, help="Maximum waiting queries; more are told to retry.")
@click.option("--cache-mb", type=click.IntRange(0), default=64, help="Memory for cached thumbnails, in MiB.")
@click.option(
    "--proxy",
    "proxies",
    metavar="ADDRESS",
    multiple=True,
    help="Address or network of a reverse proxy whose X-Forwarded-For and -Proto are believed; repeatable.",
)
@click.option(
    "--grace",
    type=click.IntRange(2),
    default=10,
    help="Seconds after SIGTERM or Ctrl-C in which the server ends; requests may take half of them.",
)
@query_options
@run_options
@verbosity_options
def serve(
    galleries: tuple[Path | str, ...],
    host: str,
    port: int,
    token: str | None,
    rate: float,
    batch: int,
    queue: int,
    cache_mb: int,
    proxies: tuple[str, ...],
    grace: int,
    search_device: str,
    search_backend: SearchBackend,
    bundle: Path | None,
    run: RunOptions,
) -> None:
    """Serve galleries as a web page and a JSON API.

    By default only this machine can connect. Galleries of the same model can be searched together.

    \b
    tbps serve gallery
    tbps serve monday tuesday
    TBPS_SERVE_TOKEN=$(openssl rand -hex 24) tbps serve gallery --host 0.0.0.0
    """
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import SearchOptions, open_gallery
    from tbps_infer.serve.app import create_app
    from tbps_infer.serve.live_gallery import name_galleries
    from tbps_infer.serve.metrics import Metrics
    from tbps_infer.serve.options import BatchOptions, Limits, ServeOptions
    from tbps_infer.serve.searcher import Searcher
    from tbps_infer.serve.server import bind
    from tbps_infer.serve.server import run as run_server

    limits = Limits(rate=rate, burst=max(1, round(3 * rate)))
    batches = BatchOptions(most=batch, queue=queue)
    options = ServeOptions(host, port, token or None, cache_mb << 20, limits=limits, batch=batches, proxies=proxies)
    models: dict[str, tuple[Path, dict[str, Path | str]]] = {}
    for name, place in name_galleries(galleries).items():
        with open_gallery(place) as opened:
            model = bundle or opened.require_bundle()
            models.setdefault(opened.model.fingerprint, (model, {}))[1][name] = place
    metrics = Metrics()
    search = SearchOptions(threads=run.threads, device=search_device, backend=search_backend)
    with bind(options) as bound:
        searchers = [
            Searcher(
                *(Encoder.open(model, run, batch_size=batch), folders, batches, metrics),
                options=search,
                attention=_attention(model),
            )
            for model, folders in models.values()
        ]
        app = create_app(searchers, options, metrics)
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of every malformed request

        def started(address: str) -> None:
            count = sum(gallery.count for searcher in searchers for gallery in searcher.galleries.values())
            say(f"Serving {count} records of {', '.join(map(str, galleries))} at {address} (Ctrl-C ends)")
            if not options.loopback:
                say("It speaks HTTP: put a proxy in front that adds TLS, and name it with --proxy (docs/serve.md).")

        def stopping() -> None:
            _end_within(grace)

        run_server(app, bound, started, grace_seconds=grace // 2, on_stop=stopping)


def _end_within(seconds: float) -> None:
    """End the process with status 1 after some seconds, whatever still runs: no thread can be ended from outside."""

    def give_up() -> None:
        running = sorted({one.name for one in threading.enumerate() if one not in (ending, threading.main_thread())})
        say(f"The server did not end within {seconds:g} s of the signal. Still running: {', '.join(running)}.")
        sys.stderr.flush()
        os._exit(1)

    ending = threading.Timer(0.9 * seconds, give_up)
    ending.daemon = True
    ending.start()
    faulthandler.dump_traceback_later(seconds, exit=True)  # needs no interpreter, which a thread may not give back


def _attention(model: Path) -> AttentionGraphs | None:
    """The bundle's attention graphs, if it was exported with them."""
    from tbps_infer.bundle import Bundle, is_bundle
    from tbps_infer.explain.attention import AttentionGraphs, has_attention

    if not is_bundle(model):
        return None
    bundle = Bundle.open(model)
    return AttentionGraphs(bundle) if has_attention(bundle) else None
