"""Pictures of records, by number: decoded in threads, made small, kept in bounded memory."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError, ImageError, VideoError
from tbps_infer.gallery import Record
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.metrics import Metrics

if TYPE_CHECKING:
    from PIL import Image

    from tbps_infer.preprocessing import Preprocessing
    from tbps_infer.video.moments import Moment

__all__ = ["PictureKind", "Pictures", "decode_example"]

PictureKind = Literal["thumbnail", "picture", "frame", "strip"]
"""The record's own picture, small or large; or of its video, the frame and the seconds around it."""

# Width and height at most: twice what the page shows.
_SIZES: dict[PictureKind, tuple[int, int]] = {
    "thumbnail": (192, 576),
    "picture": (1600, 1600),
    "frame": (1600, 1600),
    "strip": (3200, 1600),
}
_QUALITY: dict[PictureKind, int] = {"thumbnail": 82, "picture": 92, "frame": 88, "strip": 82}
_EXAMPLE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")


class Pictures:
    """Makes and remembers pictures; always a new JPEG, never a file's own bytes, so no other content gets out.

    Args:
        threads: How many decode at once.
        cache_bytes: Memory for thumbnails; the ones used longest ago go first.
        metrics: Where decoding is timed.
    """

    def __init__(self, threads: int, cache_bytes: int, metrics: Metrics) -> None:
        self.pool = ThreadPoolExecutor(threads, "tbps-picture")
        self._limit = cache_bytes
        self._metrics = metrics
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def etag(self, record: Record, kind: PictureKind) -> str:
        """What names a record's picture as the file is now; raises RefusedError (404) when the file is gone."""
        moment = _moment(record) if kind in ("frame", "strip") else None
        if moment is None and record.crop is not None:
            state = record.stamp.sha256
        else:
            file = record.path if moment is None else moment.file
            try:
                stat = file.stat()
            except OSError:
                raise RefusedError(404, "The picture is not there any more.", "Embed the gallery again.") from None
            state = f"{file} {stat.st_size} {stat.st_mtime_ns} {moment}"
        facts = f"{record.record} {record.path} {state} {kind}"
        return f'"{hashlib.blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()}"'

    def make(self, record: Record, kind: PictureKind, etag: str) -> bytes:
        """The picture as JPEG, from memory or from its file.

        Raises:
            RefusedError: 404, when the file cannot be decoded any more, or not on this machine.
        """
        with self._lock:
            data = self._kept.get(etag)
            if data is not None:
                self._kept.move_to_end(etag)
                return data
        started = time.perf_counter()
        data = self._encode(record, kind)
        self._metrics.stage_seconds.labels(kind).observe(time.perf_counter() - started)
        if kind == "thumbnail":
            self._keep(etag, data)
        return data

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown(cancel_futures=True)

    def _encode(self, record: Record, kind: PictureKind) -> bytes:
        if kind in ("frame", "strip"):
            image = _of_video(record, kind)
        else:
            image = _of_file(record, kind)
        data = io.BytesIO()
        image.save(data, "JPEG", quality=_QUALITY[kind])
        return data.getvalue()

    def _keep(self, etag: str, data: bytes) -> None:
        with self._lock:
            if etag in self._kept or len(data) > self._limit:
                return
            self._kept[etag] = data
            self._bytes += len(data)
            while self._bytes > self._limit:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def _of_file(record: Record, kind: PictureKind) -> Image.Image:
    from tbps_infer.images import load_rgb

    try:
        return load_rgb(record.picture, lambda image: _shrunk(image, _SIZES[kind]))
    except ImageError as error:
        raise RefusedError(404, "The picture cannot be decoded.", "It was changed since it was embedded.") from error


def _of_video(record: Record, kind: PictureKind) -> Image.Image:
    from tbps_infer.video.moments import draw_frame, draw_strip

    draw = draw_frame if kind == "frame" else draw_strip
    try:
        return _shrunk(draw(_moment(record)), _SIZES[kind])
    except (VideoError, BackendError) as error:
        raise RefusedError(404, error.message, error.hint) from error


def _moment(record: Record) -> Moment:
    """Where a record was cropped out; raises RefusedError (404) where its columns do not tell, or it is gone."""
    from tbps_infer.video.moments import find_moment

    try:
        return find_moment(record.metadata)
    except VideoError as error:
        raise RefusedError(404, error.message, error.hint) from error


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    image.thumbnail(size)
    return image


def decode_example(data: bytes, facts: Preprocessing, pixels: int) -> NDArray[np.uint8]:
    """uint8 ``[1, height, width, 3]``: a client's picture at the model's size.

    Raises:
        RefusedError: 422, when it is no picture of a common format or has more than so many pixels.
    """
    from tbps_infer.images import load_crop

    width, height = _size(data)
    if width * height > pixels:
        raise RefusedError(413, f"The picture has {width}x{height} pixels, and the limit is {pixels}.", "Crop it.")
    try:
        return load_crop(data, facts)[None]
    except ImageError as error:
        raise RefusedError(422, error.message, error.hint) from error


def _size(data: bytes) -> tuple[int, int]:
    """The size that a picture's header gives, nothing decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_EXAMPLE_FORMATS) as image:
            width, height = image.size
            return width, height
    except Exception as error:  # Pillow raises nearly anything on damaged files, bombs included.
        raise RefusedError(
            422, "The example is not a picture in a known format.", "Send a JPEG, PNG or WebP."
        ) from error
