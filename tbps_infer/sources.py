"""Sources of pictures: folders, files, globs, and lists with metadata columns.

A list names one picture per line; a relative path is relative to the list's folder:

- ``.txt``: a path per line, nothing else.
- ``.csv`` and ``.jsonl``: `tbps_infer.lists`; a JSON value is text, a number, true, false or null.

Columns:

- ``path``: the picture; required.
- ``id``: the person. ``camera``: the camera. ``time``: ISO 8601 or Unix seconds (`tbps_infer.gallery.times`).
- Any other column becomes metadata under its name. ``record``, ``rowid``, ``_rowid_``, ``oid`` and names that begin
  with ``tbps_`` are reserved.

An empty CSV cell is no value. A CSV column in which every other cell is a number (as JSON writes one, so neither 007
nor 1,5 nor nan) holds numbers; any other column holds text. JSON values keep their types; true and false become 1, 0.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbps_infer.errors import SourceError
from tbps_infer.gallery.columns import STANDARD_COLUMNS, Value, column_problem, find_column
from tbps_infer.gallery.times import TIME_WANTED, parse_time
from tbps_infer.lists import ListReader, Row, list_format

__all__ = ["PICTURE_EXTENSIONS", "SourceItem", "absolute_path", "read_sources"]

PICTURE_EXTENSIONS = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
        *(".tga", ".tif", ".tiff", ".webp"),
    }
)
"""Extensions, in lower case, of the pictures in a folder or glob."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """A picture to embed: its absolute path, and what is known about it by column name."""

    path: Path
    metadata: Mapping[str, Value]


def read_sources(sources: Sequence[str], *, recursive: bool = True) -> list[SourceItem]:
    """The pictures that sources name, in the sources' order, each absolute path once (the first mention counts).

    Args:
        sources: Each a folder, a picture, a list, or a glob pattern (``**`` for any depth). Pictures of a
            folder or glob are recognised by `PICTURE_EXTENSIONS` and sorted by path; names that begin with a dot are
            skipped.
        recursive: Whether to read the folders inside a folder.

    Raises:
        SourceError: A source does not exist or names no picture, or a line of a list does not follow its format.
    """
    items: dict[Path, SourceItem] = {}
    for source in sources:
        for item in _read_source(source, recursive):
            items.setdefault(item.path, item)
    return list(items.values())


def _read_source(source: str, recursive: bool) -> list[SourceItem]:
    path = Path(source)
    if path.is_dir():
        found = _folder_pictures(path, recursive)
        if not found:
            raise SourceError(
                f"The folder {source} contains no picture{'' if recursive else '; subfolders were not searched'}.",
                _EXTENSIONS_HINT,
            )
        return [SourceItem(absolute_path(name), {}) for name in found]
    if path.is_file():
        return _read_file(path)
    if glob.has_magic(source):
        matches = [name for name in glob.glob(source, recursive=True) if _is_picture(name)]  # noqa: PTH207
        if not matches:
            raise SourceError(f"The pattern {source} matches no picture.", _EXTENSIONS_HINT)
        return [SourceItem(absolute_path(name), {}) for name in sorted(matches) if Path(name).is_file()]
    raise SourceError(
        f"The source {source} does not exist.",
        "Name a folder, a picture, a glob pattern, or a .txt, .csv or .jsonl list.",
    )


_EXTENSIONS_HINT = (
    f"Pictures are recognised by their extensions: {' '.join(sorted(PICTURE_EXTENSIONS))}; a list can name any file."
)


def _read_file(path: Path) -> list[SourceItem]:
    extension = path.suffix.lower()
    if extension in PICTURE_EXTENSIONS:
        return [SourceItem(absolute_path(path), {})]
    reader = ListReader(path, SourceError, name_problem=column_problem)
    if extension == ".txt":
        rows = [Row(reader, line, {"path": text}) for line, text in reader.lines()]
    elif list_format(path) == "csv":
        rows = list(reader.rows(required=("path",)))
        _type_columns(rows)
    elif list_format(path) == "jsonl":
        rows = list(reader.rows(required=("path",)))
        _check_values(rows)
    else:
        raise SourceError(f"The file {path} is neither a picture nor a .txt, .csv or .jsonl list.", _EXTENSIONS_HINT)
    if not rows:
        raise SourceError(f"The list {path} names no picture.")
    return [_item(path, row) for row in rows]


def _folder_pictures(folder: Path, recursive: bool) -> list[str]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    found: list[str] = []
    seen: set[tuple[int, int]] = set()  # linked folders are followed, each folder once
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)  # noqa: PTH116 - pathlib takes seconds more for a million files
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [os.path.join(parent, name) for name in files if _is_picture(name)]  # noqa: PTH118
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
    return sorted(found)


def _is_picture(name: str) -> bool:
    base = name.rpartition("/")[2]
    return not base.startswith(".") and Path(base).suffix.lower() in PICTURE_EXTENSIONS


def absolute_path(path: str | Path) -> Path:
    """A path from the root, without ``..``: what tells one picture from another."""
    # Not resolve(): a picture is recorded under the name that it was given, not its link's target.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _item(file: Path, row: Row) -> SourceItem:
    metadata: dict[str, Value] = {}
    for name, value in row.values.items():
        if name.lower() != "path":
            metadata[find_column(name, STANDARD_COLUMNS) or name] = value
    path, moment = row.text("path"), metadata.get("time")
    if "\0" in path:
        raise row.problem(f"the path {path!r} contains a NUL character.")
    if moment is not None and parse_time(moment) is None:
        raise row.problem(
            f"the time is {moment!r}, want {TIME_WANTED}.", "Rename the column if it is not a point in time."
        )
    return SourceItem(absolute_path(file.parent / path), metadata)


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _type_columns(rows: Sequence[Row]) -> None:
    """Give CSV columns their types: numbers where all cells are, None for an empty cell."""
    for name in rows[0].values if rows else ():
        if name.lower() == "path":
            continue
        texts: list[str] = [row.values[name] for row in rows]
        numbers = [_number(text) if text else None for text in texts]
        mixed = any(text and number is None for text, number in zip(texts, numbers, strict=True))
        for row, text, number in zip(rows, texts, numbers, strict=True):
            row.values[name] = text or None if mixed else number


def _number(text: str) -> int | float | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match[2] is None and match[3] is None:
        return int(text) if len(text) < 20 and _fits(int(text)) else None
    value = float(text)
    return value if math.isfinite(value) else None


def _check_values(rows: Sequence[Row]) -> None:
    """Refuse JSON values that a gallery cannot store; true and false become 1 and 0."""
    for row in rows:
        for name, value in row.values.items():
            if not _storable(name, value):
                raise row.problem(f"{name} is {value!r}, want text, a finite 64-bit number, true, false or null.")
            if isinstance(value, bool):
                row.values[name] = int(value)


def _storable(name: str, value: object) -> bool:
    if isinstance(value, str):
        # A path may hold bytes that are not UTF-8, as Python escapes them; embedding rejects it with its reason.
        return name.lower() == "path" or not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (isinstance(value, int | float) and _fits(value))


def _fits(value: float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63
