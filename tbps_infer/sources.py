"""Sources of pictures: folders, files, globs, and lists with metadata columns.

A list names one picture a line; a relative path is relative to the folder of the list:

- ``.txt``: a path per line, nothing else; blank lines are skipped.
- ``.csv``: a header line, then a line per picture, separated by commas, UTF-8.
- ``.jsonl``: a JSON object per line whose values are text, numbers, true, false or null.

Columns (names are compared without regard to case):

- ``path``: the picture; required.
- ``id``: who it is. ``camera``: which camera saw it. ``time``: when, ISO 8601 or Unix seconds
  (`tbps_infer.gallery.times`).
- any other name becomes a metadata column of that name. ``record``, ``rowid``, ``_rowid_``, ``oid`` and names that
  begin with ``tbps_`` are reserved.

An empty CSV cell is no value. A CSV column of which every other cell is a number (as JSON writes one, so neither 007
nor 1,5 nor nan) holds numbers; any other column holds text. JSON values keep their types; true and false become 1, 0.
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbps_infer.errors import SourceError
from tbps_infer.gallery.columns import STANDARD_COLUMNS, Value, column_problem, find_column
from tbps_infer.gallery.times import TIME_WANTED, parse_time

__all__ = ["LIST_EXTENSIONS", "PICTURE_EXTENSIONS", "SourceItem", "absolute_path", "read_sources"]

PICTURE_EXTENSIONS = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
        *(".tga", ".tif", ".tiff", ".webp"),
    }
)
"""What makes a file of a folder or a glob a picture, in lower case."""

LIST_EXTENSIONS = (".txt", ".csv", ".jsonl")


@dataclass(frozen=True, slots=True)
class SourceItem:
    """A picture to embed: its absolute path, and what is known about it by column name."""

    path: Path
    metadata: Mapping[str, Value]


def read_sources(sources: Sequence[str], *, recursive: bool = True) -> list[SourceItem]:
    """The pictures that some sources name, in the sources' order, each absolute path once (the first one counts).

    Args:
        sources: Each a folder, a picture, a list, or a glob pattern (``**`` for any depth). A folder's and a glob's
            pictures are known by `PICTURE_EXTENSIONS` and sorted by path; names that begin with a dot are skipped.
        recursive: Whether the folders inside a folder count.

    Raises:
        SourceError: A source is not there, names no picture, or a line of a list is not what its format says.
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
                f"The folder {source} holds no picture{'' if recursive else ' directly in it'}.", _EXTENSIONS_HINT
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
    f"Pictures are known by their extensions: {' '.join(sorted(PICTURE_EXTENSIONS))}; a list can name any file."
)


def _read_file(path: Path) -> list[SourceItem]:
    extension = path.suffix.lower()
    if extension in PICTURE_EXTENSIONS:
        return [SourceItem(absolute_path(path), {})]
    if extension not in LIST_EXTENSIONS:
        raise SourceError(f"The file {path} is neither a picture nor a .txt, .csv or .jsonl list.", _EXTENSIONS_HINT)
    try:
        with path.open(encoding="utf-8-sig", newline="" if extension == ".csv" else None) as file:
            if extension == ".txt":
                items = [_item(path, line, {"path": text}) for line, text in _lines(file)]
            elif extension == ".csv":
                reader = csv.reader(file, strict=True)
                items = _csv_items(path, reader, lambda: reader.line_num)
            else:
                items = [_item(path, line, _json_row(path, line, text)) for line, text in _lines(file)]
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.", "Convert it."
        ) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not items:
        raise SourceError(f"The list {path} names no picture.")
    return items


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


Row = Mapping[str, Value]


def _item(file: Path, line: int, row: Row) -> SourceItem:
    """One line of a list as an item; its names are checked already."""
    metadata: dict[str, Value] = {}
    path: Value = None
    for name, value in row.items():
        if name.lower() == "path":
            path = value
        else:
            metadata[find_column(name, STANDARD_COLUMNS) or name] = value
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise SourceError(f"{file}, line {line}: the path is {path!r}, and a picture's path was wanted.")
    moment = metadata.get("time")
    if moment is not None and parse_time(moment) is None:
        raise SourceError(
            f"{file}, line {line}: the time is {moment!r}, and {TIME_WANTED} was wanted.",
            "Rename the column if it is not a point in time.",
        )
    return SourceItem(absolute_path(file.parent / path), metadata)


def _lines(file: Iterator[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, line.rstrip("\n")


def _check_names(file: Path, line: int, names: Sequence[str]) -> None:
    lower = [name.lower() for name in names]
    if "path" not in lower:
        raise SourceError(f"{file}, line {line}: there is {', '.join(names) or 'nothing'}, and a path was wanted.")
    for position, name in enumerate(names):
        if lower.index(lower[position]) != position:
            raise SourceError(f"{file}, line {line}: the column {name!r} is there twice.")
        problem = None if lower[position] == "path" else column_problem(name)
        if problem:
            raise SourceError(f"{file}, line {line}: the column name {name!r} {problem}.", "Give it another name.")


def _csv_items(file: Path, lines: Iterator[list[str]], line_number: Callable[[], int]) -> list[SourceItem]:
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_names(file, 1, header)
        numbered = [(line_number(), cells) for cells in lines if cells]
    except csv.Error as error:
        raise SourceError(f"{file}, line {line_number()}: it is not valid CSV: {error}.") from error
    for line, cells in numbered:
        if len(cells) != len(header):
            raise SourceError(
                f"{file}, line {line}: there are {len(cells)} values, and {len(header)} were wanted "
                f"({', '.join(header)}).",
                "Put a value that holds a comma in double quotes.",
            )
    columns = [
        [cells[position] for _, cells in numbered] if name.lower() == "path" else _typed(numbered, position)
        for position, name in enumerate(header)
    ]
    return [
        _item(file, line, dict(zip(header, values, strict=True)))
        for (line, _), values in zip(numbered, zip(*columns, strict=True), strict=True)
    ]


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _typed(numbered: Sequence[tuple[int, Sequence[str]]], position: int) -> Sequence[Value]:
    """A CSV column's values: numbers when all are, None for an empty cell."""
    texts = [cells[position] for _, cells in numbered]
    numbers = [_number(text) if text else None for text in texts]
    if any(text and number is None for text, number in zip(texts, numbers, strict=True)):
        return [text or None for text in texts]
    return numbers


def _number(text: str) -> int | float | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match[2] is None and match[3] is None:
        return int(text) if len(text) < 20 and _fits(int(text)) else None
    value = float(text)
    return value if math.isfinite(value) else None


def _storable(name: str, value: object) -> bool:
    if isinstance(value, str):
        # A path may hold bytes that are no UTF-8, as Python escapes them; embedding rejects it with its reason.
        return name.lower() == "path" or not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (isinstance(value, int | float) and _fits(value))


def _fits(value: float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63


def _json_row(file: Path, line: int, text: str) -> Row:
    try:
        # Objects become tuples, so that a name that is there twice is seen and a list stays a list.
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file}, line {line}: it is not valid JSON: {error}.") from error
    if not isinstance(pairs, tuple):
        raise SourceError(f'{file}, line {line}: {text[:40]!r} is no JSON object such as {{"path": "a.jpg"}}.')
    _check_names(file, line, [name for name, _ in pairs])
    row: dict[str, Value] = {}
    for name, value in pairs:
        if not _storable(name, value):
            raise SourceError(
                f"{file}, line {line}: {name} is {value!r}, and text, a finite 64-bit number, true, false or null "
                "was wanted."
            )
        row[name] = int(value) if isinstance(value, bool) else value
    return row
