"""Sources of pictures: folders, files, globs, and lists with metadata columns.

A list (`tbps_infer.lists`) names one picture per line; a relative path is relative to the list's folder, or to the
current one for standard input. A ``.txt`` list has nothing but paths; ``.csv`` and ``.jsonl`` lists have columns:

- ``path``: the picture; required.
- ``id``: the person. ``camera``: the camera. Both are text, as written: neither 007 nor 1.10 is a number.
- ``time``: `tbps_infer.gallery.times.TIME_WANTED`.
- Any other column becomes metadata under its name, and holds numbers (as JSON writes one, so neither 007 nor 1,5 nor
  nan) or text, in all lists together; a column with both is an error unless it is named as text. ``record``,
  ``rowid``, ``_rowid_``, ``oid`` and names that begin with ``tbps_`` are reserved.

An empty CSV cell is no value. A JSON value is text, a number, true (1), false (0) or null.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from pathlib import Path

from tbps_infer.errors import SourceError, TbpsError, UsageError
from tbps_infer.folders import PICTURE_EXTENSIONS, PictureFinder, absolute_path, is_picture
from tbps_infer.gallery.columns import ColumnType, Value, column_problem
from tbps_infer.lists import ListReader, ListStyle, Row, is_stream, refuse_twice
from tbps_infer.metadata import MetadataReader
from tbps_infer.name_pattern import NamePattern

__all__ = [
    "Shard",
    "SourceItem",
    "SourceOptions",
    "SourceReport",
    "absolute_path",
    "read_sources",
    "read_sources_with_report",
    "source_items",
]


@dataclass(frozen=True, slots=True)
class SourceItem:
    """A picture to embed: its absolute path, and what is known about it by column name."""

    path: Path
    metadata: Mapping[str, Value]


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of all pictures, by a hash of the path: the same on every machine that has it there.

    Attributes:
        index: Which, counted from 0.
        count: How many there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"The shard is {self.index}/{self.count}, want i/n with i from 0 to n - 1.",
                f"The last one is {self.count - 1}/{self.count}." if self.count > 0 else "All in one is 0/1.",
            )

    def __contains__(self, item: SourceItem) -> bool:
        digest = hashlib.blake2b(os.fsencode(absolute_path(item.path)), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


@dataclass(frozen=True)
class SourceOptions:
    """How to read sources.

    Attributes:
        recursive: Whether to read the folders inside a folder.
        exclude: Patterns of files and folders to skip, as of `PictureFinder`.
        text: Columns whose values stay as they are written, besides ``id`` and ``camera``.
        zone: That of times which name none.
        names: What the names of pictures hold; a list's own columns take precedence.
        style: How lists are written.
        first_row: Of several rows for one picture take the first, as of lists of captions, where that is an error
            otherwise.
        empty_lists: Whether a list may name no picture yet, as one that is followed.
    """

    recursive: bool = True
    exclude: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    zone: tzinfo = timezone.utc
    names: NamePattern | None = None
    style: ListStyle = field(default_factory=ListStyle)
    first_row: bool = False
    empty_lists: bool = False


@dataclass(frozen=True)
class SourceReport:
    """What sources name, and what was found on the way.

    Attributes:
        items: The pictures, in the order of the first mention, each path once.
        types: What the metadata columns hold that have values; ``id``, ``camera`` and ``time`` are always text.
        skipped: How many files and folders were skipped and the first of them, by reason.
        unzoned: How many times named no zone.
        unmatched: Names that do not follow the pattern.
    """

    items: list[SourceItem] = field(default_factory=list)
    types: dict[str, ColumnType] = field(default_factory=dict)
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)
    unzoned: int = 0
    unmatched: tuple[Path, ...] = ()


def read_sources(sources: Sequence[str], options: SourceOptions | None = None) -> list[SourceItem]:
    """The items of `read_sources_with_report`."""
    return read_sources_with_report(sources, options).items


def read_sources_with_report(sources: Sequence[str], options: SourceOptions | None = None) -> SourceReport:
    """The pictures that sources name, and what is known about each from all of them together.

    Args:
        sources: Each a folder, a picture, a list, ``-`` for a list on standard input, or a glob pattern (``**`` for
            any depth). Pictures of a folder or glob are recognised by `tbps_infer.folders.PICTURE_EXTENSIONS` and
            sorted by path; names that begin with a dot are skipped.
        options: How to read them; None for `SourceOptions()`.

    Raises:
        SourceError: A source does not exist or names no picture, a line of a list does not follow its format, a
            column holds numbers and text, or two rows say different things about one picture.
    """
    refuse_twice(sources, SourceError)
    reading = _Reading(options or SourceOptions())
    for source in sources:
        for mention in reading.mentions(source):
            reading.take(mention)
    return reading.report()


def source_items(source: str, options: SourceOptions | None = None) -> list[SourceItem]:
    """The pictures that one source names, without metadata; raises SourceError as `read_sources` does."""
    mentions = _Reading(options or SourceOptions()).mentions(source)
    return [SourceItem(Path(mention.path), {}) for mention in mentions]


@dataclass(frozen=True, slots=True)
class _Mention:
    """A picture that a source names, with the row that does, if any."""

    path: str  # absolute; a million of pathlib's take seconds more to make, and again to look up
    row: Row | None = None

    def problem(self, message: str, hint: str = "") -> TbpsError:
        if self.row is not None:
            return self.row.problem(message, hint)
        return SourceError(f"{self.path}: {message}", hint)

    @property
    def place(self) -> str:
        return self.path if self.row is None else f"line {self.row.line} of {self.row.reader.file}"


class _Reading:
    """Collects what sources name."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._finder = PictureFinder(options.recursive, options.exclude)
        self._items: dict[str, dict[str, Value]] = {}  # what lists say
        self._named: dict[str, dict[str, Value]] = {}  # what names say
        self._metadata = MetadataReader(options.text, options.zone)
        self._unmatched: list[Path] = []

    def mentions(self, source: str) -> Iterator[_Mention]:
        """What one source names, in its order."""
        path = Path(source)
        if path.is_dir():
            found = self._finder.in_folder(path)
            problem = f"The folder {source} contains no picture"
            problem += "" if self._options.recursive else "; subfolders were not searched"
        elif path.is_file() and is_picture(source):
            found, problem = [os.path.abspath(source)], ""  # noqa: PTH100
        elif path.is_file() or is_stream(source):
            yield from self._listed(source)
            return
        elif glob.has_magic(source):
            found, problem = self._finder.of_pattern(source), f"The pattern {source} matches no picture"
        else:
            raise SourceError(
                f"The source {source} does not exist.",
                "Name a folder, a picture, a glob pattern, or a .txt, .csv or .jsonl list.",
            )
        if not found:
            skipped = "; ".join(f"skipped {count} {reason}" for reason, (count, _) in self._finder.skipped.items())
            raise SourceError(f"{problem}{f' ({skipped})' if skipped else ''}.", _EXTENSIONS_HINT)
        for name in found:
            yield _Mention(name)

    def _listed(self, source: str) -> Iterator[_Mention]:
        reader = ListReader(source, SourceError, name_problem=column_problem, style=self._options.style)
        if reader.form is None and not is_stream(source):
            raise SourceError(
                f"The file {source} is neither a picture nor a .txt, .csv or .jsonl list.",
                _EXTENSIONS_HINT,
            )
        empty = True
        folder = "" if is_stream(source) else Path(source).parent
        for row in reader.rows(required=("path",)):
            empty = False
            path = row.text("path")
            if "\0" in path:
                raise row.problem(f"the path {path!r} contains a NUL character.")
            yield _Mention(os.path.abspath(os.path.join(folder, path)), row)  # noqa: PTH100, PTH118
        if empty and not self._options.empty_lists:
            raise SourceError(f"The list {source} names no picture.")

    def take(self, mention: _Mention) -> None:
        """Add what one mention says about its picture."""
        known = self._items.get(mention.path)
        if known is None:
            self._items[mention.path] = self._row_values(mention)
            if self._options.names is not None:
                self._take_name(mention.path, self._options.names)
        elif mention.row is not None and not self._options.first_row:
            self._merge(mention, known, self._row_values(mention))

    def report(self) -> SourceReport:
        """What was found, once all is taken."""
        columns = self._metadata.columns
        for name in self._options.text:
            if name.lower() not in columns:
                raise SourceError(
                    f"There is no column {name!r} to keep as text.",
                    f"The columns are: {', '.join(columns.values())}.",
                )
        return SourceReport(
            items=[SourceItem(Path(path), self._known(path)) for path in self._items],
            types=self._metadata.types,
            skipped=self._finder.skipped,
            unzoned=self._metadata.unzoned,
            unmatched=tuple(self._unmatched),
        )

    def _known(self, path: str) -> dict[str, Value]:
        row, named = self._items[path], self._named.get(path)
        return row | {name: value for name, value in named.items() if row.get(name) is None} if named else row

    def _take_name(self, path: str, pattern: NamePattern) -> None:
        found = pattern.match(Path(path))
        if found is None:
            self._unmatched.append(Path(path))
        else:
            self._named[path] = self._metadata.read(_Mention(path), found, typed=False)

    def _row_values(self, mention: _Mention) -> dict[str, Value]:
        if mention.row is None:
            return {}
        cells = {name: value for name, value in mention.row.values.items() if name.lower() != "path"}
        return self._metadata.read(mention, cells, typed=mention.row.reader.form == "jsonl")

    def _merge(self, mention: _Mention, known: dict[str, Value], values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            if known.setdefault(name, value) != value:
                raise mention.problem(
                    f"{name} of {mention.path} is {value!r}, and {known[name]!r} in an earlier row.",
                    "Keep one row for each picture.",
                )


_EXTENSIONS_HINT = (
    f"Pictures are recognised by their extensions: {' '.join(sorted(PICTURE_EXTENSIONS))}; a list can name any file. "
    "HEIC needs pip install 'tbps-infer[heif]'."
)
