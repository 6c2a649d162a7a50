"""The seconds around a crop as a video of its own: the original's packets, nothing decoded or encoded again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tbps_infer.atomic import new_file
from tbps_infer.errors import UsageError, VideoError
from tbps_infer.folders import is_picture
from tbps_infer.video.container import import_av, open_video, seek, ticks_of, video_stream
from tbps_infer.video.moments import Moment

__all__ = ["CLIP_FORMATS", "require_other_file", "write_clip"]

CLIP_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
"""FFmpeg's names of the formats that clips have, by extension."""


def write_clip(moment: Moment, file: Path, *, before: float = 5.0, after: float = 5.0) -> None:
    """Write the seconds around a moment; the clip begins at the key frame before them.

    Args:
        moment: Where.
        file: The new file, with an extension of `CLIP_FORMATS`.
        before: Seconds before the moment.
        after: Seconds after it.

    Raises:
        UsageError: The extension is another one, the file is the video itself, or the seconds are not finite.
        VideoError: The video cannot be read, the format does not take its codec, or the file cannot be written.
    """
    if not (math.isfinite(before) and math.isfinite(after)):
        raise UsageError("before and after want finite numbers of seconds.")
    form = CLIP_FORMATS.get(file.suffix.lower())
    if form is None:
        raise UsageError(f"{file.name} is no name of a clip.", f"End it with {', '.join(CLIP_FORMATS)}.")
    require_other_file(moment, file)
    if is_picture(moment.file.name):
        raise VideoError(f"{moment.file} is a picture, of which there is no clip.", "Its frames lie in the folder.")
    av = import_av()
    with new_file(file, VideoError) as temporary, open_video(moment.file) as container:
        stream = video_stream(container, str(moment.file))
        first, last = (ticks_of(max(moment.offset + s, 0), stream) for s in (-before, after))
        seek(container, stream, first)
        try:
            with av.open(str(temporary), "w", format=form) as clip:
                found = _copy(container, stream, clip, (first, last))
        except OSError as error:
            raise VideoError(
                f"{file} cannot be written: {error.strerror}.", "Is there its folder, and room?"
            ) from error
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{file.name} cannot hold {stream.codec_context.name} of {moment.file}: {error}.",
                "A name that ends with .mkv takes nearly any codec.",
            ) from error
        if not found:
            raise VideoError(
                f"{moment.file} has nothing at {moment.offset:.1f} s.", "Is it the video that was cropped?"
            )


def require_other_file(moment: Moment, file: Path) -> None:
    """Raise UsageError where a file to write is what the moment is read from, which would be lost."""
    if file.exists() and moment.file.exists() and file.samefile(moment.file):
        raise UsageError(f"{file} is what the hit was cropped from, and would be replaced.", "Name another file.")


def _copy(container: Any, stream: Any, clip: Any, span: tuple[int, int]) -> bool:
    """Copy packets up to the end of a span, their times counted from the first one's; whether any is in the span."""
    copy = clip.add_stream_from_template(stream)
    origin, found = None, False
    for packet in container.demux(stream):
        if packet.dts is None or packet.dts > span[1]:
            break
        found = found or packet.dts >= span[0]
        origin = packet.dts if origin is None else origin
        packet.dts -= origin
        packet.pts = None if packet.pts is None else packet.pts - origin
        packet.stream = copy
        clip.mux(packet)
    return found
