"""`tbps embed`: pictures become a gallery."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import EXISTING, encoder_options, output_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import Size
from tbps_infer.cli.shared.progress import progress_bar, say
from tbps_infer.cli.shared.source_options import metadata_table, source_options, tell_of_sources

if TYPE_CHECKING:
    from tbps_infer.runners.options import RunOptions
    from tbps_infer.sources import SourceOptions

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
    show_default="one per core, at most 8",
)
@click.option(
    "--decode-memory",
    type=Size(),
    default="1GiB",
    help="Memory for reading and decoding pictures; a picture that takes more is rejected.",
)
@source_options
@click.option("--dry-run", is_flag=True, help="Show what would be embedded, and the metadata of the first pictures.")
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
    decode_memory: int,
    reading: SourceOptions,
    dry_run: bool,
    rehash: bool,
    strict: bool,
    run: RunOptions,
) -> int:
    """Embed pictures with BUNDLE into a gallery.

    A SOURCE is a folder, a picture, a quoted glob pattern, or a list: a .txt file with a path per line, or a .csv or
    .jsonl file with the column path and optional columns such as id, camera and time; - is a list on standard input.
    Run the command again to embed only new and changed pictures, or to continue after an interruption.

    \b
    tbps embed bundle pictures/ -o gallery
    tbps embed bundle monday.csv "tuesday/*.jpg" -o gallery
    tbps embed bundle bounding_box_test/ -o gallery --name-pattern market1501 --dry-run
    """
    from tbps_infer.embedding import EmbedOptions, embed_gallery
    from tbps_infer.encoder import Encoder
    from tbps_infer.sources import read_sources_with_report

    found = read_sources_with_report(sources, reading)
    tell_of_sources(found, str(reading.zone))
    if dry_run:
        metadata_table(found.items)
        click.echo(f"{len(found.items)} pictures, {len(found.unmatched)} whose names do not follow the pattern")
        return 0
    options = EmbedOptions(
        batch_size=batch_size,
        workers=workers,
        rehash=rehash,
        dtype=dtype,
        bundle_path=bundle.resolve(),
        decode_memory=decode_memory,
    )
    started = time.monotonic()
    with Encoder.open(bundle, run, batch_size=batch_size) as encoder, progress_bar("Embedding", "pictures") as bar:
        report = embed_gallery(encoder, found.items, output, options, bar)
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
