"""Following folders: pictures that appear or change are embedded soon after, until that is to end.

A change that the system tells of, or the passing of some seconds, is only a reason to look at all folders again. So
nothing depends on which changes are told: a network share, a full queue of events and a disk that was away are the
same to it. A file is taken when its size and time have not changed for a while, so half-written ones are waited for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol

from tbps_infer.errors import BackendError, GalleryBusyError, GalleryError, SourceError, UsageError
from tbps_infer.gallery.columns import Value
from tbps_infer.sources import SourceItem

__all__ = ["WatchOptions", "is_network", "watch_sources"]

log = logging.getLogger(__name__)

_NETWORK = frozenset(
    {*("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "virtiofs")}
)
_AT_ONCE = 256
_BUSY_SECONDS = 5.0

Stamp = tuple[int, int]
"""A file's size and its time of change in nanoseconds."""


class _Report(Protocol):
    """What watching needs of a `tbps_infer.embedding.EmbedReport`."""

    @property
    def unread(self) -> Sequence[Path]:
        """The pictures that could not be read."""


@dataclass(frozen=True)
class WatchOptions:
    """How to follow folders.

    Attributes:
        poll_seconds: Look every so many seconds and ask the system for nothing; None has it tell of changes.
        settle_seconds: How long a file must stay as it is before it is read.
        rescan_seconds: How often to look though nothing was told, and how soon to try again what could not be read.
    """

    poll_seconds: float | None = None
    settle_seconds: float = 2.0
    rescan_seconds: float = 60.0

    def __post_init__(self) -> None:
        if (self.poll_seconds is not None and self.poll_seconds <= 0) or self.settle_seconds < 0:
            raise UsageError("Seconds between two looks at a folder must be above 0.")


def watch_sources(
    read: Callable[[], Sequence[SourceItem]],
    embed: Callable[[Sequence[SourceItem]], _Report],
    folders: Sequence[Path],
    stop: Event,
    options: WatchOptions | None = None,
    prune: Callable[[], object] | None = None,
) -> None:
    """Embed what is in some folders, and what comes or changes there, until `stop` is set.

    Everything that was embedded is committed when it returns. While a folder is away, or another process writes to
    the gallery, it waits.

    Args:
        read: Lists the pictures; a SourceError means that there are none now.
        embed: Embeds some of them, commits, and reports which could not be read.
        folders: What `read` reads, absolute.
        stop: Ends it, at the latest after the pictures that are being embedded.
        options: How to go about it.
        prune: Called when files have gone; what it refuses is logged, and asked again when more have gone.

    Raises:
        BackendError: watchfiles is not installed and no `poll_seconds` are given.
        TbpsError: What `embed` raises, but for a gallery that is busy.
    """
    options = options or WatchOptions()
    look = _Look(options)
    warn, due = _Warnings(), 0.0
    for changed in _wakes(folders, stop, options):
        now = time.monotonic()
        if not changed and now < due:
            continue
        due = now + (options.poll_seconds or options.rescan_seconds)
        try:
            _embed_ready(look, read(), embed, stop)
            if prune is not None:
                _prune_gone(look, prune, warn)
        except SourceError as error:
            warn(f"{error.message} Waiting for it.")
        except GalleryBusyError as error:
            warn(f"{error.message} Waiting.")
            due = now + _BUSY_SECONDS
        else:
            warn.last = ""
        if look.unsettled:
            due = min(due, now + max(options.settle_seconds, 0.05))


