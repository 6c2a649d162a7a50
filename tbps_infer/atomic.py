"""Writes a file or a folder whole or not at all: the only module that syncs and renames what a user keeps.

Everything is written under a temporary name beside its place, synced to the disk, and renamed; then the folder that
holds the name is synced. Whenever the process is killed or the power fails, the place holds what it held before or
all that is new. An error or an interruption leaves nothing else behind; a kill leaves ``.NAME.XXXXXXXX.partial``,
which the next writer of that folder removes.

A folder that is there already may be a mount point, which cannot be renamed, or hold files of others. Its new files
are written into a temporary folder inside it. A journal there, the last file to be written, says that they are all
there: from then on whoever comes next moves them to their places, if the process that wrote them does not.

Files that grow by appending (a gallery's vectors, JSON lines) make another promise and are not written here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from tbps_infer.errors import TbpsError
from tbps_infer.formats.json_files import read_json

__all__ = [
    "finish_new_files",
    "is_vacant",
    "leftover_of",
    "new_file",
    "new_files",
    "new_folder",
    "remove_leftovers",
    "sync",
    "without_room",
    "write_bytes",
    "write_text",
]

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial")
_JOURNAL = ".new-files.json"
_SPARE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What to do, by errno. A failed write does not name its file; with one of these it was a file of the place.
_HINTS = {
    **dict.fromkeys(_FULL, "Make room on the disk."),
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
def new_folder(
    place: Path, error: type[TbpsError] | None = None, *, replace: bool = False, last: str = ""
) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes its place when the block ends without an error.

    A folder that is there and empty stays, and gets the files as from `new_files`.

    Args:
        place: The folder; missing parents are made, and removed again when nothing comes of it.
        error: As for `new_file`.
        replace: Whether a folder with something in it is replaced as a whole.
        last: As for `new_files`.

    Raises:
        TbpsError: Of the class `error`. The place is as it was, unless only the last sync, of its parent, failed.
    """
    if os.path.lexists(place) and is_vacant(place):
        with new_files(place, error, last=last) as folder:
            yield folder
        return
    with _temporary(place, error, parents=True) as (temporary, target):
        # Where names cannot be exchanged, a kill may have left the place's content as a leftover.
        if target.exists() or not replace:
            _sweep(target)
        with _held(temporary):
            yield temporary
            _sync_below(temporary)
            if replace and target.exists():
                _trade(temporary, target)
            else:
                temporary.rename(target)
            sync(target.parent)
        _sweep(target)


@contextlib.contextmanager
def new_files(
    folder: Path, error: type[TbpsError] | None = None, *, replaces: Collection[str] = (), last: str = ""
) -> Iterator[Path]:
    """Yield an empty folder for files that take their places in a folder that is there, all of them or none.

    Whatever else is in the folder stays as it is. A kill while they take their places leaves the rest to
    `finish_new_files`, which is for whoever reads the folder to call first.

    Args:
        folder: The folder.
        error: As for `new_file`.
        replaces: Names, relative to the folder, of the files that the new ones replace; those of them without a new
            one are removed.
        last: The name of the file by which the folder is known for what it is; it comes last.

    Raises:
        TbpsError: Of the class `error`; among the reasons, a new file has the name of one that it does not replace.
    """
    with _temporary(folder, error, parents=False, inside=True) as (temporary, target):
        _sweep(target / target.name)
        with _held(temporary):
            yield temporary
            names = _files_below(temporary)
            taken = sorted(name for name in names - {*replaces} if os.path.lexists(target / name))
            if taken:
                raise OSError(errno.EEXIST, f"{taken[0]} is there, and is somebody else's", str(target))
            _sync_below(temporary)
            journal = {"last": last, "removed": sorted({*replaces} - names)}
            write_text(temporary / _JOURNAL, json.dumps(journal))
            sync(target)
            _take_places(temporary)


def finish_new_files(folder: Path, error: type[TbpsError] | None = None) -> None:
    """Move new files to their places where `new_files` was killed at it; without such files nothing is written.

    Raises:
        TbpsError: Of the class `error`: they cannot be moved.
    """
    for leftover in sorted(folder.glob(f".*.partial/{_JOURNAL}")):
        if leftover_of(leftover.parent.name):
            try:
                _take_places(leftover.parent)
            except OSError as caught:
                if error is None:
                    raise
                raise _sentence(error, folder, caught) from caught


def is_vacant(place: Path) -> bool:
    """Whether a new folder can have a name: nothing has it, or an empty folder.

    What killed writers left does not count, nor does the ``lost+found`` of a file system that is mounted there.
    """
    try:
        return all(entry.name == "lost+found" or leftover_of(entry.name) for entry in place.iterdir())
    except OSError:
        return not os.path.lexists(place)


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


