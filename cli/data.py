"""`tbps data`: generate synthetic pedestrians, and inspect data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import (
    EXISTING,
    combined,
    kind_option,
    output_option,
    seed_option,
    verbosity_options,
)
from tbps_infer.cli.shared.parameter_types import Finite
from tbps_infer.cli.shared.progress import progress_bar

if TYPE_CHECKING:
    from tbps_infer.data.scenes import SceneOptions

__all__ = ["data"]


@click.group()
def data() -> None:
    """Generate and inspect data sets.

    \b
    tbps data synth -o synthetic --only test
    tbps data scenes -o scenes
    tbps data info synthetic
    """


@data.command()
@output_option("Data set folder to create.")
@click.option("--train", type=click.IntRange(0), default=2000, help="Identities in the training split.")
@click.option("--val", type=click.IntRange(0), default=100, help="Identities in the validation split.")
@click.option("--test", type=click.IntRange(0), default=200, help="Identities in the test split.")
@click.option("--pictures", type=click.IntRange(1), default=4, help="Pictures per identity.")
@click.option("--captions", type=click.IntRange(1), default=2, help="Captions per picture.")
@click.option("--height", type=int, default=256, help="Picture height in pixels; the width is about a third.")
@seed_option()
@click.option("--workers", type=click.IntRange(1), help="Number of processes.", show_default="one per core")
@click.option(
    "--only", multiple=True, type=click.Choice(("train", "val", "test")), help="Only this split. Repeatable."
)
@verbosity_options
def synth(
    output: Path,
    train: int,
    val: int,
    test: int,
    pictures: int,
    captions: int,
    height: int,
    seed: int,
    workers: int | None,
    only: tuple[str, ...],
) -> None:
    """Generate synthetic pedestrians with captions.

    The layout is that of CUHK-PEDES. The same options always give the same files.

    \b
    tbps data synth -o people --train 2000 --seed 0
    """
    from dataclasses import replace

    from tbps_infer.data.synth import SynthOptions, write_dataset

    options = SynthOptions(train, val, test, pictures, captions, seed, height, workers)
    if only:
        options = replace(options, only=only)
    with progress_bar("Drawing", "pictures") as bar:
        report = write_dataset(output, options, bar)
    click.echo(
        f"{output}: {report.identities} identities, {report.pictures} pictures, {report.captions} captions "
        f"of {report.mean_words:.1f} words on average"
    )


def _scenes(
    cameras: int, people: int, first: int, seconds: float, fps: int, height: int, light: str, captions: int, seed: int
) -> Any:
    from tbps_infer.data.scenes import SceneOptions

    return SceneOptions(cameras, people, first, seconds, fps, height, light, captions, seed)


_scene_options = combined(
    "options",
    _scenes,
    click.option("--cameras", type=click.IntRange(1, 6), default=2, help="Number of videos."),
    click.option("--people", type=click.IntRange(1), default=12, help="How many people walk past them."),
    click.option(
        "--first",
        type=click.IntRange(1),
        default=2101,
        help="Identity of the first of them in `tbps data synth` with this seed; 2101 is its first test person.",
    ),
    click.option("--seconds", type=Finite(1), default=20.0, help="Length of each video."),
    click.option("--fps", type=click.IntRange(1), default=10, help="Frames per second."),
    click.option("--height", type=int, default=360, help="Height of the pictures in pixels; they are 16:9."),
    click.option(
        "--light",
        type=click.Choice(("day", "dusk", "mixed")),
        default="mixed",
        help="mixed: every second camera at dusk.",
    ),
    click.option("--captions", type=click.IntRange(1), default=2, help="Sentences per person."),
    seed_option(),
)


@data.command()
@output_option("Folder to create.")
@_scene_options
@verbosity_options
def scenes(output: Path, options: SceneOptions) -> None:
    """Draw street videos of synthetic pedestrians.

    For each camera a video and, in MOTChallenge's format, the true boxes with their tracks and visibility;
    tracks.csv tells who each track is, and captions.csv describes the people. Needs the extra [video].

    \b
    tbps data scenes -o scenes --cameras 2 --seconds 20
    """
    from tbps_infer.data.scenes import write_scenes

    with progress_bar("Drawing", "frames") as bar:
        report = write_scenes(output, options, bar)
    click.echo(
        f"{output}: {report.cameras} videos of {options.frames} frames, {report.people} people in {report.tracks} "
        f"tracks, {report.boxes} boxes"
    )


@data.command("info")
@click.argument("dataset", type=EXISTING)
@kind_option
@verbosity_options
def dataset_info(dataset: Path, kind: str | None) -> None:
    """Count the identities, pictures and captions of DATASET.

    \b
    tbps data info CUHK-PEDES
    """
    import numpy as np

    from tbps_infer.data.dataset import Split
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.errors import DatasetError

    found: list[Split] = []
    problem: DatasetError | None = None
    for name in ("train", "val", "test"):
        try:
            found.append(read_dataset(dataset, name, kind=kind))
        except DatasetError as error:
            problem = error
    if problem is not None and not found:
        raise problem
    for split in found:
        words = np.mean([len(caption.split()) for caption in split.captions]) if split.captions else 0.0
        click.echo(
            f"{split.dataset} {split.name}: {len(np.unique(split.identities))} identities, "
            f"{len(split.pictures)} pictures, {len(split.captions)} captions of {words:.1f} words"
        )
