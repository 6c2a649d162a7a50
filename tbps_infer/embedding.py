"""From pictures to a gallery: files are read and decoded in threads while the encoder works, and rows committed.

Batches are made of the pictures that need embedding, in the order of the items, and only whole batches are
committed. So a run that continues a stopped one forms the same batches, and ends with the same gallery.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.decode_memory import DEFAULT_DECODE_BYTES, DecodeMemory
from tbps_infer.decoding import Done, decode_threads, decoded_in_order
from tbps_infer.errors import ImageError, UsageError
from tbps_infer.gallery import Entry, FileStamp, Reject, RowWriter, open_gallery_writer
from tbps_infer.gallery.crops import crop_jpeg
from tbps_infer.gallery.folder import DtypeName
from tbps_infer.gallery.record_table import Recorded
from tbps_infer.images import load_crop, named_picture
from tbps_infer.model_facts import ModelFacts
from tbps_infer.moves import moved_from, refuse_known_elsewhere
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.sources import SourceItem, absolute_path

__all__ = ["CropEncoder", "EmbedOptions", "EmbedReport", "embed_gallery"]

_LOOKED_AT_ONCE = 256
"""Pictures that are looked up in the gallery, and whose files are looked at, in one go."""

_SLOW_LOOK_SECONDS = 50e-6
"""A look at a file that takes longer on average is worth a thread; some 10 µs are usual on a local disk."""


class CropEncoder(Protocol):
    """What embedding needs of an encoder; `tbps_infer.encoder.Encoder` has it."""

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""

    def encode_stream(
        self, crops: Iterable[NDArray[np.uint8]], batch_size: int
    ) -> Generator[NDArray[np.float32], None, None]:
        """uint8 ``[height, width, 3]`` each to float32 ``[n, dim]`` per batch; crops are taken in this thread."""


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed.

    Attributes:
        batch_size: Pictures per batch of the encoder. To continue a stopped run exactly, keep it.
        workers: Threads that read and decode; None is `tbps_infer.decoding.decode_threads`.
        commit_rows: Rows after which to commit, at the next whole batch.
        commit_seconds: Seconds after which to commit, at the next whole batch: what a killed run can lose.
        rehash: Hash every file; otherwise a file whose size and mtime are as recorded is taken as unchanged.
        dtype: How the gallery stores numbers; None is its own, float16 for a new one.
        bundle_path: Where the model was read from, recorded in the gallery.
        roots: Folders, absolute, that new paths are recorded relative to.
        source_folders: The sources' folders: roots for what none of the gallery's and of `roots` is above.
        forget_tombstones: Embed pictures that were removed earlier, too.
        decode_memory: Bytes that the threads share for what they read and decode.
        crops: Keep the crops, too, which datasets can.
    """

    batch_size: int = 32
    workers: int | None = None
    commit_rows: int = 1024
    commit_seconds: float = 5.0
    rehash: bool = False
    dtype: DtypeName | None = None
    bundle_path: Path | None = None
    roots: tuple[Path, ...] = ()
    source_folders: tuple[Path, ...] = ()
    forget_tombstones: bool = False
    decode_memory: int = DEFAULT_DECODE_BYTES
    crops: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.commit_rows < 1 or (self.workers is not None and self.workers < 1):
            raise UsageError(
                f"batch_size is {self.batch_size}, commit_rows {self.commit_rows} and workers {self.workers}, "
                "want at least 1 of each."
            )


@dataclass(frozen=True)
class EmbedReport:
    """What became of the pictures; `total` is the sum of all the others.

    Attributes:
        total: Distinct pictures given.
        embedded: New or changed ones, embedded and committed.
        unchanged: Ones that the gallery had already.
        rejects: Ones that could not be decoded, or are new and could not be read, with the reason.
        unreachable: Recorded ones that could not be read, with the reason; their records are kept.
        moved: Ones whose file has another path now; they keep their records, too.
        removed_earlier: Ones that were removed from the gallery before and are left out.
        unread: Paths of those rejected or unreachable whose files were not read; another try may succeed.
    """

    total: int
    embedded: int
    unchanged: int
    rejects: tuple[Reject, ...]
    unreachable: tuple[Reject, ...] = ()
    moved: int = 0
    removed_earlier: int = 0
    unread: tuple[Path, ...] = ()

    @property
    def rejected(self) -> int:
        """How many could not be embedded."""
        return len(self.rejects)

    @property
    def all_rejected(self) -> bool:
        """Whether there were pictures, and every one of them was rejected."""
        return self.total == self.rejected > 0


