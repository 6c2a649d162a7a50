"""What a user names as videos: files, folders of videos or of frames, addresses of live streams."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from threading import Event

from tbps_infer.errors import UsageError, VideoError
from tbps_infer.folders import PictureFinder, absolute_path
from tbps_infer.gallery.times import TIME_WANTED, read_moment
from tbps_infer.name_pattern import NamePattern
from tbps_infer.video.frame_folder import FrameFolder, frames_stamp, frames_with_times, in_order_of_names
from tbps_infer.video.frames import FrameSource, SourceFacts
from tbps_infer.video.live_stream import LiveStream, is_address, without_password
from tbps_infer.video.video_file import VideoFile

__all__ = ["VIDEO_EXTENSIONS", "VideoOptions", "video_sources"]

VIDEO_EXTENSIONS = frozenset(
    {
        *(
            ".264",
            ".265",
            ".3gp",
            ".asf",
            ".avi",
            ".dav",
            ".flv",
            ".h264",
            ".h265",
            ".hevc",
            ".m2ts",
            ".m4v",
            ".mjpeg",
        ),
        *(".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
"""Extensions, in lower case, of the videos in a folder."""


@dataclass(frozen=True)
class VideoOptions:
    """What is known of videos besides what they hold.

    Attributes:
        camera: Their camera; None for the one in a name, or the name itself.
        start: When the first frame was taken, `TIME_WANTED`; None for the time in a name, if there is one.
        names: What the names of videos or frames hold: ``camera``, and ``time`` for the first or each frame's.
        zone: That of times which name none.
        rate: Frames per second of a folder of frames whose names hold no times.
        hardware: What decodes; None for the CPU.
    """

    camera: str | None = None
    start: str | None = None
    names: NamePattern | None = None
    zone: tzinfo = timezone.utc
    rate: float | None = None
    hardware: str | None = None


def video_sources(names: Sequence[str], options: VideoOptions, stop: Event) -> list[FrameSource]:
    """The sources that a user names.

    Args:
        names: Each a video, a folder of videos or of frames, or the address of a live stream.
        options: What is known of them.
        stop: Ends live streams.

    Raises:
        VideoError: One does not exist or holds neither videos nor frames, a name does not follow the pattern, or two
            have the same name.
        UsageError: A start is no time or is given for several sources, or a live stream is not alone.
    """
    if options.camera == "":
        raise UsageError("The camera has no name.", "Name it, or leave --camera out.")
    sources = [source for name in names for source in _sources(name, options, stop)]
    if options.rate is not None and not any(isinstance(source, FrameFolder) for source in sources):
        raise UsageError(
            "A rate is given, and no source is a folder of frames.", "Leave --fps out: videos tell times."
        )
    if options.start is not None and len(sources) > 1:
        raise UsageError(
            f"One start is given for {len(sources)} sources.",
            "Crop one at a time, or have the times in the names of the videos (--name-pattern).",
        )
    if len(sources) > 1 and any(source.facts.live for source in sources):
        raise UsageError("A live stream has no end, so it goes alone.", "Run one tbps crop for each camera.")
    seen: dict[str, str] = {}
    for source in sources:
        facts = source.facts
        if facts.name in ("", ".", ".."):
            raise VideoError(f"No folder of crops can be named after {facts.place}.", "Rename it.")
        if facts.name in seen:
            raise VideoError(
                f"{seen[facts.name]} and {facts.place} would both be called {facts.name}.",
                "Rename one, or crop them into different folders.",
            )
        seen[facts.name] = facts.place
    return sources


def _sources(name: str, options: VideoOptions, stop: Event) -> Iterator[FrameSource]:
    if is_address(name):
        yield _stream(name, options, stop)
        return
    path = absolute_path(name)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise VideoError(f"The name of {name!r} is not UTF-8, and a list cannot hold it.", "Rename it.") from None
    if not path.exists():
        raise VideoError(f"{name} does not exist.", "Give a video, a folder of videos or frames, or rtsp://….")
    if path.is_file():
        yield _video(path, options)
        return
    if not path.is_dir():
        raise VideoError(f"{name} is neither a file nor a folder.", "Save the video as a file first.")
    videos = sorted(each for each in path.iterdir() if each.suffix.lower() in VIDEO_EXTENSIONS and each.is_file())
    pictures = PictureFinder(recursive=False).in_folder(path)
    if videos and pictures:
        raise VideoError(
            f"The folder {name} holds {len(videos)} videos and {len(pictures)} pictures.",
            "Name the videos, or move the frames to a folder of their own.",
        )
    if not (videos or pictures):
        raise VideoError(f"The folder {name} holds neither videos nor frames.", "Frames lie in the folder itself.")
    if pictures:
        yield _frames(path, in_order_of_names(pictures), options)
    for video in videos:
        yield _video(video, options)


def _video(file: Path, options: VideoOptions) -> VideoFile:
    found = _in_name(file, options)
    status = file.stat()
    camera = options.camera or found.get("camera") or file.stem
    start = _start(found.get("time") if options.start is None else options.start, options.zone)
    stamp = f"{status.st_size} bytes {status.st_mtime_ns} {camera} {start}"
    facts = SourceFacts(file.stem, camera, start, str(file), stamp)
    return VideoFile(file, facts, options.hardware)


def _frames(folder: Path, files: Sequence[Path], options: VideoOptions) -> FrameFolder:
    found = _in_name(files[0], options)
    camera = options.camera or found.get("camera") or folder.name
    start = _start(options.start, options.zone)
    if "time" in found:
        assert options.names is not None
        first, pictures = frames_with_times(files, options.names, options.zone)
        start = start or first
    elif options.rate is not None:
        pictures = [(file, number / options.rate) for number, file in enumerate(files)]
    else:
        raise VideoError(
            f"The times of the frames in {folder} are not known.",
            "Give their rate (--fps 25), or the pattern of their names with {time:…} (--name-pattern).",
        )
    stamp = f"{frames_stamp(files)} {camera} {start} {options.rate}"
    return FrameFolder(SourceFacts(folder.name, camera, start, str(folder), stamp), pictures)


def _stream(address: str, options: VideoOptions, stop: Event) -> LiveStream:
    if options.start is not None:
        raise UsageError("A live stream starts when it is opened.", "Leave --start out.")
    try:
        shown = without_password(address)
    except ValueError as error:  # without the address, which may hold a password
        raise UsageError(f"The address of the stream is none: {error}.", "Give rtsp://HOST/PATH.") from error
    camera = options.camera or re.sub(r"[^\w.-]+", "_", shown.partition("://")[2]).strip("_")
    name = re.sub(r"[^\w.-]+", "_", camera).strip("._") or "stream"
    facts = SourceFacts(name, camera, datetime.now(timezone.utc), shown, live=True)
    return LiveStream(address, facts, stop, options.hardware)


def _in_name(file: Path, options: VideoOptions) -> dict[str, str]:
    if options.names is None:
        return {}
    found = options.names.match(file)
    if found is None:
        raise VideoError(
            f"The name of {file.name} does not follow the pattern {options.names.pattern}.",
            "A pattern describes the whole name without its extension.",
        )
    return found


def _start(text: str | None, zone: tzinfo) -> datetime | None:
    if text is None:
        return None
    moment = read_moment(text, zone)
    if moment is None:
        raise UsageError(f"The start is {text!r}, want {TIME_WANTED}.")
    if not 1 < moment.clock.year < 9999:  # times after it, in any zone, must be times, too
        raise UsageError(f"The start is {text!r}, want a year from 2 to 9998.")
    return moment.clock.replace(tzinfo=moment.zone or zone)
