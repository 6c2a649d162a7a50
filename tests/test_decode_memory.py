"""Decoding takes a bounded amount of memory, and what takes more is refused with a sentence."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tbps_infer.decode_memory import DecodeMemory
from tbps_infer.errors import ImageError
from tbps_infer.images import load_crop, load_rgb
from tbps_infer.preprocessing import Preprocessing

SMALL = Preprocessing(image_size=(12, 4))
SIDE = 4700  # a quarter of the largest picture that Pillow reads
PIXELS = SIDE * SIDE
PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from tbps_infer.decode_memory import DecodeMemory
from tbps_infer.images import load_crop
from tbps_infer.preprocessing import Preprocessing
Image.init()
content, memory = open(sys.argv[1], "rb").read(), DecodeMemory(int(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: load_crop(content, Preprocessing(image_size=(12, 4)), memory), range(int(sys.argv[3]))))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def peak(file: Path, memory: int = 1 << 30, pictures: int = 1) -> int:
    """Bytes by which a process grows that decodes a picture, or copies of it in four threads."""
    command = [sys.executable, "-c", PEAK, str(file), str(memory), str(pictures)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a few hundred KB: a 16-bit PNG and a float TIFF."""
    folder = tmp_path_factory.mktemp("deep")
    values = np.repeat(np.arange(SIDE, dtype=np.uint16)[:, None], SIDE, axis=1)
    Image.fromarray(values).save(folder / "16.png")
    floats = Image.fromarray((values / np.float32(65535)).astype(np.float32))
    floats.save(folder / "float.tif", compression="tiff_adobe_deflate")
    return {"png": folder / "16.png", "tiff": folder / "float.tif"}


@pytest.mark.parametrize(("kind", "pixel_bytes"), [("png", 2), ("tiff", 4)])
def test_deep_pictures_are_converted_in_strips(deep: dict[str, Path], kind: str, pixel_bytes: int) -> None:
    # The pixels as they are stored, and as grey; libtiff keeps a strip beside them.
    assert peak(deep[kind]) < (pixel_bytes + 1) * PIXELS + (48 << 20)


def test_threads_share_the_memory(deep: dict[str, Path]) -> None:
    one = peak(deep["png"])
    assert peak(deep["png"], memory=6 * PIXELS, pictures=8) < one + (48 << 20)  # room for one at a time


def test_a_picture_that_takes_more_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(buffer, "PNG")
    load_crop(buffer.getvalue(), SMALL, DecodeMemory(6 << 20))
    with pytest.raises(ImageError, match=r"Decoding it takes 4 MiB, and 3 MiB of the 4 MiB for decoding") as caught:
        load_crop(buffer.getvalue(), SMALL, DecodeMemory(4 << 20))
    assert "--decode-memory" in caught.value.message


def test_the_memory_is_waited_for_and_given_back() -> None:
    memory = DecodeMemory(400)
    order = list[str]()

    def second() -> None:
        with memory.pixels.hold(200, "It"):
            order.append("second")

    thread = threading.Thread(target=second)
    with pytest.raises(ZeroDivisionError), memory.pixels.hold(200, "It"), memory.files.hold(100, "It"):
        thread.start()
        thread.join(0.1)
        order.append("first")
        _ = 1 / 0
    thread.join(10)
    assert order == ["first", "second"]


def test_a_file_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    """It takes no room on the disk, and would take all of the memory."""
    sparse = tmp_path / "sparse.jpg"
    with sparse.open("wb") as file:
        file.truncate(8 << 30)
    for load in (load_rgb, lambda path: load_crop(path, SMALL)):
        with pytest.raises(ImageError, match=r"sparse\.jpg takes 8,192 MiB, and 256 MiB of the 1,024 MiB"):
            load(sparse)


def test_what_a_decoder_takes_besides_is_held_too() -> None:
    memory = DecodeMemory(4 * 5 * 10**6)
    for form, options in (("JPEG", {"progressive": True}), ("WEBP", {}), ("TIFF", {})):
        buffer = io.BytesIO()
        Image.new("RGB", (2000, 1000)).save(buffer, form, **options)
        if form == "TIFF":
            load_crop(buffer.getvalue(), SMALL, DecodeMemory(4 * 6 * 10**6))
            memory = DecodeMemory(4 * 4 * 10**6)
        with pytest.raises(ImageError, match="Decoding it takes"):
            load_crop(buffer.getvalue(), SMALL, memory)
