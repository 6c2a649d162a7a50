"""Writes a file or a folder whole or not at all: the only module that syncs and renames what a user keeps.

Everything is written under a temporary name beside its place, synced to the disk, and renamed; then the folder that
holds the name is synced. Whenever the process is killed or the power fails, the place holds what it held before or
all that is new. An error or an interruption leaves nothing else behind; a kill leaves ``.NAME.XXXXXXXX.partial``.

Files that grow by appending (a gallery's vectors, JSON lines) make another promise and are not written here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from tbps_infer.errors import TbpsError

__all__ = ["leftover_of", "new_file", "new_folder", "remove_leftovers", "sync", "write_bytes", "write_text"]

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial")
# What to do, by errno. A failed write does not name its file; with one of these it was a file of the place.
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room on the disk."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a place where you may write."),
}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux's fcntl.h and fs.h


@contextlib.contextmanager
def new_file(place: Path, error: type[TbpsError] | None = None, *, parents: bool = False) -> Iterator[Path]:
    """Yield a path to write a file to, which takes its place when the block ends without an error.

    A link stays a link: the file that it names is replaced. A device or a pipe is written to directly.

    Args:
        place: The file.
        error: What to raise where the place cannot be written; None leaves the OSError to a caller who says more.
        parents: Whether missing folders are made; they are removed again when nothing comes of the file.

    Raises:
        TbpsError: Of the class `error`. The place is as it was, unless only the last sync, of its folder, failed.
    """
    with _temporary(place, error, parents) as (temporary, target):
        if place.exists() and not (place.is_file() or place.is_dir()):
            yield place
            return
        yield temporary
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)


@contextlib.contextmanager
def new_folder(place: Path, error: type[TbpsError] | None = None, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes its place when the block ends without an error.

    Args:
        place: The folder; missing parents are made, and removed again when nothing comes of it.
        error: As for `new_file`.
        replace: Whether a folder that is there by then is replaced; an empty one always is.

    Raises:
        TbpsError: Of the class `error`. The place is as it was, unless only the last sync, of its parent, failed.
    """
    with _temporary(place, error, parents=True) as (temporary, target):
        temporary.mkdir()
        yield temporary
        for entry in sorted(temporary.rglob("*"), reverse=True):  # what is in a folder comes before it
            if not entry.is_symlink():
                sync(entry)
        sync(temporary)
        if replace and target.exists():
            _trade(temporary, target)
        else:
            temporary.rename(target)
        sync(target.parent)


def write_bytes(
    place: Path, data: bytes | memoryview, error: type[TbpsError] | None = None, *, parents: bool = False
) -> None:
    """Write a file's content; parameters and errors are those of `new_file`."""
    with new_file(place, error, parents=parents) as temporary:
        temporary.write_bytes(data)


def write_text(place: Path, text: str, error: type[TbpsError] | None = None, *, parents: bool = False) -> None:
    """Write a file's content as UTF-8, line ends as they are; parameters and errors are those of `new_file`."""
    write_bytes(place, text.encode(), error, parents=parents)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut. Raises OSError, which names the path."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder: when a name is on the disk is up to them.
        if not (error.errno in (errno.EINVAL, errno.ENOTSUP) and path.is_dir()):
            error.filename = str(path)
            raise
    finally:
        os.close(handle)


def leftover_of(name: str) -> str | None:
    """The name of the file or folder that a killed writer left this for; None where it is no leftover."""
    found = _LEFTOVER.fullmatch(name)
    return found and found[1]


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder; only for whoever is its one writer."""
    for entry in list(folder.glob(".*.partial")):
        if leftover_of(entry.name):
            _remove(entry)


@contextlib.contextmanager
def _temporary(place: Path, error: type[TbpsError] | None, parents: bool) -> Iterator[tuple[Path, Path]]:
    """A name that nothing has, and beside it the place, links resolved; what has that name at the end is removed.

    An OSError about one of the two becomes a sentence. Others, as of what feeds the file, pass unchanged.
    """
    target = Path(os.path.realpath(place))
    temporary = _beside(target)
    try:
        with _parents(target.parent) if parents else contextlib.nullcontext():
            try:
                if target.is_symlink():
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target))
                yield temporary, target
            finally:
                with contextlib.suppress(OSError):  # the error that led here says more
                    _remove(temporary)
    except OSError as caught:
        if error is None or not _is_about(caught, temporary, target):
            raise
        message = f"{place} cannot be written: {caught.strerror}."
        raise error(message, _HINTS.get(caught.errno or 0, "Choose another place.")) from caught


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")


def _is_about(error: OSError, temporary: Path, target: Path) -> bool:
    if not isinstance(error.filename, str | bytes):
        return error.errno in _HINTS
    named = Path(os.path.realpath(os.fsdecode(error.filename)))
    return temporary in (named, *named.parents) or named in (target, *target.parents)


@contextlib.contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; those made are removed at the end if nothing has come to be in them."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync(path.parent)
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _trade(new: Path, old: Path) -> None:
    """Give `new` the name of `old`, whose content has the name of `new` afterwards or is gone."""
    if _exchange(new, old):
        return
    # NFS and others cannot exchange names. A kill between these two renames leaves the old content as a leftover.
    aside = _beside(old)
    try:
        old.rename(aside)
        new.rename(old)
    except BaseException:
        if not old.exists():
            aside.rename(old)
        raise
    _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot, or it fails."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return renameat2 is not None and renameat2(*names, _RENAME_EXCHANGE) == 0
