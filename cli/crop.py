"""`tbps crop`: videos and frames become crops of people and a list of them."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import EXISTING, combined, output_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import Finite
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.video.crop_folder import CropFolder
    from tbps_infer.video.cropping import CropOptions, CropReport
    from tbps_infer.video.frames import FrameSource
    from tbps_infer.video.people import PeopleFinder
    from tbps_infer.video.sources import VideoOptions

__all__ = ["crop"]

log = logging.getLogger(__name__)

_GAPS_SHOWN = 10


def _video(
    camera: str | None,
    start: str | None,
    name_pattern: str | None,
    timezone: str,
    fps: float | None,
    hwaccel: str | None,
) -> Any:
    from tbps_infer.gallery.times import find_zone
    from tbps_infer.name_pattern import NamePattern
    from tbps_infer.video.sources import VideoOptions

    names = NamePattern(name_pattern) if name_pattern else None
    return VideoOptions(camera, start, names, find_zone(timezone), fps, hwaccel)


_video_options = combined(
    "reading",
    _video,
    click.option("--camera", help="Camera of all sources.", show_default="in the name, or the name"),
    click.option("--start", metavar="TIME", help="When the first frame was taken.", show_default="in the name"),
    click.option(
        "--name-pattern",
        metavar="PATTERN",
        help="What the names of videos or frames hold, as in 'cam{camera}_{time:%Y%m%d-%H%M%S}'.",
    ),
    click.option(
        "--timezone", default="UTC", metavar="ZONE", help="Zone of times without one, such as Europe/Berlin."
    ),
    click.option("--fps", type=Finite(0, min_open=True), help="Rate of frames whose names hold no times."),
    click.option(
        "--hwaccel", metavar="NAME", help="Hardware that decodes: cuda, vaapi ….", show_default="none: the CPU"
    ),
)


def _crops(every: int, per_track: int, min_height: int, segment: float) -> Any:
    from tbps_infer.video.cropping import CropOptions

    return CropOptions(every, per_track, min_height, segment)


_crop_options = combined(
    "options",
    _crops,
    click.option("--every", type=click.IntRange(1), default=1, help="Look at every N-th frame."),
    click.option("--per-track", type=click.IntRange(1), default=3, help="Crops of each track at most."),
    click.option("--min-height", type=click.IntRange(1), default=64, help="Height of a crop in pixels at least."),
    click.option(
        "--segment",
        type=Finite(1),
        default=300.0,
        metavar="SECONDS",
        help="Video after which crops are committed, as soon as nobody is followed, or after twice as much.",
    ),
)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", envvar="TBPS_CROP_SOURCES")
@output_option("Folder of crops to create or continue.")
@click.option("--detector", type=EXISTING, metavar="JSON", help="Detector that finds the people (docs/crop.md).")
@click.option(
    "--detections",
    type=EXISTING,
    metavar="PATH",
    help="Detections of another program: MOTChallenge text, COCO JSON, a folder of Ultralytics' labels, or a folder "
    "with a .txt or .json file for each source.",
)
@click.option(
    "--person", type=click.IntRange(0), help="Class of people in --detections.", show_default="the format's own"
)
@_video_options
@_crop_options
@click.option("--device", default="cpu", help="Device of the detector: cpu, cuda or cuda:N.")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of the detector.", show_default="all usable cores"
)
@click.option("--strict", is_flag=True, help="Exit with status 1 if frames are missing.")
@verbosity_options
def crop(
    sources: tuple[str, ...],
    output: Path,
    detector: Path | None,
    detections: Path | None,
    person: int | None,
    reading: VideoOptions,
    options: CropOptions,
    device: str,
    threads: int | None,
    strict: bool,
) -> int:
    """Crop the people out of videos, and list the crops with camera, time, track and box.

    A SOURCE is a video, a folder of videos or of frames, or the address of a live stream. People are found by a
    detector or told by a file; each is followed through the frames, and the best crops of each are written. Run the
    command again to continue after an interruption. Nobody is recognised: an id is a track of one video. An address
    with a password can be in TBPS_CROP_SOURCES instead, where other users do not see it.

    \b
    tbps crop street.mp4 -o crops --detector nanodet.json --camera gate --start 2026-05-01T08:00
    tbps crop videos/ -o crops --detections videos/
    tbps crop rtsp://user:password@camera/stream -o crops --detector nanodet.json --camera gate
    tbps embed bundle crops/crops.csv -o gallery
    """
    from tbps_infer.runners.options import RunOptions
    from tbps_infer.video.crop_folder import LIST_FILE, open_crops
    from tbps_infer.video.people import PeopleFinder
    from tbps_infer.video.sources import video_sources

    if (detector is None) == (detections is None):
        raise click.UsageError("Give either --detector or --detections.")
    if detector is not None and person is not None:
        raise click.UsageError("--person goes with --detections; a detector's JSON file names its class.")
    if detections is not None and (device != "cpu" or threads is not None):
        raise click.UsageError("--device and --threads go with --detector.")
    stop = Event()
    found = video_sources(sources, reading, stop)
    if any(source.facts.live for source in found):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    readable = _readable(found)
    if detector is not None:
        finder = PeopleFinder.with_detector(detector, RunOptions(device=device, threads=threads))
    else:
        assert detections is not None
        finder = PeopleFinder(None, detections, person)
    missing = 0
    made_with = {
        "every": options.every,
        "per-track": options.per_track,
        "min-height": options.min_height,
        "segment": options.segment_seconds,
        "detector": "" if finder.detector is None else finder.detector.stamp,
    }
    with finder, open_crops(output, made_with) as folder:
        for source in readable:
            report = _crop(source, finder, folder, options, stop)
            missing += len(report.gaps)
    say(f"Embed them: tbps embed BUNDLE {output / LIST_FILE} -o GALLERY")
    return int(strict and bool(missing or len(readable) < len(found)))


def _readable(sources: Sequence[FrameSource]) -> list[FrameSource]:
    """The sources that can be opened; the others are told. Raises VideoError where none can."""
    from tbps_infer.errors import VideoError

    readable: list[FrameSource] = []
    for number, source in enumerate(sources, start=1):
        try:
            source.total  # noqa: B018 - opens it
        except VideoError as error:
            if number == len(sources) and not readable:
                raise
            say(f"  left out: {error.message}")
        else:
            readable.append(source)
    return readable


def _crop(
    source: FrameSource, finder: PeopleFinder, folder: CropFolder, options: CropOptions, stop: Event
) -> CropReport:
    """Crop one source, and tell what came of it."""
    from tbps_infer.video.cropping import crop_source

    people, make_tracker = finder.of_source(source, options.every)
    total = source.total // options.every
    with progress_bar(source.facts.name, "frames") as bar:

        def tell(so_far: CropReport) -> None:
            speed = so_far.seconds / so_far.elapsed if so_far.elapsed else 0
            bar(so_far.frames, total, f"{source.facts.name} {speed:.1f} × real time")

        report = crop_source(source, people, make_tracker, folder, options, tell=tell, stop=stop)
    _tell(source, report)
    if report.frames and not people.used:
        say(f"  no frame of {source.facts.name} has a box in the detections; are they of this video?")
    return report


def _tell(source: FrameSource, report: CropReport) -> None:
    name, place = source.facts.name, source.facts.place
    elapsed = report.elapsed
    if not elapsed:
        click.echo(f"{name}: nothing new in {place}")
    else:
        click.echo(
            f"{name}: {report.frames} frames of {report.seconds:.1f} s, {report.tracks} tracks, {report.crops} crops "
            f"in {elapsed:.1f} s ({report.frames / elapsed:.1f} frames/s, {report.seconds / elapsed:.1f} × real time)"
        )
        log.info("%s: seconds by stage: %s", name, {name: round(value, 2) for name, value in report.stages.items()})
    if report.dropped:
        say(f"  {report.dropped} frames came too fast and were not looked at; --every N looks at fewer")
    for gap in report.gaps[:_GAPS_SHOWN]:
        say(f"  frames are missing after {gap.offset:.1f} s: {gap.reason}")
    if len(report.gaps) > _GAPS_SHOWN:
        say(f"  and {len(report.gaps) - _GAPS_SHOWN} more gaps")
