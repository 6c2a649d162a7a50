"""Permissions that hold for root as well: without the two capabilities that look past them."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["bound_by_permissions"]

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, with two words of each set
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Make this thread, and those that it starts, obey the modes of files and folders."""
    header = ctypes.create_string_buffer(struct.pack("Ii", _VERSION, 0))
    before = ctypes.create_string_buffer(24)
    _check(_LIBC.capget(header, before))
    effective, *others = struct.unpack("6I", before.raw[:24])
    fewer = effective & ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    _check(_LIBC.capset(header, struct.pack("6I", fewer, *others)))
    try:
        yield
    finally:
        _check(_LIBC.capset(header, before.raw[:24]))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
