"""`tbps embed`: pictures become a gallery."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.family_options import family_options
from tbps_infer.cli.shared.options import EXISTING, encoder_options, output_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import GALLERY, Finite, Shards, Size
from tbps_infer.cli.shared.progress import progress_bar, say
from tbps_infer.cli.shared.source_options import metadata_table, source_options, tell_of_sources

if TYPE_CHECKING:
    from tbps_infer.embedding import EmbedReport
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.gallery import Reject
    from tbps_infer.pruning import PruneMode, PruneReport
    from tbps_infer.runners.options import RunOptions
    from tbps_infer.sources import Shard, SourceItem, SourceOptions, SourceReport

__all__ = ["embed"]

_SHOWN = 10


@click.command()
@click.argument("bundle", type=EXISTING)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@output_option("Gallery to create or continue: a folder, or the URI of a dataset.", GALLERY)
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
@click.option(
    "--decode-memory",
    type=Size(),
    default="1GiB",
    help="Memory for reading and decoding pictures; a picture that takes more is rejected.",
)
@source_options
@click.option("--dry-run", is_flag=True, help="Show what would be embedded, and the metadata of the first pictures.")
@click.option("--rehash", is_flag=True, help="Read every file again, even if its size and time are unchanged.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if a picture is rejected or cannot be reached.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that paths are recorded relative to. Repeatable.",
    show_default="each source's folder",
)
@click.option(
    "--prune",
    type=click.Choice(("dry-run", "yes", "all")),
    is_flag=False,
    flag_value="dry-run",
    help="Show which records have no file any more; --prune=yes removes them if they are at most half, --prune=all "
    "in any case.",
)
@click.option("--shard", type=Shards(), help="Embed only this part of the pictures, counted from 0, such as 3/64.")
@click.option("--with-crops", is_flag=True, help="Keep the crops in the dataset, so that searches can show them.")
@click.option("--forget-tombstones", is_flag=True, help="Embed pictures that were removed earlier, too.")
@click.option(
    "--watch", is_flag=True, help="Go on: embed what comes or changes in the folders and lists, until stopped."
)
@click.option("--poll", type=Finite(0.05), metavar="SECONDS", help="With --watch: look so often instead.")
@encoder_options
@family_options
@verbosity_options
def embed(
    bundle: Path,
    sources: tuple[str, ...],
    output: Path | str,
    batch_size: int,
    dtype: Any,
    workers: int | None,
    decode_memory: int,
    reading: SourceOptions,
    dry_run: bool,
    rehash: bool,
    strict: bool,
    roots: tuple[Path, ...],
    prune: PruneMode | None,
    shard: Shard | None,
    with_crops: bool,
    forget_tombstones: bool,
    watch: bool,
    poll: float | None,
    run: RunOptions,
    load: LoadOptions,
) -> int:
    """Embed pictures with BUNDLE into a gallery.

    A SOURCE is a folder, a picture, a quoted glob pattern, or a list: a .txt file with a path per line, or a .csv or
    .jsonl file with the column path and optional columns such as id, camera and time; - is a list on standard input.
    Run the command again to embed only new and changed pictures, or to continue after an interruption. A picture
    that cannot be read keeps its record; one that was removed with tbps gallery rm is left out.

    \b
    tbps embed bundle pictures/ -o gallery
    tbps embed bundle monday.csv "tuesday/*.jpg" -o gallery
    tbps embed bundle bounding_box_test/ -o gallery --name-pattern market1501 --dry-run
    tbps embed bundle pictures/ -o gallery --prune=yes
    tbps embed bundle pictures/ -o gallery --watch
    tbps embed bundle /mnt/cameras -o s3://bucket/site.lance --shard 3/64
    """
    from tbps_infer.embedding import EmbedOptions, embed_gallery
    from tbps_infer.encoder import Encoder
    from tbps_infer.lists import is_stream
    from tbps_infer.pruning import prune_gallery, source_folder, source_scope
    from tbps_infer.sources import absolute_path, source_items

    if poll is not None and not watch:
        raise click.UsageError("--poll needs --watch.")
    if watch:
        _require_followed(sources)
        reading = replace(reading, empty_lists=True)
    if prune is not None and any(map(is_stream, sources)):
        raise click.UsageError("--prune cannot look at a list on standard input or in a pipe again; use a file.")

    read = _reader(sources, reading, shard)
    if dry_run:
        found = read()
        metadata_table(found.items)
        click.echo(f"{len(found.items)} pictures, {len(found.unmatched)} whose names do not follow the pattern")
        return 0
    items = [] if watch else read().items
    options = EmbedOptions(
        batch_size=batch_size,
        workers=workers,
        rehash=rehash,
        dtype=dtype,
        bundle_path=bundle.resolve(),
        decode_memory=decode_memory,
        roots=tuple(map(absolute_path, roots)),
        source_folders=tuple(dict.fromkeys(map(source_folder, sources))),
        forget_tombstones=forget_tombstones,
        crops=with_crops,
    )
    with Encoder.open(bundle, run, batch_size=batch_size, load=load) as encoder:

        def embed_some(some: Sequence[SourceItem]) -> EmbedReport:
            started = time.monotonic()
            with nullcontext() if watch else progress_bar("Embedding", "pictures") as bar:
                report = embed_gallery(encoder, some, output, options, bar)
            _tell(output, report, time.monotonic() - started)
            return report

        def prune_gone() -> None:
            scopes = [source_scope(source, source_items(source, reading)) for source in sources]
            assert prune is not None
            _tell_pruned(output, prune_gallery(output, scopes, prune))

        if watch:
            _watch(lambda: read().items, embed_some, sources, poll, prune_gone if prune else None)
            return 0
        report = embed_some(items)
    if prune is not None:
        prune_gone()
    return int(report.all_rejected or (strict and bool(report.rejects or report.unreachable)))


def _reader(sources: Sequence[str], reading: SourceOptions, shard: Shard | None) -> Callable[[], SourceReport]:
    """Reads the sources, or a shard of them, whenever it is called, and tells about them once."""
    from tbps_infer.sources import read_sources_with_report

    told = False

    def read() -> SourceReport:
        nonlocal told
        found = read_sources_with_report(sources, reading)
        if not told:
            tell_of_sources(found, str(reading.zone))
            told = True
        return found if shard is None else replace(found, items=[item for item in found.items if item in shard])

    return read


def _watch(
    read: Callable[[], list[SourceItem]],
    embed_some: Callable[[Sequence[SourceItem]], EmbedReport],
    sources: Sequence[str],
    poll: float | None,
    prune: Callable[[], None] | None,
) -> None:
    """Follow the folders and lists until SIGTERM or SIGINT."""
    from tbps_infer.lists import list_format
    from tbps_infer.pruning import source_folder
    from tbps_infer.sources import absolute_path
    from tbps_infer.watching import WatchOptions, watch_sources

    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    say(f"Watching {', '.join(sources)}; end it with SIGTERM or Ctrl-C")
    followed = [absolute_path(source) if list_format(source) else source_folder(source) for source in sources]
    watch_sources(read, embed_some, followed, stop, WatchOptions(poll), prune)
    say("Stopped; everything that was embedded is committed")


def _require_followed(sources: Sequence[str]) -> None:
    from tbps_infer.errors import UsageError
    from tbps_infer.lists import is_stream, list_format

    for source in sources:
        path = Path(source)
        if is_stream(source) or (path.exists() and not path.is_dir() and list_format(source) is None):
            raise UsageError(
                f"{source} is neither a folder nor a .csv or .jsonl list, which --watch follows.",
                "Embed it without --watch.",
            )


def _tell(output: Path | str, report: EmbedReport, seconds: float) -> None:
    """The counts on standard output, and the pictures that need a look on standard error."""
    rare = (
        (report.moved, "moved"),
        (len(report.unreachable), "not reachable, records kept"),
        (report.removed_earlier, "removed earlier, left out"),
    )
    others = "".join(f" + {count} {what}" for count, what in rare if count)
    click.echo(
        f"{output}: {report.total} pictures = {report.embedded} embedded + {report.unchanged} unchanged "
        f"+ {report.rejected} rejected{others}, in {seconds:.1f} s"
    )
    _tell_problems("rejected", report.rejects, output)
    _tell_problems("not reachable", report.unreachable, output)
    if report.all_rejected:
        say("No picture could be embedded. Are these pictures, and can this user read them?")
    if report.removed_earlier:
        say("To embed again what was removed: --forget-tombstones")


def _tell_problems(what: str, problems: Sequence[Reject], output: Path | str) -> None:
    for problem in problems[:_SHOWN]:
        say(f"  {what} {problem.path}: {problem.reason}")
    if len(problems) > _SHOWN:
        say(f"  and {len(problems) - _SHOWN} more; list all with: tbps info {output}")


def _tell_pruned(output: Path | str, report: PruneReport) -> None:
    verb = "removed" if report.removed else "would be removed"
    click.echo(
        f"{output}: {len(report.gone)} of {report.recorded} records and {len(report.rejects)} rejects {verb}: "
        "their files are gone"
    )
    for path in (*report.gone, *report.rejects)[:_SHOWN]:
        say(f"  {path}")
    if (report.gone or report.rejects) and not report.removed:
        say("To remove them: --prune=yes")
