"""Back to the moment of a crop: its frame with the box, and the seconds around it as a strip."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import ImageError, VideoError
from tbps_infer.folders import is_picture
from tbps_infer.gallery.columns import Value
from tbps_infer.video.container import (
    Damage,
    decoded,
    open_video,
    seconds_of,
    seek,
    ticks_of,
    upright,
    video_stream,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Moment", "draw_frame", "draw_strip", "find_moment"]

_BOX_COLOUR = (255, 196, 0)
_STRIP_GAP = 4
_HINT = "The columns video, offset and box are those of the list that tbps crop writes."


@dataclass(frozen=True)
class Moment:
    """Where a crop was cut out.

    Attributes:
        file: The video, or the frame where that is a picture; absolute.
        offset: Seconds from the video's beginning.
        box: Left, top, width and height in pixels; None where that is not known.
    """

    file: Path
    offset: float
    box: tuple[int, int, int, int] | None = None


def find_moment(metadata: Mapping[str, Value]) -> Moment:
    """The moment that a record's columns tell of.

    Raises:
        VideoError: They tell of none, or the video is not there.
    """
    video, offset, box = (metadata.get(name) for name in ("video", "offset", "box"))
    if not isinstance(video, str) or not isinstance(offset, int | float):
        raise VideoError("The record does not tell which video it is from.", _HINT)
    file = Path(video)
    if not (file.is_absolute() and math.isfinite(offset) and offset >= 0):
        raise VideoError(f"The record is from {video} at {offset} s, which is no moment of a video.", _HINT)
    if not file.is_file():
        raise VideoError(f"The video {video} is not there.", "Is its disk away, or was it moved?")
    numbers = re.fullmatch(r"(\d{1,5}) (\d{1,5}) (\d{1,5}) (\d{1,5})", box if isinstance(box, str) else "")
    if numbers is None:
        return Moment(file, float(offset))
    left, top, width, height = map(int, numbers.groups())
    return Moment(file, float(offset), (left, top, width, height))


def draw_frame(moment: Moment) -> Image.Image:
    """The frame, with the box drawn in it.

    Raises:
        VideoError: It cannot be decoded, or the video ends before it.
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(_pixels(moment, (moment.offset,))[0])
    if moment.box is not None:
        left, top, width, height = moment.box
        line = max(2, round(image.height / 240))
        corners = (left - line, top - line, left + width + line - 1, top + height + line - 1)
        ImageDraw.Draw(image).rectangle(corners, outline=_BOX_COLOUR, width=line)
    return image


def draw_strip(moment: Moment, *, seconds: float = 3.0, count: int = 7, width: int = 320) -> Image.Image:
    """Frames of the seconds around the moment side by side; of a folder of frames, the one frame.

    Args:
        moment: The middle.
        seconds: Before and after it.
        count: How many frames, fewer at the video's ends.
        width: Of each in pixels.

    Raises:
        VideoError: As `draw_frame`.
    """
    from PIL import Image

    offsets = np.linspace(moment.offset - seconds, moment.offset + seconds, count)
    tiles = []
    for pixels in _pixels(moment, tuple(float(offset) for offset in offsets if offset >= 0)):
        height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
        tiles.append(Image.fromarray(pixels).resize((width, height)))
    strip = Image.new("RGB", (len(tiles) * (width + _STRIP_GAP) - _STRIP_GAP, tiles[0].height), "white")
    for place, tile in enumerate(tiles):
        strip.paste(tile, (place * (width + _STRIP_GAP), 0))
    return strip


def _pixels(moment: Moment, offsets: tuple[float, ...]) -> list[NDArray[np.uint8]]:
    """The frames that are shown at some rising times, each once; those after the video's end are left out."""
    if is_picture(moment.file.name):
        return [_picture(moment.file)]
    with open_video(moment.file) as container:
        stream = video_stream(container, str(moment.file))
        seek(container, stream, ticks_of(offsets[0], stream))
        found = [upright(frame) for frame in _shown_at(offsets, container, stream)]
    if not found:
        raise VideoError(f"{moment.file} has no frame at {moment.offset:.1f} s.", "Is it the video that was cropped?")
    return found


def _shown_at(offsets: Sequence[float], container: Any, stream: Any) -> Iterator[Any]:
    """PyAV's frames at some rising times. A frame is shown until the next one comes."""
    waiting = deque(offsets)
    shown, end = None, 0.0
    for frame in islice(decoded(container, stream), _MOST_FRAMES):
        if isinstance(frame, Damage):
            continue
        passed = False
        while waiting and seconds_of(frame.pts, stream) > waiting[0] + _ROUNDING:
            waiting.popleft()
            passed = True
        if passed:
            yield frame if shown is None else shown
        shown, end = frame, seconds_of(frame.pts, stream)
        if not waiting:
            return
    if shown is not None and waiting[0] - end < _LAST_SECONDS:
        yield shown


_ROUNDING = 0.0005
"""The list gives milliseconds."""
_LAST_SECONDS = 1.0
"""How long the last frame is taken to be shown."""
_MOST_FRAMES = 5000
"""Decoded for one answer: beyond that the video has no key frames to begin at."""


def _picture(file: Path) -> NDArray[np.uint8]:
    from tbps_infer.images import load_rgb

    try:
        return np.asarray(load_rgb(file))
    except ImageError as error:
        raise VideoError(error.message, error.hint) from error
