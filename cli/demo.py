"""`tbps demo`: the whole pipeline on synthetic people, as the commands that a user would type."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.atomic import is_vacant, new_file
from tbps_infer.cli.shared.options import seed_option, verbosity_options
from tbps_infer.errors import BackendError, UsageError

if TYPE_CHECKING:
    from tbps_infer.gallery import Hit

__all__ = ["demo"]

_DESCRIPTIONS = 5
_PEOPLE, _PEOPLE_WALKING = 60, 12


@dataclass(frozen=True)
class _Material:
    """What there is to search.

    Attributes:
        listing: The pictures, as `tbps embed` reads them.
        descriptions: Sentences with the person that each is about.
        person_of: Who is in a hit's picture; None if that cannot be told.
        tracked: Whether an id is a track and not a person: then the best hit of each is shown, unjudged.
    """

    listing: Path
    descriptions: Sequence[tuple[str, int]]
    person_of: Callable[[Hit], int | None]
    tracked: bool = False


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="demo-output", help="Folder to create.")
@click.option("--video", is_flag=True, help="Begin with the videos of two cameras. Needs the extra [video].")
@click.option(
    "--people",
    type=click.IntRange(5),
    help="Number of people.",
    show_default=f"{_PEOPLE} with three pictures each, {_PEOPLE_WALKING} with --video",
)
@click.option(
    "--export/--no-export",
    default=None,
    help="Export the shipped checkpoint, or take the bundle that comes with this package.",
    show_default="export where PyTorch is installed",
)
@seed_option(7)
@verbosity_options
def demo(output: Path, video: bool, people: int | None, export: bool | None, seed: int) -> None:
    """Run the whole pipeline on synthetic people.

    Draws people, exports the shipped checkpoint or takes its bundle, embeds the pictures, and searches for five of
    the people. With --video the pictures are cropped out of two street videos by a detector that finds drawn people
    alone.

    \b
    tbps demo -o demo-output
    tbps demo --video -o demo-video
    """
    if not is_vacant(output):
        raise UsageError(
            f"{output} already exists.", f"Remove it, or choose another folder: tbps demo -o {output}-2."
        )
    exports = _exports(export)
    started = time.monotonic()
    if video:
        material = _crops_of_videos(output, people or _PEOPLE_WALKING, seed)
    else:
        material = _pictures(output, people or _PEOPLE, seed)
    bundle, gallery = output / "bundle", output / "gallery"
    if exports:
        _run(["export", str(_shipped("tiny")), "-o", str(bundle)])
    else:
        _copy_bundle(bundle)
    _run(["embed", str(bundle), str(material.listing), "-o", str(gallery)])
    step = max(len(material.descriptions) // _DESCRIPTIONS, 1)
    chosen = material.descriptions[::step][:_DESCRIPTIONS]
    queries, page = output / "queries.csv", output / "search.html"
    _write_rows(queries, ("text",) if material.tracked else ("text", "person"), chosen)
    per_id = ["--per-id"] if material.tracked else []
    _run(["search", str(gallery), "--queries", str(queries), "-k", "5", *per_id, "--html", str(page)])
    ranks, count = _ranks(bundle, gallery, chosen, material.person_of)
    click.echo(f"\nThe person described is at rank {', '.join(ranks)} of {count} pictures.")
    click.echo(f"The page of hits: {page.resolve()}  (all of it in {time.monotonic() - started:.0f} s)")
    _say_how_to_go_on(gallery, chosen[0][0])


def _pictures(output: Path, people: int, seed: int) -> _Material:
    """Three pictures of everybody, and a list of them."""
    from tbps_infer.data.synth import write_people

    folder, listing = output / "people", output / "people.csv"
    click.echo(f"# {people} synthetic people, three pictures each, into {folder}")
    described = write_people(folder, people, seed)
    rows = [_listed(file, output) for file in sorted(folder.glob("*.jpg"))]
    _write_rows(listing, ("path", "id", "camera", "floor"), rows)
    descriptions = [(one.caption, one.identity) for one in described]
    return _Material(listing, descriptions, lambda hit: int(str(hit.metadata["id"])))


def _crops_of_videos(output: Path, people: int, seed: int) -> _Material:
    """The best crops of everybody who walks through the videos of two cameras."""
    from tbps_infer.data.scenes import read_truth

    scenes, crops = output / "scenes", output / "crops"
    _run(["data", "scenes", "-o", str(scenes), "--people", str(people), "--seed", str(seed)])
    _run(["crop", str(scenes), "-o", str(crops), "--detector", str(_shipped("drawn-people") / "detector.json")])
    truth = read_truth(scenes)

    def person_of(hit: Hit) -> int | None:
        left, top, width, height = map(float, str(hit.metadata["box"]).split())
        frame = int(str(hit.metadata["frame"]))
        return truth.identity(str(hit.metadata["camera"]), frame, (left, top, width, height))

    return _Material(crops / "crops.csv", truth.descriptions, person_of, tracked=True)


def _say_how_to_go_on(gallery: Path, sentence: str) -> None:
    click.echo("\nSearch it yourself:")
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("tbps") is None and activate.exists():
        near = activate.is_relative_to(Path.cwd())
        click.echo(f"  . {shlex.quote(os.path.relpath(activate) if near else str(activate))}")
    click.echo(f"  tbps search {shlex.quote(str(gallery))} {shlex.quote(sentence)}")


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
        writer.writerows(row[: len(columns)] for row in rows)


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


def _ranks(
    bundle: Path,
    gallery: Path,
    descriptions: Sequence[tuple[str, int]],
    person_of: Callable[[Hit], int | None],
) -> tuple[list[str], int]:
    """The rank of the first right picture for each sentence, "none" without one, and how many pictures there are."""
    from tbps_infer.encoder import Encoder
    from tbps_infer.gallery import Gallery

    with Encoder.open(bundle) as encoder, Gallery.open(gallery) as opened:
        results = opened.search(encoder.encode_texts([text for text, _ in descriptions]), k=opened.count)
        people = [[person_of(hit) for hit in hits] for hits in results]
        ranks = [
            str(found.index(person) + 1) if person in found else "none"
            for found, (_, person) in zip(people, descriptions, strict=True)
        ]
        return ranks, opened.count
