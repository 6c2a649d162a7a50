"""`tbps gallery`: maintenance of galleries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.options import EXISTING, filter_options, output_option, verbosity_options
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.gallery import Filter

__all__ = ["gallery"]


@click.group()
def gallery() -> None:
    """Index, compact, merge, verify and export galleries.

    \b
    tbps gallery index gallery
    tbps gallery verify gallery
    """


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@click.option("--approx", is_flag=True, help="Build the graph for tbps search --approx instead.")
@verbosity_options
def index(path: Path, approx: bool) -> None:
    """Build GALLERY's sketch, so that exact searches read less.

    \b
    tbps gallery index gallery
    """
    from tbps_infer.gallery import index_gallery

    with progress_bar("Indexing", "rows") as bar:
        rows = index_gallery(path, graph=approx, on_progress=bar)
    click.echo(f"{path}: {'graph' if approx else 'sketch'} of {rows} rows built")


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@filter_options
@click.option("--dry-run", is_flag=True, help="Only print how many records would be removed.")
@verbosity_options
def rm(path: Path, where: Filter, dry_run: bool) -> None:
    """Remove records from GALLERY.

    At least one filter is required.

    \b
    tbps gallery rm gallery --camera cam_a --before 2024-06
    """
    from tbps_infer.gallery import Gallery, removable, remove_records

    if dry_run:
        with Gallery.open(path) as opened:
            click.echo(f"{path}: {len(removable(opened, where))} of {opened.count} records would be removed")
        return
    gone = remove_records(path, where)
    click.echo(f"{path}: {gone} records removed")
    if gone:
        say(f"To free their disk space: tbps gallery compact {path}")


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@verbosity_options
def compact(path: Path) -> None:
    """Free the disk space of removed and replaced pictures.

    \b
    tbps gallery compact gallery
    """
    from tbps_infer.gallery import compact_gallery

    report = compact_gallery(path)
    click.echo(f"{path}: {report.kept} rows kept, {report.dropped} dropped")
    if any(name.startswith("graph") for name in report.dropped_indexes):
        say(f"The graph belonged to the old rows; rebuild it: tbps gallery index --approx {path}")


@gallery.command()
@click.argument("sources", nargs=-1, required=True, type=EXISTING, metavar="GALLERY...")
@output_option("Gallery to add the records to; created if it does not exist.")
@verbosity_options
def merge(sources: tuple[Path, ...], output: Path) -> None:
    """Add the records of every GALLERY to another gallery.

    \b
    tbps gallery merge monday tuesday -o week
    """
    from tbps_infer.gallery import merge_galleries

    with progress_bar("Merging", "records") as bar:
        report = merge_galleries(sources, output, bar)
    click.echo(f"{output}: {report.added} records added, {report.known} known already")


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@verbosity_options
def verify(path: Path) -> None:
    """Check all files of GALLERY against their checksums.

    \b
    tbps gallery verify gallery
    """
    from tbps_infer.gallery import Gallery

    with Gallery.open(path) as opened:
        segments = opened.verify()
        word = "segment" if segments == 1 else "segments"
        click.echo(f"{path}: {opened.count} records, {segments} {word}, all as written")


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@output_option("Folder to create.")
@filter_options
@verbosity_options
def export(path: Path, output: Path, where: Filter) -> None:
    """Export GALLERY to vectors.npy and records.parquet.

    \b
    tbps gallery export gallery -o exported
    """
    from tbps_infer.gallery import export_gallery

    count = export_gallery(path, output, where)
    click.echo(f"{output}: {count} records in vectors.npy and records.parquet")