def embed_gallery(
    encoder: CropEncoder,
    items: Sequence[SourceItem],
    gallery: Path | str,
    options: EmbedOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbedReport:
    """Embed what a gallery does not have yet, or has of another content; create it when it is not there.

    Stopped at any instant, the next run carries on; records stay in the order of the items. A recorded picture that
    cannot be read keeps its record; only one that was read and cannot be decoded loses it.

    Args:
        encoder: The model.
        items: The pictures; of items with the same path the first counts.
        gallery: The gallery's folder, or the URI of a dataset.
        options: How to go about it; None for `EmbedOptions()`.
        on_progress: Called now and then with how many of how many pictures are done.

    Raises:
        GalleryBusyError: Another process is writing to the gallery.
        ModelMismatchError: It was embedded by another model.
        GalleryError: It is damaged, or the disk does not take what is written; what was committed before is kept. Or
            the pictures of a source's folder are recorded below another one already.
    """
    options = options or EmbedOptions()
    distinct: dict[Path, SourceItem] = {}
    for item in items:
        distinct.setdefault(absolute_path(item.path), item)
    with open_gallery_writer(
        gallery, encoder.facts, dtype=options.dtype, bundle_path=options.bundle_path, crops=options.crops
    ) as writer:
        _add_roots(writer, options, list(distinct))
        options = replace(options, crops=writer.keeps_crops)  # a dataset that keeps crops keeps all
        run = _Run(encoder, writer, options)
        memory = DecodeMemory(options.decode_memory)
        workers = options.workers or decode_threads()

        def look(pictures: list[_Picture]) -> list[_Picture | Done[_Outcome]]:
            return [_looked_at(picture, options.rehash) for picture in pictures]

        def prepare(picture: _Picture | Done[_Outcome]) -> _Outcome:
            if isinstance(picture, Done):
                return picture.value
            return _prepare(picture, encoder.facts.preprocessing, options, memory)

        # Two batches ahead: one being decoded while one waits for the encoder.
        ahead = 2 * options.batch_size + workers
        with (
            closing(_looked_at_all(look, run.pictures(distinct), workers)) as looked,
            closing(decoded_in_order(prepare, chain.from_iterable(looked), ahead=ahead, threads=workers)) as outcomes,
        ):
            run.embed(_counted(outcomes, len(distinct), on_progress))
    return EmbedReport(
        len(distinct),
        run.embedded,
        run.unchanged,
        tuple(run.rejects),
        tuple(run.unreachable),
        run.moved,
        run.removed_earlier,
        tuple(run.unread),
    )


def _add_roots(writer: RowWriter, options: EmbedOptions, paths: Sequence[Path]) -> None:
    """Make the roots that the given ones, the sources' folders and pictures outside of these need."""
    writer.add_roots(options.roots)
    for folder in options.source_folders:
        if not _has_root(writer, folder):
            refuse_known_elsewhere(writer, folder, paths)
            writer.add_roots([folder])
    roots = tuple(os.path.join(root, "") for root in writer.roots())  # noqa: PTH118
    outside = [path.parent for path in paths if not str(path).startswith(roots) and _is_utf8(path)]
    if outside:
        writer.add_roots([Path(os.path.commonpath(outside))])


def _has_root(writer: RowWriter, folder: Path) -> bool:
    return any(folder.is_relative_to(root) for root in writer.roots())


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture to look at, and what the gallery has recorded about it."""

    path: Path
    item: SourceItem
    known: Recorded | None
    left_out: bool


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A new or changed picture, ready for the encoder."""

    entry: Entry
    crop: NDArray[np.uint8]
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Same:
    """A recorded picture of which there is nothing new to record."""


@dataclass(frozen=True, slots=True)
class _Unread:
    """A picture that could not be read."""

    problem: Reject
    recorded: bool


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """A picture that was removed from the gallery earlier."""


# An Entry by itself is an unchanged picture of which something new is to be recorded.
_Outcome = _Decoded | Entry | _Same | Reject | _Unread | _LeftOut

_SAME: Done[_Outcome] = Done(_Same())


def _looked_at(picture: _Picture, rehash: bool) -> _Picture | Done[_Outcome]:
    """What becomes of a picture that need not be read; a picture that has to be comes back as it is."""
    if picture.left_out:
        return Done(_LeftOut())
    known = picture.known
    if known is None or rehash:
        return picture
    try:
        status = os.stat(picture.path)  # noqa: PTH116 - pathlib takes seconds more for a million files
    except OSError:
        return picture
    if not stat.S_ISREG(status.st_mode) or not _is_stamp(known.stamp, status):
        return picture
    metadata = picture.item.metadata
    return Done(Entry(picture.path, known.stamp, metadata)) if known.differs(known.stamp, metadata) else _SAME


def _looked_at_all(
    look: Callable[[list[_Picture]], list[_Picture | Done[_Outcome]]],
    pictures: Iterator[list[_Picture]],
    threads: int,
) -> Generator[list[_Picture | Done[_Outcome]], None, None]:
    """Look at pictures in this thread while that is quick, as on a local disk, else in several threads.

    Threads hide how long a network takes to answer. Where it is no time they only wait for Python's lock, which took
    1.6 times as long in all (measured).
    """
    seconds, count = 0.0, 0
    for some in pictures:
        started = time.perf_counter()
        looked = look(some)
        seconds, count = seconds + time.perf_counter() - started, count + len(some)
        yield looked
        if seconds > _SLOW_LOOK_SECONDS * count:
            break
    with closing(decoded_in_order(look, pictures, ahead=threads + 1, threads=threads)) as rest:
        yield from rest


def _is_stamp(stamp: FileStamp, status: os.stat_result) -> bool:
    return (stamp.size, stamp.mtime_ns) == (status.st_size, status.st_mtime_ns)


def _prepare(
    picture: _Picture, preprocessing: Preprocessing, options: EmbedOptions, memory: DecodeMemory
) -> _Outcome:
    """Look at one picture, in a worker thread; a file is read once, for its hash and its pixels."""
    path, metadata = picture.path, picture.item.metadata
    known = None if picture.known is None else picture.known.stamp
    if not _is_utf8(path):
        name = str(path).encode("utf-8", "backslashreplace").decode()
        return Reject(Path(name), "Its name is not UTF-8 text, so it cannot be recorded; rename the file.")
    stamp = None
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return _unread(path, known, "It is not a file.")
        if known and not options.rehash and _is_stamp(known, status):
            return Entry(path, known, metadata)
        with memory.files.hold(status.st_size, "Reading it"):
            with path.open("rb") as file:
                content = file.read(status.st_size)
            # The status was taken before the content: a file written to meanwhile looks changed the next time.
            stamp = FileStamp(status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest())
            entry = Entry(path, stamp, metadata)
            if known and known.sha256 == stamp.sha256:
                return entry
            with named_picture(str(path)):
                crop = load_crop(content, preprocessing, memory)
            entry = replace(entry, crop=crop_jpeg(crop)) if options.crops else entry
            return _Decoded(entry, crop, known is None)
    except OSError as error:
        return _unread(path, known, f"It cannot be read: {error.strerror or error}.")
    except ImageError as error:
        return _unread(path, known, error.message) if stamp is None else Reject(path, error.message)


def _unread(path: Path, known: FileStamp | None, reason: str) -> _Outcome:
    return _Unread(Reject(path, reason), known is not None)


def _is_utf8(path: Path) -> bool:
    text = str(path)
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _counted(
    outcomes: Iterable[_Outcome], total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[_Outcome]:
    for done, outcome in enumerate(outcomes, 1):
        yield outcome
        if on_progress is not None:
            on_progress(done, total)


class _Run:
    """Collects outcomes into batches, and batches into commits."""

    def __init__(self, encoder: CropEncoder, writer: RowWriter, options: EmbedOptions) -> None:
        self._encoder = encoder
        self._writer = writer
        self._options = options
        self.embedded = 0
        self.unchanged = 0
        self.moved = 0
        self.removed_earlier = 0
        self.rejects: list[Reject] = []
        self.unreachable: list[Reject] = []
        self.unread: list[Path] = []
        self._roots = writer.roots()
        self._honours_tombstones = not options.forget_tombstones and writer.has_tombstones
        self._waiting: deque[Entry] = deque()  # for their embeddings
        self._entries: list[Entry] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._known: list[Entry] = []
        self._moves: dict[Path, Entry] = {}  # by the old path
        self._committed_rejects = 0
        self._committed_unreachable = 0
        self._committed_at = time.monotonic()

    def pictures(self, items: Mapping[Path, SourceItem]) -> Iterator[list[_Picture]]:
        """The pictures, some at once, with what the gallery knows about their paths."""
        paths = iter(items)
        while some := list(islice(paths, _LOOKED_AT_ONCE)):
            known = self._writer.find_all(filter(_is_utf8, some))
            yield [_Picture(path, items[path], known.get(path), self._is_left_out(path, known)) for path in some]

    def _is_left_out(self, path: Path, known: Mapping[Path, Recorded]) -> bool:
        return self._honours_tombstones and path not in known and _is_utf8(path) and self._writer.was_removed(path)

    def embed(self, outcomes: Iterable[_Outcome]) -> None:
        """Take all outcomes, embed what is new or changed, and commit."""
        with closing(self._encoder.encode_stream(self._crops(outcomes), self._options.batch_size)) as stream:
            for vectors in stream:
                self._entries += [self._waiting.popleft() for _ in range(len(vectors))]
                self._vectors.append(vectors)
                self._commit_if_due()
        self._commit()

    def _crops(self, outcomes: Iterable[_Outcome]) -> Iterator[NDArray[np.uint8]]:
        """Note outcomes down, and pass on the crops that need an embedding."""
        for outcome in outcomes:
            match outcome:
                case _Same():
                    self.unchanged += 1
                case _Decoded() if not self._is_settled(outcome.entry, outcome.is_new):
                    self._waiting.append(outcome.entry)
                    yield outcome.crop
                case Entry():
                    self.unchanged += 1
                    self._known.append(outcome)
                case Reject():
                    self.rejects.append(outcome)
                case _Unread():
                    (self.unreachable if outcome.recorded else self.rejects).append(outcome.problem)
                    self.unread.append(outcome.problem.path)
                case _LeftOut():
                    self.removed_earlier += 1
            self._commit_if_due()

    def _is_settled(self, entry: Entry, is_new: bool) -> bool:
        """Whether content that is new at its path needs no embedding: it has moved, or was removed earlier."""
        sha256 = entry.stamp.sha256
        if self._honours_tombstones and self._writer.was_removed(entry.path, sha256):
            if is_new:
                self.removed_earlier += 1
            else:
                self.rejects.append(Reject(entry.path, "Its content was removed from the gallery earlier."))
            return True
        old = moved_from(self._writer, sha256, self._roots) if is_new else None
        if old is None or old in self._moves:
            return False
        self._moves[old] = entry
        self.moved += 1
        return True

    def _commit_if_due(self) -> None:
        others = len(self._known) + len(self._moves) + len(self.rejects) - self._committed_rejects
        waited = time.monotonic() - self._committed_at
        late = bool(self._entries) and waited >= self._options.commit_seconds
        if late or max(len(self._entries), others) >= self._options.commit_rows:
            self._commit()

    def _commit(self) -> None:
        """Record all but the batches that are under way."""
        rejects = self.rejects[self._committed_rejects :]
        vectors = np.concatenate(self._vectors) if self._vectors else None
        self._writer.commit(
            self._entries,
            vectors,
            unchanged=self._known,
            rejects=rejects,
            unreachable=self.unreachable[self._committed_unreachable :],
            moved=list(self._moves.items()),
        )
        self.embedded += len(self._entries)
        self._committed_rejects = len(self.rejects)
        self._committed_unreachable = len(self.unreachable)
        self._entries, self._vectors, self._known, self._moves = [], [], [], {}
        self._committed_at = time.monotonic()
