"""`tbps demo`: the whole pipeline on synthetic people, as the commands that a user would type."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from tbps_infer.atomic import is_vacant, new_file
from tbps_infer.cli.shared.options import seed_option, verbosity_options
from tbps_infer.errors import BackendError, UsageError

__all__ = ["demo"]

_DESCRIPTIONS = 5


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="demo-output", help="Folder to create.")
@click.option("--people", type=click.IntRange(5), default=60, help="Number of people, with three pictures each.")
@click.option(
    "--export/--no-export",
    default=None,
    help="Export the shipped checkpoint, or take the bundle that comes with this package.",
    show_default="export where PyTorch is installed",
)
@seed_option(7)
@verbosity_options
def demo(output: Path, people: int, export: bool | None, seed: int) -> None:
    """Run the whole pipeline on synthetic people.

    Draws people, exports the shipped checkpoint or takes its bundle, embeds the pictures, and searches for five of
    the people.

    \b
    tbps demo -o demo-output
    """
    from tbps_infer.data.synth import write_people

    if not is_vacant(output):
        raise UsageError(
            f"{output} already exists.", f"Remove it, or choose another folder: tbps demo -o {output}-2."
        )
    exports = _exports(export)
    started = time.monotonic()
    folder = output / "people"
    click.echo(f"# {people} synthetic people, three pictures each, into {folder}")
    described = write_people(folder, people, seed)
    listing = output / "people.csv"
    rows = [_listed(file, output) for file in sorted(folder.glob("*.jpg"))]
    _write_rows(listing, ("path", "id", "camera", "floor"), rows)
    bundle, gallery = output / "bundle", output / "gallery"
    if exports:
        _run(["export", str(_shipped("tiny")), "-o", str(bundle)])
    else:
        _copy_bundle(bundle)
    _run(["embed", str(bundle), str(listing), "-o", str(gallery)])
    step = max(len(described) // _DESCRIPTIONS, 1)
    chosen = described[::step][:_DESCRIPTIONS]
    _write_rows(output / "queries.csv", ("text", "person"), [(one.caption, one.identity) for one in chosen])
    queries, page = output / "queries.csv", output / "search.html"
    _run(["search", str(gallery), "--queries", str(queries), "-k", "5", "--html", str(page)])
    ranks = _ranks(bundle, gallery, [one.caption for one in chosen], [str(one.identity) for one in chosen])
    click.echo(f"\nThe person described is at rank {', '.join(map(str, ranks))} of {3 * people} pictures.")
    click.echo(f"The page of hits: {page.resolve()}  (all of it in {time.monotonic() - started:.0f} s)")
    click.echo("\nSearch it yourself:")
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("tbps") is None and activate.exists():
        near = activate.is_relative_to(Path.cwd())
        click.echo(f"  . {shlex.quote(os.path.relpath(activate) if near else str(activate))}")
    click.echo(f"  tbps search {shlex.quote(str(gallery))} {shlex.quote(chosen[0].caption)}")


def _exports(asked: bool | None) -> bool:
    """Whether the checkpoint is exported; raises BackendError, before anything is drawn, on a missing package."""
    from tbps_infer.cli.main import EXTRAS

    def missing(extra: str) -> list[str]:
        return [package for package in EXTRAS[extra] if find_spec(package) is None]

    if missing("cpu"):
        raise BackendError("The demo needs onnxruntime, which is not installed.", 'pip install "tbps-infer[cpu]"')
    lacking = missing("export")
    if asked and lacking:
        raise BackendError(
            f"Exporting needs {', '.join(lacking)}, which this environment lacks.",
            'pip install "tbps-infer[export]"; or leave --export out, and the bundle of the package is used.',
        )
    return not lacking if asked is None else asked


def _write_rows(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with new_file(file, UsageError) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def _listed(file: Path, output: Path) -> tuple[Path, int, str, int]:
    """Path, id and camera of a picture, which its name tells (``0001_cam_b_0.jpg``), and a floor to filter by."""
    identity, camera = file.stem.split("_", 1)
    return file.relative_to(output), int(identity), camera.rsplit("_", 1)[0], int(identity) % 3


def _shipped(name: str) -> Path:
    """A folder that comes with this package."""
    import tbps_infer

    return Path(tbps_infer.__file__).parent / "assets" / name


def _copy_bundle(bundle: Path) -> None:
    """Copy the bundle that was exported from the shipped checkpoint, as a user would."""
    shipped = _shipped("tiny-bundle")
    click.echo("\n# The bundle that comes with this package; tbps demo --export makes it anew, with PyTorch")
    click.echo(f"$ {shlex.join(['cp', '-r', str(shipped), str(bundle)])}")
    try:
        shutil.copytree(shipped, bundle)
    except shutil.Error as error:
        raise OSError(str(error.args[0][0][2])) from error


def _run(arguments: Sequence[str]) -> None:
    """Echo a command as a user would type it, and run it."""
    from tbps_infer.cli.main import cli

    click.echo(f"\n$ {shlex.join(['tbps', *arguments])}")
    with cli.make_context("tbps", list(arguments)) as context:
        cli.invoke(context)


def _ranks(bundle: Path, gallery: Path, captions: Sequence[str], identities: Sequence[str]) -> list[int]:
    """The rank of the first right picture for each caption."""
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import Gallery

    with Encoder.open(bundle) as encoder, Gallery.open(gallery) as opened:
        results = opened.search(encoder.encode_texts(captions), k=opened.count)
    return [
        next(rank for rank, hit in enumerate(hits, start=1) if str(hit.metadata["id"]) == identity)
        for hits, identity in zip(results, identities, strict=True)
    ]
