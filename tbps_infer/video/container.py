"""Opens videos with PyAV, and translates what it raises: the one module that calls it to decode.

A file is opened here and handed over as a stream of bytes, and FFmpeg may open nothing else: a playlist would have it
read any other file or address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError, UsageError, VideoError

__all__ = [
    "Damage",
    "decoded",
    "import_av",
    "open_stream",
    "open_video",
    "seconds_of",
    "seek",
    "ticks_of",
    "upright",
    "video_stream",
]

_NOTHING_ELSE = {"protocol_whitelist": "none"}
_CONNECT_SECONDS = 10.0
_PROBE_MICROSECONDS = "1000000"  # of a live stream, by which its first frames are late; FFmpeg's own are 5 s


class Damage(str):
    """Why some frames could not be decoded."""


def import_av() -> Any:
    """PyAV; raises BackendError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise BackendError(
            f"Decoding videos needs the package av, which cannot be imported: {error}.",
            'Install it: pip install "tbps-infer[video]".',
        ) from error
    return av


@contextmanager
def open_video(file: Path, hardware: str | None = None) -> Iterator[Any]:
    """Open a file with a video; yields PyAV's container.

    Args:
        file: The file.
        hardware: What decodes instead of the CPU (``cuda``, ``vaapi`` …), or an error; None for the CPU.

    Raises:
        VideoError: It cannot be read, or there is no video in it.
        UsageError: FFmpeg knows no such hardware.
        BackendError: PyAV is not installed, or the hardware does not decode it.
    """
    av = import_av()
    try:
        opened = file.open("rb")
    except OSError as error:
        raise VideoError(f"{file} cannot be read: {error.strerror or error}.") from error
    with opened:
        try:
            with av.open(opened, options=_NOTHING_ELSE, hwaccel=_hardware(hardware)) as container:
                video_stream(container, str(file))
                yield container
        except (av.error.FFmpegError, OSError) as error:
            if hardware is not None:
                raise BackendError(
                    f"{file} cannot be decoded by {hardware}: {_reason(error)}.",
                    "Without that choice the CPU decodes; is the hardware here, and does it know the video's codec?",
                ) from error
            raise VideoError(
                f"{file} cannot be decoded: {_reason(error)}.", "Is it a whole video? Check it with: ffprobe FILE"
            ) from error


@contextmanager
def open_stream(address: str, shown: str, hardware: str | None = None) -> Iterator[Any]:
    """Open a live stream; yields PyAV's container. Raises as `open_video`, in whose errors it is called `shown`."""
    av = import_av()
    options = {"analyzeduration": _PROBE_MICROSECONDS}
    if address.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    try:
        with av.open(address, options=options, timeout=_CONNECT_SECONDS, hwaccel=_hardware(hardware)) as container:
            video_stream(container, shown)
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{shown} cannot be read: {_reason(error)}.", "Does ffplay show the stream?") from error


def video_stream(container: Any, name: str) -> Any:
    """The video in a container; raises VideoError where there is none."""
    if not container.streams.video:
        raise VideoError(f"{name} has no video in it.", "Give a video, a folder of frames, or an address rtsp://….")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """PyAV's frames in the order of presentation, their times rising; where some are missing, one `Damage`."""
    av = import_av()
    damaged, last = False, None
    broken = set[int]()  # times of packets that the container lost a part of: a decoder may make a frame of the rest
    packets = iter(container.demux(stream))
    while True:
        problem, frames = "", []
        try:
            packet = next(packets)
            if packet.is_corrupt and packet.pts is not None:
                broken.add(packet.pts)
            frames = packet.decode()
        except (StopIteration, av.error.EOFError):
            return
        except (av.error.InvalidDataError, av.error.BugError, av.error.UndefinedError) as error:
            problem = _reason(error)
        for frame in frames:
            problem = "frames are damaged" if frame.pts in broken else _problem(frame, last)
            if not problem:
                damaged, last = False, frame.pts
                yield frame
            elif not damaged:
                damaged = True
                yield Damage(problem)
        if problem and not damaged:
            damaged = True
            yield Damage(problem)


def _problem(frame: Any, last: int | None) -> str:
    """Why a frame is of no use; empty where it is."""
    if frame.is_corrupt:
        return "frames are damaged"
    if frame.pts is None:
        return "frames have no times"
    return "times go back" if last is not None and frame.pts <= last else ""


def seek(container: Any, stream: Any, ticks: int) -> None:
    """Go to the last key frame that is shown at a time or before."""
    container.seek(ticks, stream=stream, backward=True)


def upright(frame: Any) -> NDArray[np.uint8]:
    """A frame's pixels, uint8 ``[height, width, 3]``, RGB, turned as the video says."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    quarters = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def seconds_of(ticks: int, stream: Any) -> float:
    """A time of a stream as seconds from its beginning."""
    return float((ticks - (stream.start_time or 0)) * Fraction(stream.time_base))


def ticks_of(seconds: float, stream: Any) -> int:
    """The time of a stream at so many seconds from its beginning."""
    return round(seconds / Fraction(stream.time_base)) + int(stream.start_time or 0)


def _hardware(name: str | None) -> Any:
    if name is None:
        return None
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if name not in hwdevices_available():
        raise UsageError(
            f"FFmpeg was built without the hardware {name!r}.",
            f"It has: {', '.join(hwdevices_available()) or 'none'}; without the option, the CPU decodes.",
        )
    return HWAccel(name, allow_software_fallback=False)


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the number and the file's name that PyAV adds."""
    text = getattr(error, "strerror", None) or str(error)
    return text.rstrip(".")
