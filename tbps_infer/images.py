"""Decoding and resizing of pictures: the one implementation that export, embedding and search share.

Whatever Pillow reads becomes 8-bit RGB, upright as its EXIF orientation says, then one size. A JPEG is always decoded
in full: Pillow's draft mode and ``reducing_gap`` are faster on large photographs, and give other pixels than
decoding and resizing do, so the same picture would get another embedding depending on its size on disk. ICC profiles
are not applied, as the field's training code does not apply them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tbps_infer.errors import ImageError
from tbps_infer.preprocessing import Preprocessing

__all__ = ["load_crop", "load_rgb", "to_crop", "to_rgb"]

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

# Pillow hands these to Ghostscript: a picture from a gallery must never start another program.
_PROGRAM_FORMATS = frozenset({"EPS"})


def load_rgb(source: Path | bytes) -> Image.Image:
    """Decode a picture's first frame to upright 8-bit RGB.

    Args:
        source: A file, or a file's bytes.

    Returns:
        An image of mode RGB, as `to_rgb` makes it.

    Raises:
        ImageError: It cannot be read or decoded, is truncated, empty, or has more pixels than Pillow's limit
            (``PIL.Image.MAX_IMAGE_PIXELS``); the sentence gives the reason.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "The picture")
    try:
        file = source.open("rb")
    except OSError as error:
        raise ImageError(f"{source} cannot be read: {error.strerror or error}.") from error
    with file:
        return _decode(file, str(source))


def to_rgb(image: Image.Image) -> Image.Image:
    """Make any Pillow image upright 8-bit RGB; an image that already is comes back itself.

    Transparent pixels are laid over white. 16-bit grey (modes I;16 and I) is scaled from 0…65535, or from 0…4095
    where a TIFF says 12 bits, and floating-point grey (mode F) from 0…1. Damaged EXIF data counts as none.

    Raises:
        ImageError: The image has no pixels or too many, cannot be decoded, or its values lie outside their range.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"The picture has no pixels: it is {width}x{height}.")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"The picture has {width}x{height} pixels, and the limit is {limit}.", "Crop it to one person."
        )
    try:
        image.load()
        white = _white_level(image)
        upright = _turn_upright(image)
        return _flatten(_to_eight_bits(upright, white) if upright.mode in _DEEP_MODES else upright)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged files.
        raise ImageError(f"The picture cannot be decoded: {_reason(error)}.") from error


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
    resized = to_rgb(image).resize((width, height), _RESAMPLING[facts.interpolation])
    return np.array(resized, dtype=np.uint8)


def load_crop(source: Path | bytes, facts: Preprocessing) -> NDArray[np.uint8]:
    """Decode a picture and resize it: `load_rgb`, then `to_crop`. uint8 ``[height, width, 3]``; ImageError."""
    return to_crop(load_rgb(source), facts)


def _decode(file: IO[bytes], name: str) -> Image.Image:
    # Pillow loads most format plugins at the first miss. In the older versions that we support (seen in 10.1's
    # source) a second thread that misses meanwhile is told that the file is no picture, so they are loaded before:
    # 30 ms once.
    Image.init()
    try:
        with Image.open(file) as image:
            if image.format in _PROGRAM_FORMATS:
                raise ImageError(f"{name} is {image.format}, which only an outside program can draw.")
            return to_rgb(image)
    except ImageError as error:
        raise ImageError(error.message.replace("The picture", name, 1), error.hint) from error
    except Exception as error:  # As in to_rgb: this is the boundary to Pillow.
        raise ImageError(f"{name} cannot be decoded: {_reason(error)}.") from error


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
    values = np.asarray(image)
    top = 1 if image.mode == "F" else white
    if not (values.min() >= 0 and values.max() <= top):  # written so that NaN fails
        raise ImageError(
            f"The picture has values from {values.min()} to {values.max()}, want 0 to {top}.",
            "Convert it to 8 bits per channel with its own range first.",
        )
    if image.mode == "F":
        grey = np.rint(values.astype(np.float64) * 255)
    else:
        grey = (values.astype(np.int64) * 255 + white // 2) // white
    result = Image.fromarray(grey.astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return result


def _flatten(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == "La":  # Pillow knows no way from La but this one
        image = image.convert("LA")
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas
