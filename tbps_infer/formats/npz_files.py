"""NumPy's archives: arrays of the shapes and types that are wanted, and never a pickled object."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Wanted", "read_npz"]

Wanted = tuple[str, tuple[int | None, ...]]
"""The type of an array, such as ``int32``, and its shape; None is any length."""

_MOST_BYTES = 256 << 20


def read_npz(file: Path, wanted: Mapping[str, Wanted], most_bytes: int = _MOST_BYTES) -> dict[str, NDArray[Any]]:
    """Read some arrays of an ``.npz`` file, as `numpy.savez` writes them.

    Sizes are read from the headers and compared before anything is allocated or unpacked.

    Args:
        file: The archive.
        wanted: What they are, by name.
        most_bytes: The largest sum of their sizes.

    Returns:
        The arrays by name, little-endian.

    Raises:
        OSError: The file cannot be opened.
        ValueError: An array is missing, damaged, or not what is wanted.
    """
    with file.open("rb") as opened:
        try:
            with zipfile.ZipFile(opened) as archive:
                members = {name: _member(archive, name) for name in wanted}
                total = sum(member.file_size for member in members.values())
                if total > most_bytes:
                    raise ValueError(f"its arrays have {total:,} bytes, and {most_bytes:,} are the most")
                return {name: _array(name, archive.read(members[name]), wanted[name]) for name in wanted}
        except ValueError:
            raise
        except Exception as error:  # zipfile and zlib raise nearly anything on damaged archives
            raise ValueError(f"it is damaged: {error}") from error


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no array {name!r}") from None


def _array(name: str, data: bytes, wanted: Wanted) -> NDArray[Any]:
    dtype, lengths = np.dtype(wanted[0]).newbyteorder("<"), wanted[1]
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"the array {name!r} is of another version of NumPy's format")
    shape, fortran, found = np.lib.format.read_array_header_1_0(stream)
    fits = len(shape) == len(lengths) and all(want in (None, n) for n, want in zip(shape, lengths, strict=True))
    if found != dtype or fortran or not fits or min(shape, default=0) < 0:
        want = ", ".join("any" if n is None else str(n) for n in lengths)
        raise ValueError(f"the array {name!r} is {found}{list(shape)}, want {wanted[0]}[{want}]")
    if len(data) - stream.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"the array {name!r} was cut short")
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()
    return array
