"""`tbps embed`: pictures become a gallery."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import EXISTING, batch_size_option, output_option, run_options, verbosity_options
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.runners.options import RunOptions

__all__ = ["embed"]

_REJECTS_SHOWN = 10


@click.command()
@click.argument("bundle", type=EXISTING)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@output_option("The gallery's folder; one that is there is continued.")
@batch_size_option(32)
@click.option(
    "--dtype",
    type=click.Choice(("float16", "float32", "int8")),
    help="How a new gallery stores numbers.  [default: float16]",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Threads that read and decode.  [default: one per core, at most 8]"
)
@click.option("--no-recursive", is_flag=True, help="Leave out the folders inside a folder.")
@click.option("--rehash", is_flag=True, help="Read every file again, even with the size and time it had.")
@click.option("--strict", is_flag=True, help="Exit 1 when a picture is rejected.")
@run_options
@verbosity_options
def embed(
    bundle: Path,
    sources: tuple[str, ...],
    output: Path,
    batch_size: int,
    dtype: Any,
    workers: int | None,
    no_recursive: bool,
    rehash: bool,
    strict: bool,
    run: RunOptions,
) -> int:
    """Embed the pictures of SOURCE... with BUNDLE into a gallery.

    A SOURCE is a folder, a picture, a quoted glob, or a .txt, .csv or .jsonl list with the columns path, id, camera,
    time and any other. Run again, only new and changed pictures are embedded; interrupted, it carries on.

    \b
    tbps embed bundle pictures/ -o gallery
    tbps embed bundle monday.csv "tuesday/*.jpg" -o gallery
    """
    from tbps_infer.embedding import EmbedOptions, embed_gallery
    from tbps_infer.encoder import Encoder
    from tbps_infer.sources import read_sources

    items = read_sources(sources, recursive=not no_recursive)
    options = EmbedOptions(
        batch_size=batch_size, workers=workers, rehash=rehash, dtype=dtype, bundle_path=bundle.resolve()
    )
    started = time.monotonic()
    with Encoder.open(bundle, run, batch_size=batch_size) as encoder, progress_bar("Embedding", "pictures") as bar:
        report = embed_gallery(encoder, items, output, options, bar)
    seconds = time.monotonic() - started
    click.echo(
        f"{output}: {report.total} pictures = {report.embedded} embedded + {report.unchanged} unchanged "
        f"+ {report.rejected} rejected, in {seconds:.1f} s"
    )
    for reject in report.rejects[:_REJECTS_SHOWN]:
        say(f"  rejected {reject.path}: {reject.reason}")
    if report.rejected > _REJECTS_SHOWN:
        say(f"  and {report.rejected - _REJECTS_SHOWN} more; tbps info {output} lists them all")
    return int(strict and report.rejected > 0)
