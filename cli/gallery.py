"""`tbps gallery`: maintenance of galleries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.options import EXISTING, filter_options, json_option, output_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import EXISTING_GALLERY, GALLERY
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.gallery import Filter

__all__ = ["gallery"]


class _Age(click.ParamType[float]):
    """A number with s, m, h, d or w behind it, as seconds."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", str(value))
        if found is None:
            self.fail(f"{value!r} is no age, want one such as 30d, 12h or 2w.", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]]


AGE = _Age()


@click.group()
def gallery() -> None:
    """Index, compact, copy, merge, push, pull, verify and export galleries, and remove records.

    \b
    tbps gallery index gallery
    tbps gallery verify gallery
    """


@gallery.command()
@click.argument("path", type=EXISTING_GALLERY, metavar="GALLERY")
@click.option("--approx", is_flag=True, help="Build the graph for tbps search --approx instead.")
@verbosity_options
def index(path: Path | str, approx: bool) -> None:
    """Build GALLERY's sketch, so that exact searches read less; for a dataset the index of approximate searches.

    \b
    tbps gallery index gallery
    tbps gallery index s3://bucket/site.lance
    """
    from tbps_infer.gallery import index_with_report

    with progress_bar("Indexing", "rows") as bar:
        report = index_with_report(path, graph=approx, on_progress=bar)
    click.echo(f"{path}: {report.kind} of {report.rows} rows built")
    if report.quality:
        say(report.quality)


@gallery.command()
@click.argument("path", type=EXISTING_GALLERY, metavar="GALLERY")
@filter_options
@click.option("--record", "numbers", multiple=True, help="Only this record, or several as 3,5,9. Repeatable.")
@click.option("--path", "paths", multiple=True, type=click.Path(path_type=Path), help="Only this picture or folder.")
@click.option("--from", "hits", type=EXISTING, metavar="FILE", help="Only the records in a .csv or .jsonl of hits.")
@click.option(
    "--older-than", type=AGE, metavar="AGE", help="Only records older than 30d, 12h …: by time, else since embedded."
)
@click.option("--purge", is_flag=True, help="Leave no byte of what is or was removed in the folder.")
@click.option("--dry-run", is_flag=True, help="Only print how many records would be removed.")
@verbosity_options
def rm(
    path: Path | str,
    where: Filter,
    numbers: tuple[str, ...],
    paths: tuple[Path, ...],
    hits: Path | None,
    older_than: float | None,
    purge: bool,
    dry_run: bool,
) -> None:
    """Remove records from GALLERY, and keep embedding from bringing them back.

    At least one condition is required, unless --purge is to erase what was removed before.

    \b
    tbps gallery rm gallery --camera cam_a --before 2024-06
    tbps gallery rm gallery --from hits.csv --purge
    """
    from tbps_infer.gallery import Removal, open_gallery, removable, remove_records
    from tbps_infer.render.listed_hits import hits_records
    from tbps_infer.sources import absolute_path

    chosen = _record_numbers(numbers) if numbers else None
    if hits is not None:
        with open_gallery(path) as opened:
            listed = hits_records(hits, opened)
        chosen = listed if chosen is None else tuple(number for number in chosen if number in listed)
    below = tuple(map(absolute_path, paths)) if paths else None
    removal = Removal(where, chosen, below, older_than)
    if dry_run:
        with open_gallery(path) as opened:
            click.echo(f"{path}: {len(removable(opened, removal))} of {opened.count} records would be removed")
        return
    gone = remove_records(path, removal, purge=purge)
    click.echo(f"{path}: {gone} records removed{' and erased' if purge else ''}")
    if purge:
        say("A search or server that is open has the old data until it opens the gallery again (a server within a")
        say("second of its next request); backups and copies are not touched")
    elif gone:
        say(f"To free their disk space: tbps gallery compact {path}; to erase them: tbps gallery rm {path} --purge")


