"""Every kind of picture becomes the same upright 8-bit RGB, and resizing is Pillow's own."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tbps_infer.errors import ImageError
from tbps_infer.images import load_crop, load_rgb, readable_extensions, to_crop, to_rgb
from tbps_infer.preprocessing import Interpolation, Preprocessing

SMALL = Preprocessing(image_size=(12, 4))
MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)


def noise(seed: int, size: tuple[int, int], channels: int = 3) -> NDArray[np.uint8]:
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def rgb(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(noise(seed, size))


def picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Noise in any mode, within the range that the mode means."""
    grey = noise(seed, size, 1)
    if mode in ("1", "P", "PA"):
        return Image.fromarray(grey).convert(mode)
    if mode == "La":
        return rgba(seed, size).convert("LA").convert("La")
    if mode in ("I", "I;16"):
        return Image.fromarray(grey.astype(np.int32 if mode == "I" else np.uint16) * 257)
    if mode == "F":
        return Image.fromarray((grey / 255).astype(np.float32))
    return Image.frombytes(mode, size, noise(seed, size, len(Image.new(mode, (1, 1)).tobytes())).tobytes())


def rgba(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(noise(seed, size, 4))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(values: NDArray[np.uint16], *, transparent: int | None = None) -> bytes:
    """A 16-bit PNG by hand: grey [h, w] or RGB [h, w, 3]; Pillow writes only the first."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + values[y].astype(">u2").tobytes() for y in range(height))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    keyed = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + keyed
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(raw: bytes, size: tuple[int, int], bits: int) -> bytes:
    """An uncompressed grey little-endian TIFF by hand, for bit depths that Pillow does not write."""
    width, height = size
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 0),
        (277, 1),
        (278, height),
        (279, len(raw)),
    ]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + raw


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(MODES),
    sizes,
    seeds,
    st.sampled_from(("bilinear", "bicubic")),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
)
def test_any_mode_and_size_becomes_a_crop(
    mode: str, size: tuple[int, int], seed: int, interpolation: Interpolation, wanted: tuple[int, int]
) -> None:
    image = picture(mode, size, seed)
    crop = to_crop(image, Preprocessing(image_size=wanted, interpolation=interpolation))
    assert crop.dtype == np.uint8 and crop.shape == (*wanted, 3) and crop.flags.writeable


@given(st.sampled_from(("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")), sizes, seeds)
def test_opaque_8_bit_pictures_are_converted_as_pillow_does(mode: str, size: tuple[int, int], seed: int) -> None:
    image = picture(mode, size, seed)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


@given(sizes, st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_constant_colour_stays_constant(
    size: tuple[int, int], wanted: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    crop = to_crop(Image.new("RGB", size, colour), Preprocessing(image_size=wanted))
    assert (crop == np.array(colour)).all()


@given(sizes, st.tuples(st.integers(1, 40), st.integers(1, 40)), seeds, st.sampled_from(("bilinear", "bicubic")))
def test_resizing_is_pillows_own(
    size: tuple[int, int], wanted: tuple[int, int], seed: int, interpolation: Interpolation
) -> None:
    image = rgb(seed, size)
    height, width = wanted
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    own = np.asarray(image.resize((width, height), filters[interpolation]))
    crop = load_crop(encoded(image, "PNG"), Preprocessing(image_size=wanted, interpolation=interpolation))
    np.testing.assert_array_equal(crop, own)


def test_shrinking_averages_as_an_antialiased_filter_does() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255  # a filter without antialiasing would return one of the two values
    crop = to_crop(Image.fromarray(stripes), Preprocessing(image_size=(4, 4)))
    assert np.abs(crop.astype(int) - 127).max() <= 4  # the border sees one stripe less


def test_a_large_jpeg_is_decoded_in_full() -> None:
    """Draft mode would decode it at an eighth of its size, to other pixels."""
    data = encoded(rgb(3, (640, 960)), "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((4, 12), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(load_crop(data, SMALL), full)
    with Image.open(io.BytesIO(data)) as drafted:
        drafted.draft("RGB", (8, 24))
        assert np.abs(np.asarray(drafted.resize((4, 12))).astype(int) - full).max() > 0


# What a viewer must do to the stored pixels, by EXIF 2.32, table 6.
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_equals_the_transposed_picture(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(rgb(1, (7, 5)), kind, exif=exif, **options)
    plain = np.asarray(Image.open(io.BytesIO(encoded(rgb(1, (7, 5)), kind, **options))).convert("RGB"))
    image = load_rgb(data)
    np.testing.assert_array_equal(np.asarray(image), UPRIGHT[orientation](plain))
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image))  # and is not turned twice
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(to_rgb(opened)), np.asarray(image))


def test_an_orientation_outside_the_table_and_damaged_exif_count_as_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    image = rgb(2, (7, 5))
    np.testing.assert_array_equal(np.asarray(load_rgb(encoded(image, "PNG", exif=exif))), np.asarray(image))
    damaged = encoded(image, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01")
    np.testing.assert_array_equal(np.asarray(load_rgb(damaged)), np.asarray(image))


@given(sizes, seeds)
def test_16_bit_grey_equals_its_8_bit_version(size: tuple[int, int], seed: int) -> None:
    deep = np.random.default_rng(seed).integers(0, 65536, size[::-1], dtype=np.uint16)
    eight = deep / 65535 * 255
    pictures = [
        load_rgb(png16(deep)),
        load_rgb(encoded(Image.fromarray(deep), "TIFF")),
        to_rgb(Image.fromarray(deep.astype(np.int32))),
        load_rgb(b"P5 %d %d 65535 " % size + deep.astype(">u2").tobytes()),
        to_rgb(Image.frombytes("I;16B", size, deep.astype(">u2").tobytes())),
        load_rgb(png16(np.repeat(deep[..., None], 3, axis=2))),
        load_rgb(encoded(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF")),
    ]
    for picture in pictures:
        grey = np.asarray(picture).astype(float)
        assert np.abs(grey - eight[..., None]).max() <= 1


def test_12_bit_tiff_is_scaled_from_its_own_white() -> None:
    packed = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in [(0, 4095), (2048, 1000)])
    grey = np.asarray(load_rgb(tiff(packed, (2, 2), 12)))[..., 0]
    np.testing.assert_array_equal(grey, [[0, 255], [128, 62]])


def test_16_bit_transparency_is_laid_over_white() -> None:
    values = np.array([[0, 1000, 65535]], np.uint16)
    grey = np.asarray(load_rgb(png16(values, transparent=1000)))[0, :, 0]
    np.testing.assert_array_equal(grey, [0, 255, 255])


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.full((2, 2), 70000, np.int32)),
        Image.fromarray(np.full((2, 2), -1, np.int32)),
        Image.fromarray(np.full((2, 2), 1.5, np.float32)),
        Image.fromarray(np.full((2, 2), np.nan, np.float32)),
    ],
)
def test_values_without_an_agreed_white_are_refused(image: Image.Image) -> None:
    with pytest.raises(ImageError, match=r"values from .* want 0 to"):
        to_rgb(image)


@given(sizes, seeds)
def test_alpha_is_composited_over_white(size: tuple[int, int], seed: int) -> None:
    pixels = noise(seed, size, 4)
    alpha = pixels[..., 3:] / 255
    over_white = pixels[..., :3] * alpha + 255 * (1 - alpha)
    got = np.asarray(load_rgb(encoded(Image.fromarray(pixels), "PNG")))
    assert np.abs(got - over_white).max() <= 1
    opaque = alpha[..., 0] == 1
    np.testing.assert_array_equal(got[opaque], pixels[..., :3][opaque])

    grey = (
        Image.fromarray(pixels[..., :2].copy(), "LA")
        if False
        else Image.merge("LA", [Image.fromarray(pixels[..., c].copy()) for c in (0, 3)])
    )
    got = np.asarray(load_rgb(encoded(grey, "PNG")))
    assert np.abs(got - (pixels[..., :1] * alpha + 255 * (1 - alpha))).max() <= 1


def test_palette_with_transparency() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 255, 1, 2, 3])
    image.putdata([0, 1, 2, 3])
    expected = [[10, 20, 30], [200, 0, 0], [0, 0, 255], [1, 2, 3]]
    np.testing.assert_array_equal(np.asarray(load_rgb(encoded(image, "PNG")))[0], expected)
    one = load_rgb(encoded(image, "GIF", transparency=1))  # one colour is transparent
    np.testing.assert_array_equal(np.asarray(one)[0], [expected[0], [255, 255, 255], *expected[2:]])
    each = load_rgb(encoded(image, "PNG", transparency=bytes([255, 0, 128, 255])))  # an alpha for each colour
    half = [127, 127, 255]
    assert np.abs(np.asarray(each)[0].astype(int) - [expected[0], [255] * 3, half, expected[3]]).max() <= 1


def test_grey_and_rgb_with_a_transparent_colour() -> None:
    grey = Image.fromarray(np.array([[0, 7, 255]], np.uint8))
    np.testing.assert_array_equal(np.asarray(load_rgb(encoded(grey, "PNG", transparency=7)))[0, :, 0], [0, 255, 255])
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    got = np.asarray(load_rgb(encoded(colour, "PNG", transparency=(1, 2, 3))))
    np.testing.assert_array_equal(got[0], [[255, 255, 255], [4, 5, 6]])


def flat_cmyk_jpeg(c: int, m: int, y: int, k: int) -> bytes:
    planes = [Image.new("L", (16, 16), value) for value in (c, m, y, k)]
    return encoded(Image.merge("CMYK", planes), "JPEG", quality=100)


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (10, 200, 50, 0), (10, 200, 50, 90), (0, 0, 0, 255)])
def test_inverted_adobe_cmyk(ink: tuple[int, int, int, int]) -> None:
    """Pillow writes the Adobe marker and inverted inks, as Photoshop does; R = (255 − C)(255 − K)/255."""
    data = flat_cmyk_jpeg(*ink)
    assert b"Adobe" in data
    *inks, black = ink
    expected = [(255 - value) * (255 - black) / 255 for value in inks]
    assert np.abs(np.asarray(load_rgb(data)).astype(float) - expected).max() <= 2


def test_inverted_adobe_ycck() -> None:
    """The same stored numbers declared YCCK (transform 2) are Y, Cb, Cr of the inverted inks, and K as before."""
    stored = (200, 100, 160, 240)  # Y Cb Cr K as they lie in the file, inverted by Adobe's habit
    data = flat_cmyk_jpeg(*(255 - value for value in stored))
    marker = data.index(b"Adobe")
    ycck = data[: marker + 11] + b"\x02" + data[marker + 12 :]
    y, cb, cr, k = stored
    red = y + 1.402 * (cr - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    # libjpeg turns YCC into C = 255 − R, and so on; Adobe's inversion makes that R again, times 1 − K.
    expected = np.array([255 - red, 255 - green, 255 - blue]) * k / 255
    assert np.abs(np.asarray(load_rgb(ycck)).astype(float) - expected).max() <= 3


def test_the_first_frame_of_an_animation_and_of_a_many_page_tiff() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
        assert (np.asarray(load_rgb(data)) == [255, 0, 0]).all(), kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused_with_a_reason(kind: str, tmp_path: Path) -> None:
    data = encoded(rgb(4, (64, 64)), kind)
    file = tmp_path / "cut.bin"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.bin cannot be decoded: .{8,}") as caught:
        load_rgb(file)
    assert "\n" not in caught.value.message


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"The picture cannot be decoded: it is not a picture in a known format\."):
        load_rgb(b"a woman in a red coat")
    with pytest.raises(ImageError, match="not a picture"):
        load_rgb(b"")
    with pytest.raises(ImageError, match=r"missing\.jpg cannot be read: No such file"):
        load_rgb(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        load_rgb(tmp_path)
    with pytest.raises(ImageError, match="no pixels: it is 0x5"):
        to_rgb(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match="EPS, which only an outside program can draw"):
        load_rgb(encoded(rgb(5, (4, 4)), "EPS"))


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (300, 300)), "PNG")
    for limit in (300 * 300 - 1, 300 * 300 // 2 - 1):  # where Pillow only warns, and where it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=f"limit of {limit}"):
            load_rgb(data)
    with pytest.raises(ImageError, match="the limit is 10"):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        to_rgb(Image.new("L", (4, 3)))


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_a_bomb_that_pillow_only_warns_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (30, 30)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 899)
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ImageError, match="30x30 pixels, and the limit is 899"),
    ):
        load_rgb(data)


@pytest.mark.filterwarnings("ignore")  # damaged files make Pillow's plugins warn in many ways
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX")), seeds)
def test_damaged_bytes_give_a_picture_or_an_image_error(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer(encoded(rgb(seed, (16, 16)), kind), np.uint8).copy()
    where = rng.integers(0, min(len(data), 400), 6)
    data[where] = rng.integers(0, 256, 6)
    try:
        crop = load_crop(data.tobytes(), SMALL)
    except ImageError as error:
        assert error.message
    else:
        assert crop.shape == (12, 4, 3)


def test_threads_agree_with_one(tmp_path: Path) -> None:
    files = []
    for index in range(20):
        file = tmp_path / f"{index}.jpg"
        rgb(index, (30 + index, 50)).save(file)
        files.append(file)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda file: load_crop(file, SMALL), files))
    for file, crop in zip(files, together, strict=True):
        np.testing.assert_array_equal(crop, load_crop(file.read_bytes(), SMALL))


def test_heic_is_read_with_pillow_heif(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), (200, 30, 40))
    heif.register_heif_opener()
    image.save(tmp_path / "a.heic", quality=95)
    assert ".heic" in readable_extensions()
    got = np.asarray(load_rgb(tmp_path / "a.heic")).astype(int)
    assert got.shape == (48, 64, 3)
    assert np.abs(got - (200, 30, 40)).max() <= 8  # lossy


def test_the_first_picture_of_an_mpo_is_read(tmp_path: Path) -> None:
    left, right = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    left.save(tmp_path / "a.mpo", save_all=True, append_images=[right])
    assert ".mpo" in readable_extensions()
    assert np.abs(np.asarray(load_rgb(tmp_path / "a.mpo")).astype(int) - (255, 0, 0)).max() <= 2
