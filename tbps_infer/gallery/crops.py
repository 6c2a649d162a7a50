"""Crops as JPEG, for galleries that keep them beside the embeddings."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import ImageError
from tbps_infer.preprocessing import Preprocessing

__all__ = ["crop_jpeg", "picture_crop"]

_QUALITY = 90


def crop_jpeg(crop: NDArray[np.uint8]) -> bytes:
    """A crop uint8 ``[height, width, 3]``, what the model saw, as JPEG."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(crop).save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def picture_crop(path: Path, facts: Preprocessing) -> bytes | None:
    """The crop that a model sees of a picture, as JPEG; None where the file cannot be read."""
    from tbps_infer.images import load_crop

    try:
        return crop_jpeg(load_crop(path, facts))
    except (ImageError, OSError):
        return None
