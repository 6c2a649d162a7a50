"""Pictures as callers have them: paths, bytes, open files, Pillow images and arrays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Picture", "as_pictures"]

Picture: TypeAlias = Union[str, Path, bytes, BinaryIO, "Image.Image", NDArray[np.uint8]]
"""A file's path, its bytes, an open binary file, a Pillow image, or uint8 ``[height, width, 3]`` in RGB."""

_WANTED = (
    "Give a file's path, its bytes, an open binary file, a Pillow image, or an array uint8[height, width, 3] in RGB."
)


def as_pictures(sources: Picture | Iterable[Picture]) -> list[Path | bytes | Image.Image]:
    """Some pictures, or one, as what `tbps_infer.images` reads.

    An array uint8 ``[n, height, width, 3]`` is n pictures.

    Raises:
        UsageError: A source is no picture; a folder is none.
    """
    if not isinstance(sources, Iterable) or isinstance(sources, str | bytes | bytearray) or hasattr(sources, "read"):
        return [_as_picture(sources)]
    if isinstance(sources, np.ndarray) and sources.ndim != 4:
        return [_as_picture(sources)]
    return [_as_picture(source) for source in sources]


def _as_picture(source: Any) -> Path | bytes | Image.Image:
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if hasattr(source, "read"):
        source = source.read()
    if isinstance(source, str | Path):
        if Path(source).is_dir():
            raise UsageError(
                f"{source} is a folder, want pictures.",
                f"List them: sorted(pathlib.Path({str(source)!r}).glob('*.jpg')).",
            )
        return Path(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    raise UsageError(f"A {type(source).__name__} is no picture.", _WANTED)


def _of_array(pixels: NDArray[Any]) -> Image.Image:
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UsageError(f"An array {pixels.dtype}{list(pixels.shape)} is no picture.", _WANTED)
    return Image.fromarray(np.ascontiguousarray(pixels))
