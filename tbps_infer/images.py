"""Decoding and resizing of pictures: the one implementation that export, embedding and search share.

Whatever Pillow reads becomes 8-bit RGB, upright as its EXIF orientation says, then one size. A JPEG is always decoded
in full: Pillow's draft mode and ``reducing_gap`` are faster on large photographs, and give other pixels than
decoding and resizing do, so the same picture would get another embedding depending on its size on disk. ICC profiles
are not applied, as the field's training code does not apply them.

Pictures with more than 8 bits are converted in strips, and grey ones stay grey until they are resized.
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, _imaging

from tbps_infer.decode_memory import DecodeMemory
from tbps_infer.errors import ImageError
from tbps_infer.preprocessing import Preprocessing

__all__ = ["load_crop", "load_rgb", "named_picture", "picture_being_read", "readable_extensions", "to_crop", "to_rgb"]

Made = TypeVar("Made")

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_TIFF_BITS_PER_SAMPLE = 258
_STRIP_PIXELS = 1 << 20

# What Pillow keeps of a pixel, by mode; 4 bytes where nothing is said.
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}

# Pillow hands these to Ghostscript: a picture from a gallery must never start another program.
_PROGRAM_FORMATS = frozenset({"EPS"})


def load_rgb(source: Path | bytes, shrink: Callable[[Image.Image], Image.Image] = lambda image: image) -> Image.Image:
    """Decode a picture's first frame to upright 8-bit RGB.

    Args:
        source: A file, or a file's bytes.
        shrink: Makes the picture smaller while the memory for decoding it is held: what is kept of many pictures is
            to be small.

    Returns:
        An image of mode RGB, as `to_rgb` makes it and `shrink` leaves it.

    Raises:
        ImageError: It cannot be read or decoded, is truncated, empty, has more pixels than Pillow's limit
            (``PIL.Image.MAX_IMAGE_PIXELS``) or more bytes than memory allows; the sentence gives the reason.
    """
    return _load(source, lambda image: shrink(to_rgb(image)))


def to_rgb(image: Image.Image) -> Image.Image:
    """Make any Pillow image upright 8-bit RGB; an image that already is comes back itself.

    Transparent pixels are laid over white. 16-bit grey (modes I;16 and I) is scaled from 0…65535, or from 0…4095
    where a TIFF says 12 bits, and floating-point grey (mode F) from 0…1. Damaged EXIF data counts as none.

    Raises:
        ImageError: The image has no pixels or too many, cannot be decoded, or its values lie outside their range.
    """
    return _rgb_of(_grey_or_rgb(image))


def to_crop(image: Image.Image, facts: Preprocessing) -> NDArray[np.uint8]:
    """Resize a picture straight to the network's size, its proportions not kept, as the field does.

    Args:
        image: Any Pillow image; `to_rgb` is applied to it.
        facts: The size and the filter.

    Returns:
        uint8 ``[height, width, 3]``, writable: exactly what Pillow's own resize gives.

    Raises:
        ImageError: As `to_rgb`.
    """
    height, width = facts.image_size
    # Channels are resized one by one, so grey becomes the same RGB afterwards, from a quarter of the memory.
    resized = _grey_or_rgb(image).resize((width, height), _RESAMPLING[facts.interpolation])
    return np.array(_rgb_of(resized), dtype=np.uint8)


def load_crop(source: Path | bytes, facts: Preprocessing, memory: DecodeMemory | None = None) -> NDArray[np.uint8]:
    """Decode a picture and resize it: `load_rgb`, then `to_crop`.

    Args:
        source: As of `load_rgb`.
        facts: The size and the filter.
        memory: Holds what decoding takes, until it is done; None is the one that all share who name none.

    Returns:
        uint8 ``[height, width, 3]``.

    Raises:
        ImageError: As `load_rgb`, or the picture takes more than the memory.
    """
    return _load(source, lambda image: to_crop(image, facts), memory)


@functools.cache
def readable_extensions() -> frozenset[str]:
    """Extensions, in lower case, of the formats that are read here: Pillow's, and with pillow-heif HEIC."""
    _load_formats()
    return frozenset(Image.registered_extensions())


_reading = threading.local()


@contextmanager
def named_picture(name: str) -> Iterator[None]:
    """Say whose the pictures are that this thread decodes, for warnings about them."""
    before = picture_being_read()
    _reading.name = name
    try:
        yield
    finally:
        _reading.name = before


def picture_being_read() -> str | None:
    """The name of the picture that this thread decodes; None where there is none."""
    name: str | None = getattr(_reading, "name", None)
    return name


@functools.cache
def _shared_memory() -> DecodeMemory:
    return DecodeMemory()


def _load(source: Path | bytes, make: Callable[[Image.Image], Made], memory: DecodeMemory | None = None) -> Made:
    memory = memory or _shared_memory()
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "The picture", make, memory)
    try:
        file = source.open("rb")
    except OSError as error:
        raise ImageError(f"{source} cannot be read: {error.strerror or error}.") from error
    with file, named_picture(str(source)):
        # Some decoders read all of a file, or as much as the file says.
        with memory.files.hold(os.fstat(file.fileno()).st_size, f"Reading {source}"):
            return _decode(file, str(source), make, memory)