def without_room(error: OSError, place: Path | None = None) -> str | None:
    """Which place an error says to be full; None where it is about something else.

    A failed write does not name its file, and many packages write to the folder for temporary files.

    Args:
        error: What was raised.
        place: What was being written, if that is known.
    """
    if "No usable temporary directory" in str(error):
        return f"The folder for temporary files ({os.environ.get('TMPDIR', '/tmp')})"
    if error.errno not in _FULL:
        return None
    if isinstance(error.filename, str):
        return error.filename
    import tempfile

    scratch = Path(tempfile.gettempdir())
    if _free(scratch) < _SPARE and (place is None or _free(place if place.is_dir() else place.parent) >= _SPARE):
        return f"The folder for temporary files ({scratch})"
    return "A disk" if place is None else str(place)


@contextlib.contextmanager
def _temporary(
    place: Path, error: type[TbpsError] | None, parents: bool, *, inside: bool = False
) -> Iterator[tuple[Path, Path]]:
    """A name that nothing has, and beside it the place, links resolved; what has that name at the end is removed.

    An OSError about one of the two becomes a sentence. Others, as of what feeds the file, pass unchanged.
    """
    target = Path(os.path.realpath(place))
    temporary = _beside(target / target.name if inside else target)
    try:
        with _parents(target.parent) if parents else contextlib.nullcontext():
            try:
                if target.is_symlink():
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target))
                yield temporary, target
            finally:
                with contextlib.suppress(OSError):  # the error that led here says more
                    _settle(temporary)
    except OSError as caught:
        if error is None or not _is_about(caught, temporary, target):
            raise
        raise _sentence(error, place, caught) from caught


def _sentence(error: type[TbpsError], place: Path, caught: OSError) -> TbpsError:
    full = None if caught.filename else without_room(caught, place)
    named = place if full in (None, str(place)) else full
    return error(
        f"{named} cannot be written: {caught.strerror}.", _HINTS.get(caught.errno or 0, "Choose another place.")
    )


@contextlib.contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Make a temporary folder, and hold a lock on it by which others see that its writer is alive."""
    while True:
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks: nobody gets one, nobody sweeps
            fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():  # else it was swept between the two calls
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _sweep(target: Path) -> None:
    """Settle the temporary folders that killed writers of a folder left; what cannot be settled stays."""
    for entry in target.parent.glob(".*.partial"):
        if leftover_of(entry.name) == target.name and entry.is_dir() and not entry.is_symlink():
            with contextlib.suppress(OSError):
                handle = os.open(entry, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _settle(entry)
                finally:
                    os.close(handle)


def _settle(temporary: Path) -> None:
    """Finish what is complete, and remove what is not."""
    if (temporary / _JOURNAL).exists():
        _take_places(temporary)
    else:
        _remove(temporary)


def _take_places(temporary: Path) -> None:
    """Move the files of a complete temporary folder to their places in the folder that it is in.

    Two processes may do so at once: each passes over what the other has moved.
    """
    folder = temporary.parent
    try:
        with contextlib.suppress(FileNotFoundError):
            journal = read_json(temporary / _JOURNAL)
            last, removed = journal.get("last"), journal.texts("removed")
            moved = sorted(_files_below(temporary) - {_JOURNAL}, key=lambda name: (name == last, name))
            for name in removed:
                _inside(folder, name).unlink(missing_ok=True)
            for name in moved:
                place = _inside(folder, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    (temporary / name).replace(place)
            _sync_names(folder, {*moved, *removed})
            _remove_folder(temporary, ignore_errors=True)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"{temporary.name}/{_JOURNAL} is damaged ({error})", str(folder)) from error
    except OSError as error:
        error.filename = str(folder)
        raise


def _inside(folder: Path, name: str) -> Path:
    """The path of a name in a folder; raises PermissionError where it leads out, as a journal made by others may."""
    path = folder / name
    if ".." in path.parts or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise PermissionError(errno.EPERM, f"{name} leads out of it", str(folder))
    return path


def _sync_names(folder: Path, names: Collection[str]) -> None:
    """Make the names of files survive a power cut; folders that are empty now are removed."""
    for parent in sorted({(folder / name).parent for name in names}, reverse=True):  # inner ones first
        if parent.is_dir():
            sync(parent)
        if parent != folder:
            with contextlib.suppress(OSError):
                parent.rmdir()
    sync(folder)


def _files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }


def _sync_below(folder: Path) -> None:
    for entry in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        if not entry.is_symlink():
            sync(entry)
    sync(folder)


def _free(place: Path) -> int:
    """Bytes that may be written where a place is; plenty where that is not known."""
    import shutil

    try:
        return shutil.disk_usage(place).free
    except OSError:
        return _SPARE


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.{os.urandom(4).hex()}.partial")


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
        _remove_folder(path)
    else:
        path.unlink(missing_ok=True)


def _remove_folder(path: Path, *, ignore_errors: bool = False) -> None:
    import shutil  # with its archives, it takes longer to import than what only reads should wait

    shutil.rmtree(path, ignore_errors=ignore_errors)


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
