"""`tbps embed`: pictures become a gallery."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import EXISTING, encoder_options, output_option, verbosity_options
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.runners.options import RunOptions

__all__ = ["embed"]

_REJECTS_SHOWN = 10


@click.command()
@click.argument("bundle", type=EXISTING)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@output_option("Gallery folder to create or continue.")
@click.option(
    "--dtype",
    type=click.Choice(("float16", "float32", "int8")),
    help="Number format of a new gallery.",
    show_default="float16",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Threads that read and decode pictures.",
    show_default="one per core, at most 16",
)
@click.option("--no-recursive", is_flag=True, help="Do not search subfolders.")
@click.option("--rehash", is_flag=True, help="Read every file again, even if its size and time are unchanged.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if a picture is rejected.")
@encoder_options
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
    """Embed pictures with BUNDLE into a gallery.

    A SOURCE is a folder, a picture, a quoted glob pattern, or a list: a .txt file with a path per line, or a .csv or
    .jsonl file with the column path and optional columns such as id, camera and time. Run the command again to
    embed only new and changed pictures, or to continue after an interruption.

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
        say(f"  and {report.rejected - _REJECTS_SHOWN} more; list all with: tbps info {output}")
    return int(strict and report.rejected > 0)
