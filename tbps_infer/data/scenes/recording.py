"""Writing a video: H.264 in MP4, by PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError

__all__ = ["write_video"]

_CODEC = "libx264"
# One thread, because x264's output depends on their number: equal frames give equal bytes with the same PyAV.
_OPTIONS = {"preset": "ultrafast", "crf": "23", "threads": "1"}


def write_video(file: Path, frames: Iterable[NDArray[np.uint8]], size: tuple[int, int], fps: int) -> None:
    """Encode RGB frames, uint8 [height, width, 3], of a `size` of (height, width), both even.

    Raises:
        BackendError: PyAV is not installed, or was built without x264.
    """
    try:
        import av
    except ImportError as error:
        raise BackendError(
            "Writing a video needs PyAV, which is not installed.", 'Install it: pip install "tbps-infer[video]".'
        ) from error
    if _CODEC not in av.codecs_available:
        raise BackendError(
            f"This build of PyAV has no {_CODEC}, which encodes videos.", "Install PyAV's wheel: pip install av."
        )
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream(_CODEC, rate=fps, options=_OPTIONS)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