def _record_numbers(texts: tuple[str, ...]) -> tuple[int, ...]:
    parts = [part.strip() for text in texts for part in text.split(",")]
    for part in parts:
        if not part.isdecimal():
            raise click.BadParameter(f"{part!r} is not the number of a record.", param_hint="--record")
    return tuple(map(int, parts))


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@click.argument("copy", type=click.Path(path_type=Path))
@verbosity_options
def copy(path: Path, copy: Path) -> None:
    """Copy GALLERY to a new folder, also while it is being written to.

    \b
    tbps gallery copy gallery backup
    """
    from tbps_infer.gallery import copy_gallery

    count = copy_gallery(path, copy)
    click.echo(f"{copy}: {count} records copied and verified")


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@verbosity_options
def relocate(path: Path, old: Path, new: Path) -> None:
    """Tell GALLERY that its pictures below OLD are below NEW now.

    \b
    tbps gallery relocate gallery /old/disk/pictures /new/disk/pictures
    """
    from tbps_infer.gallery import relocate_gallery
    from tbps_infer.sources import absolute_path

    moved = relocate_gallery(path, absolute_path(old), absolute_path(new))
    click.echo(f"{path}: {moved} records are below {new} now")


@gallery.command()
@click.argument("path", type=EXISTING_GALLERY, metavar="GALLERY")
@verbosity_options
def compact(path: Path | str) -> None:
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
@click.argument("sources", nargs=-1, required=True, type=EXISTING_GALLERY, metavar="GALLERY...")
@output_option("Gallery to add the records to; created if it does not exist.", GALLERY)
@verbosity_options
def merge(sources: tuple[Path | str, ...], output: Path | str) -> None:
    """Add the records of every GALLERY to another gallery.

    \b
    tbps gallery merge monday tuesday -o week
    """
    _merge(sources, output)


@gallery.command()
@click.argument("path", type=EXISTING, metavar="GALLERY")
@click.argument("uri", type=GALLERY)
@click.option("--with-crops", is_flag=True, help="Keep crops of the pictures in a new dataset, to show in searches.")
@verbosity_options
def push(path: Path, uri: Path | str, with_crops: bool) -> None:
    """Add the records of GALLERY to a dataset at URI; created if it does not exist.

    \b
    tbps gallery push gallery s3://bucket/site.lance --with-crops
    """
    _merge([path], _dataset(uri), crops=with_crops)


@gallery.command()
@click.argument("uri", type=GALLERY)
@click.argument("path", type=click.Path(path_type=Path), metavar="GALLERY")
@verbosity_options
def pull(uri: Path | str, path: Path) -> None:
    """Add the records of the dataset at URI to the folder GALLERY; created if it does not exist.

    \b
    tbps gallery pull s3://bucket/site.lance gallery
    """
    _merge([_dataset(uri)], path)


def _dataset(uri: Path | str) -> Path | str:
    from tbps_infer.gallery.lance.storage import is_dataset

    if not is_dataset(uri):
        raise click.UsageError(
            f"{uri} is no dataset: want a URI such as s3://bucket/site.lance, or a path that ends with .lance."
        )
    return uri


def _merge(sources: Sequence[Path | str], output: Path | str, *, crops: bool = False) -> None:
    from tbps_infer.gallery import merge_galleries

    with progress_bar("Merging", "records") as bar:
        report = merge_galleries(sources, output, bar, crops=crops)
    removed = f", {report.removed_earlier} removed earlier and left out" if report.removed_earlier else ""
    click.echo(f"{output}: {report.added} records added, {report.known} known already{removed}")
    if report.without_crop:
        say(f"{report.without_crop} have no crop: their pictures cannot be read here")


@gallery.command()
@click.argument("path", type=EXISTING_GALLERY, metavar="GALLERY")
@verbosity_options
def verify(path: Path | str) -> None:
    """Check all files of GALLERY against their checksums.

    \b
    tbps gallery verify gallery
    """
    from tbps_infer.gallery import open_gallery

    with open_gallery(path) as opened:
        segments = opened.verify()
        word = "segment" if segments == 1 else "segments"
        click.echo(f"{path}: {opened.count} records, {segments} {word}, all as written")


@gallery.command()
@click.argument("path", type=EXISTING_GALLERY, metavar="GALLERY")
@json_option
@verbosity_options
def info(path: Path | str, as_json: bool) -> None:
    """Describe GALLERY, as tbps info does.

    \b
    tbps gallery info s3://bucket/site.lance
    """
    from tbps_infer.cli.info import describe, shown

    click.echo(shown(describe(path), as_json))


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