@functools.cache
def _load_formats() -> None:
    # Pillow loads most format plugins at the first miss. In the older versions that we support (seen in 10.1's
    # source) a second thread that misses meanwhile is told that the file is no picture, so they are loaded before:
    # 30 ms once.
    Image.init()
    _silence_libtiff()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def _silence_libtiff() -> None:
    """Keep libtiff from writing to standard error: it names no file, and what it finds raises an error anyway."""
    with suppress(AttributeError, OSError):  # a Pillow without libtiff, or without a file of its own
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _decode(file: IO[bytes], name: str, make: Callable[[Image.Image], Made], memory: DecodeMemory) -> Made:
    _load_formats()
    try:
        with ExitStack() as held:
            with Image.open(file) as image:
                if image.format in _PROGRAM_FORMATS:
                    raise ImageError(f"{name} is {image.format}, which only an outside program can draw.")
                _check_size(image)
                held.enter_context(memory.pixels.hold(_decoding_bytes(image), "Decoding it"))
                made = make(image)
            del image  # its pixels go before what is held for them does
            return made
    except ImageError as error:
        raise ImageError(error.message.replace("The picture", name, 1), error.hint) from error
    except Exception as error:  # As in to_rgb: this is the boundary to Pillow.
        raise ImageError(f"{name} cannot be decoded: {_reason(error)}.") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"The picture has no pixels: it is {width}x{height}.")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"The picture has {width}x{height} pixels, and the limit is {limit}.", "Crop it to one person."
        )


def _decoding_bytes(image: Image.Image) -> int:
    """What decoding takes: the pixels as they are stored, turned upright, and as grey or RGB."""
    stored = _PIXEL_BYTES.get(image.mode, 4)
    # Not getexif(), which decodes a PNG.
    tags: Any = getattr(image, "tag_v2", {})
    turned = stored if image.info.get("exif") or tags.get(_EXIF_ORIENTATION, 1) != 1 else 0
    if image.has_transparency_data:
        converted = 4 if image.mode == "RGBA" else 8
    elif image.mode in _DEEP_MODES:
        converted = 1
    else:
        converted = 0 if image.mode in ("L", "RGB") else 4
    return image.width * image.height * (stored + turned + converted)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """Any image upright, in mode L or RGB; raises ImageError as `to_rgb`."""
    _check_size(image)
    try:
        image.load()
        white = _white_level(image)
        upright = _turn_upright(image)
        return _flatten(_to_eight_bits(upright, white) if upright.mode in _DEEP_MODES else upright)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged files.
        raise ImageError(f"The picture cannot be decoded: {_reason(error)}.") from error


def _rgb_of(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture in a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has more pixels than the limit of {Image.MAX_IMAGE_PIXELS}"
    return str(error).rstrip(".") or type(error).__name__


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Viewers show a picture with damaged EXIF data as it is stored; so do we.
        return image
    method = _UPRIGHT.get(orientation)
    if method is None:
        return image
    turned = image.transpose(method)
    # The copied EXIF data would turn it a second time when it comes here again.
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned


def _white_level(image: Image.Image) -> int:
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS_PER_SAMPLE, (16,))
    return 4095 if tuple(bits) == (12,) else 65535


def _to_eight_bits(image: Image.Image, white: int) -> Image.Image:
    top = 1 if image.mode == "F" else white
    transparent = image.info.get("transparency")
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    alpha = np.full_like(grey, 255) if isinstance(transparent, int) else None
    ranges = []
    for rows, values in _strips(image):
        ranges.append((values.min(), values.max()))
        if image.mode == "F":
            grey[rows] = np.rint(np.nan_to_num(np.clip(values, 0, 1)).astype(np.float64) * 255)
        else:
            grey[rows] = (np.clip(values, 0, top).astype(np.int32) * 255 + white // 2) // white
        if alpha is not None:
            alpha[rows][values == transparent] = 0
    smallest, largest = np.min(ranges), np.max(ranges)
    if not (smallest >= 0 and largest <= top):  # written so that NaN fails
        raise ImageError(
            f"The picture has values from {smallest} to {largest}, want 0 to {top}.",
            "Convert it to 8 bits per channel with its own range first.",
        )
    result = Image.fromarray(grey)
    if alpha is not None:
        result.putalpha(Image.fromarray(alpha))
    return result


def _strips(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The rows of a grey image and their values, some at a time: whole pictures would take gigabytes."""
    step = max(1, _STRIP_PIXELS // image.width)
    for first in range(0, image.height, step):
        last = min(first + step, image.height)
        yield slice(first, last), np.asarray(image.crop((0, first, image.width, last)))


def _flatten(image: Image.Image) -> Image.Image:
    """An 8-bit image in mode L or RGB, with what is transparent laid over white."""
    if not image.has_transparency_data:
        return image if image.mode == "L" else _rgb_of(image)
    if image.mode == "La":  # Pillow knows no way from La but this one
        image = image.convert("LA")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(layer, mask=layer)  # of a mask in mode RGBA, its alpha counts
    return canvas
