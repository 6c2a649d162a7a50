"""Checksums of indexes: compared before a file is mapped, once per process for a file as it is.

usearch ends the process on a damaged graph, and a damaged sketch loses hits without a word. So both are read in full
when they are opened: in pieces and by all cores, as SHA-256 takes 1.3 GB/s on one (measured).
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO

from tbps_infer.cores import usable_cores

__all__ = ["file_checksum", "require_checksum"]

_PIECE_BYTES = 16 << 20
_Known = tuple[int, int, int, int, int, str]
_known: set[_Known] = set()


def file_checksum(file: BinaryIO, start: int, stop: int, facts: str) -> str:
    """sha256 of some facts and of the sha256 of each 16 MiB of a file's bytes from start to stop. Raises OSError."""
    pieces = range(start, stop, _PIECE_BYTES)
    with ThreadPoolExecutor(min(usable_cores(), max(1, len(pieces)))) as pool:
        hashes = pool.map(partial(_piece_sha256, file.fileno(), stop), pieces)
        return hashlib.sha256(b"".join([facts.encode(), *hashes])).hexdigest()


def require_checksum(file: BinaryIO, span: tuple[int, int], facts: str, wanted: str, *, again: bool = False) -> None:
    """Raise ValueError unless a file has a checksum; OSError where it cannot be read.

    Args:
        file: Opened; its bytes are those that are mapped afterwards.
        span: The first byte and the one after the last.
        facts: As of `file_checksum`.
        wanted: The checksum.
        again: Whether to read what was found right before, by the file's inode, size and times.
    """
    status = os.fstat(file.fileno())
    known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, wanted)
    if known in _known and not again:
        return
    if file_checksum(file, *span, facts) != wanted:
        raise ValueError("its sha256 differs")
    _known.add(known)


def _piece_sha256(handle: int, stop: int, start: int) -> bytes:
    digest = hashlib.sha256()
    end = min(start + _PIECE_BYTES, stop)
    while start < end:
        data = os.pread(handle, min(1 << 20, end - start), start)
        if not data:
            raise ValueError("it was cut short")
        digest.update(data)
        start += len(data)
    return digest.digest()
