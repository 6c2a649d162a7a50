"""Pictures of records, by number: decoded in threads, made small, kept in bounded memory."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import ImageError
from tbps_infer.gallery import Record
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.metrics import Metrics

if TYPE_CHECKING:
    from PIL import Image

    from tbps_infer.preprocessing import Preprocessing

__all__ = ["Pictures", "decode_example"]

_SIZES = {"thumbnail": (192, 576), "picture": (1600, 1600)}  # width, height at most: twice what the page shows
_QUALITY = {"thumbnail": 82, "picture": 92}
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

    def etag(self, record: Record, kind: str) -> str:
        """What names a record's picture as the file is now; raises RefusedError (404) when the file is gone."""
        if record.crop is not None:
            state = record.stamp.sha256
        else:
            try:
                stat = record.path.stat()
            except OSError:
                raise RefusedError(404, "The picture is not there any more.", "Embed the gallery again.") from None
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        facts = f"{record.record} {record.path} {state} {kind}"
        return f'"{hashlib.blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()}"'

    def make(self, record: Record, kind: str, etag: str) -> bytes:
        """The picture as JPEG, from memory or from its file; kind is ``thumbnail`` or ``picture``.

        Raises:
            RefusedError: 404, when the file cannot be decoded any more.
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

    def _encode(self, record: Record, kind: str) -> bytes:
        from tbps_infer.images import load_rgb

        try:
            image = load_rgb(record.picture, lambda image: _shrunk(image, _SIZES[kind]))
        except ImageError as error:
            raise RefusedError(
                404, "The picture cannot be decoded.", "It was changed since it was embedded."
            ) from error
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