class _Warnings:
    """Logs what is in the way, once until it is something else."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, message: str) -> None:
        if message != self.last:
            log.warning("%s", message)
        self.last = message


def _embed_ready(
    look: _Look, items: Sequence[SourceItem], embed: Callable[[Sequence[SourceItem]], _Report], stop: Event
) -> None:
    ready = look.ready(items)
    for start in range(0, len(ready), _AT_ONCE):
        if stop.is_set():
            return
        some = ready[start : start + _AT_ONCE]
        report = embed([item for item, _ in some])
        look.take(some, report.unread)


def _prune_gone(look: _Look, prune: Callable[[], object], warn: _Warnings) -> None:
    """Prune what has gone since it was last refused."""
    if not look.gone - look.refused:
        return
    try:
        prune()
    except GalleryBusyError:
        raise
    except GalleryError as error:
        warn(error.message)
        look.refused = look.gone
    else:
        look.forget_gone()


class _Look:
    """What was seen of the files, and which were dealt with."""

    def __init__(self, options: WatchOptions) -> None:
        self._settle_seconds, self._rescan_seconds = options.settle_seconds, options.rescan_seconds
        self._seen: dict[Path, tuple[Stamp, float]] = {}
        self._done: dict[Path, tuple[Stamp, Mapping[str, Value]]] = {}
        self._again: dict[Path, float] = {}  # when to try what could not be read
        self.gone: set[Path] = set()
        self.refused: set[Path] = set()
        self.unsettled = False

    def ready(self, items: Sequence[SourceItem]) -> list[tuple[SourceItem, Stamp]]:
        """The items that are new or changed and have settled, in order, with their stamps."""
        found, seen, now = [], {}, time.monotonic()
        self.unsettled = False
        for item in items:
            try:
                status = item.path.stat()
            except OSError:
                continue  # it is looked at again
            stamp = status.st_size, status.st_mtime_ns
            before, since = self._seen.get(item.path, (None, now))
            if before is None and time.time() - status.st_mtime > self._settle_seconds:
                since = now - self._settle_seconds  # it has been there for a while
            since = since if before in (None, stamp) else now
            seen[item.path] = stamp, since
            if self._done.get(item.path) == (stamp, item.metadata) and now < self._again.get(item.path, math.inf):
                continue
            if now - since >= self._settle_seconds:
                found.append((item, stamp))
            else:
                self.unsettled = True
        self.gone = self._done.keys() - {item.path for item in items}
        self._seen = seen
        return found

    def take(self, embedded: Sequence[tuple[SourceItem, Stamp]], unread: Sequence[Path]) -> None:
        """Take files as dealt with, but for those that could not be read: they are tried again."""
        again = time.monotonic() + self._rescan_seconds
        for item, stamp in embedded:
            self._done[item.path] = stamp, item.metadata
            self._again.pop(item.path, None)
        self._again.update((path, again) for path in unread)

    def forget_gone(self) -> None:
        """Take files that have gone as dealt with."""
        for path in self.gone:
            del self._done[path]
            self._again.pop(path, None)
        self.gone, self.refused = set(), set()


def _wakes(folders: Sequence[Path], stop: Event, options: WatchOptions) -> Iterator[bool]:
    """Yield every second or sooner, with whether a change was told, until `stop` is set."""
    yield True
    told = () if options.poll_seconds is not None else [folder for folder in folders if not is_network(folder)]
    pause = min(1.0, options.poll_seconds or 1.0, max(options.settle_seconds, 0.05))
    if not told:
        while not stop.wait(pause):
            yield False
        return
    try:
        import watchfiles
    except ImportError as error:
        raise BackendError(
            "Being told of changes in folders needs watchfiles, which is not installed.",
            'Run pip install "tbps-infer[watch]", or look every 10 seconds with --poll 10.',
        ) from error
    while not stop.is_set():
        there = _there(told)
        if not there:
            stop.wait(pause)
            yield False
            continue
        changes = watchfiles.watch(
            *there, stop_event=stop, watch_filter=None, rust_timeout=int(1000 * pause), yield_on_timeout=True,
            ignore_permission_denied=True,
        )  # fmt: skip
        for number, some in enumerate(changes):
            yield bool(some) or number == 0  # from here on changes are told; those before it were not
            if _there(told) != there:  # one has gone, or come back as another folder: nothing more is told of it
                break


def _there(folders: Sequence[Path]) -> dict[Path, int]:
    """The folders that are there, with their inodes."""
    found = {}
    for folder in folders:
        try:
            found[folder] = folder.stat().st_ino
        except OSError:
            continue
    return found


def is_network(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether a folder is on a network share, of whose changes the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = {Path(fields[1].replace("\\040", " ")): fields[2] for line in lines if len(fields := line.split()) > 2}
    kind = next((kinds[place] for place in (folder, *folder.parents) if place in kinds), "")
    return kind in _NETWORK or kind.startswith(("fuse.sshfs", "fuse.rclone"))
