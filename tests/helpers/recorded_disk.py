"""Disks that fail or fill up; records when files are synced and renamed, and says whether they were made durable."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbps_infer import atomic

__all__ = ["Call", "RecordedDisk", "files_up_to"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail, C's and C++'s included, as those on a full disk do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass(frozen=True)
class Call:
    """One call that matters to what a power cut leaves.

    Attributes:
        name: ``sync``, ``rename`` or ``exchange``.
        path: What was synced or renamed.
        target: Its new name; None for a sync.
        content: sha256 of a file as it was synced; None for a folder and for a rename.
    """

    name: str
    path: Path
    target: Path | None = None
    content: str | None = None


class RecordedDisk:
    """Every sync and rename of this process, in order.

    Attributes:
        calls: Them.
        fail_at: Which call fails, counted from 1; none when 0.
        failure: An errno, or what is raised instead of an OSError.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self.fail_at = 0
        self.failure: int | BaseException = errno.EIO
        fsync, rename, replace, exchange = os.fsync, Path.rename, Path.replace, atomic._exchange

        def record_sync(handle: int) -> None:
            path = Path(f"/proc/self/fd/{handle}").readlink()
            self._note(Call("sync", path, None, sha256(path) if path.is_file() else None))
            fsync(handle)

        def record_rename(path: Path, target: Path) -> Path:
            self._note(Call("rename", path, target))
            return rename(path, target)

        def record_replace(path: Path, target: Path) -> Path:
            self._note(Call("rename", path, target))
            return replace(path, target)

        def record_exchange(one: Path, other: Path) -> bool:
            self._note(Call("exchange", one, other))
            return exchange(one, other)

        patch.setattr(os, "fsync", record_sync)
        patch.setattr(Path, "rename", record_rename)
        patch.setattr(Path, "replace", record_replace)
        patch.setattr(atomic, "_exchange", record_exchange)

    def _note(self, call: Call) -> None:
        self.calls.append(call)
        if len(self.calls) == self.fail_at:
            if isinstance(self.failure, int):
                raise OSError(self.failure, os.strerror(self.failure), str(call.path))
            raise self.failure

    def assert_durable(self, file: Path) -> None:
        """Its content was synced, then it or a folder above it took its name, then that name was synced."""
        naming = [n for n, call in enumerate(self.calls) if call.target in (file, *file.parents)]
        assert naming, f"{file} was not written under a temporary name"
        taken = self.calls[naming[-1]]
        assert taken.target is not None
        written = taken.path / file.relative_to(taken.target)
        before, after = self.calls[: naming[-1]], self.calls[naming[-1] :]
        synced = Call("sync", written, None, sha256(file))
        assert synced in before, f"{file} was not synced as it is before its rename"
        for folder in written.parents:
            if taken.path in (folder, *folder.parents):
                assert Call("sync", folder) in before, f"{folder} was not synced before its rename"
        assert Call("sync", taken.target.parent) in after, f"the name {taken.target} was not synced"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
