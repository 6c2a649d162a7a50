"""Videos of bright rectangles that walk over a dark street, with the true boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["HEIGHT", "WIDTH", "boxes_at", "draw", "mot_lines", "write_video"]

WIDTH, HEIGHT = 320, 192
_WALKERS = {1: (4, 40, 30, 70, 40), 2: (280, 60, 36, 90, -35)}
"""By track: left at the beginning, top, width, height, and pixels per second to the right."""

Box = tuple[int, int, int, int]


def boxes_at(seconds: float) -> dict[int, Box]:
    """Left, top, width and height of everybody who is wholly in the picture, by track."""
    moved = {track: (round(x + speed * seconds), y, w, h) for track, (x, y, w, h, speed) in _WALKERS.items()}
    return {track: box for track, box in moved.items() if box[0] >= 0 and box[0] + box[2] <= WIDTH}


def draw(seconds: float) -> NDArray[np.uint8]:
    """The street at a time: uint8 ``[192, 320, 3]``."""
    pixels = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for track, (left, top, width, height) in boxes_at(seconds).items():
        pixels[top : top + height, left : left + width] = (200, 80 * track, 40)
    return pixels


def write_video(
    file: Path,
    times: Sequence[float],
    *,
    key_every: int = 10,
    picture: Callable[[float], NDArray[np.uint8]] = draw,
    form: str | None = None,
    quarter_turns: int = 0,
) -> Path:
    """Write the street at some times, in seconds, as H.264; its container by the file's extension."""
    import av

    height, width = picture(0).shape[:2]
    with av.open(str(file), "w", format=form) as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = key_every
        for seconds in times:
            frame = av.VideoFrame.from_ndarray(picture(seconds), format="rgb24")
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if quarter_turns:
        _turn(file, quarter_turns)
    return file


def _turn(file: Path, quarter_turns: int) -> None:
    """Have an MP4 say that players turn it by so many quarters, clockwise: the matrix of its track's header."""
    one = 1 << 16
    cos, sin = ((one, 0), (0, one), (-one, 0), (0, -one))[quarter_turns % 4]
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30], ">i4").tobytes()
    data = bytearray(file.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version 0: flags and times, then 40 bytes until the matrix
    data[place : place + 36] = matrix
    file.write_bytes(data)


def mot_lines(times: Sequence[float], *, tracks: bool = True, score: float = 1.0) -> str:
    """The true boxes as MOTChallenge text."""
    return "".join(
        f"{number},{track if tracks else -1},{left},{top},{width},{height},{score:g},1,1\n"
        for number, seconds in enumerate(times, start=1)
        for track, (left, top, width, height) in boxes_at(seconds).items()
    )
