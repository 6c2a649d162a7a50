"""Lists that users write: CSV, JSON lines and text lines of pictures, captions or queries, read in one way.

- ``.csv``: UTF-8 with or without a byte order mark, a header first. Commas, semicolons, tabs or vertical bars
  separate the columns: the header tells which. Blanks around names and values are dropped; a value that contains the
  separator or a line break is in double quotes.
- ``.jsonl``: a JSON object per line.
- ``.txt``: a value per line.

``-`` is standard input. Names are compared without regard to case, blank lines are skipped, and extensions may be in
upper case. Rows are read as they are asked for. Whatever could lose or change a value is an error that names the file
and the line.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tbps_infer.errors import TbpsError, UsageError
from tbps_infer.formats.json_files import parse_json

__all__ = [
    "LIST_FORMATS",
    "SEPARATORS",
    "STANDARD_INPUT",
    "ListFormat",
    "ListReader",
    "ListStyle",
    "Row",
    "is_stream",
    "list_format",
    "refuse_twice",
]

ListFormat = Literal["csv", "jsonl", "txt"]
LIST_FORMATS: tuple[ListFormat, ...] = ("csv", "jsonl", "txt")

STANDARD_INPUT = "-"
"""The name of standard input among files."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
"""What can separate the columns of a CSV list, with its name."""

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""How ``surrogateescape`` shows a byte that is not UTF-8."""


def list_format(file: str | Path) -> ListFormat | None:
    """The format with columns that a file's extension stands for, in any case; None for other extensions."""
    formats: dict[str, ListFormat] = {".csv": "csv", ".jsonl": "jsonl"}
    return formats.get(Path(file).suffix.lower())


@dataclass(frozen=True)
class ListStyle:
    """How lists are written, where that is not to be found from their names and headers.

    Attributes:
        form: The format of a list whose name has no extension, standard input above all; None is found from its first
            line (`ListReader.recognised`).
        separator: What separates the columns of CSV lists; None is found from the header.
    """

    form: ListFormat | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None and self.separator not in SEPARATORS:
            raise UsageError(f"The separator is {self.separator!r}, want one of {' '.join(map(repr, SEPARATORS))}.")


def is_stream(source: str) -> bool:
    """Whether a list is read once and lies in no folder: standard input, or a pipe as a shell names it."""
    return source == STANDARD_INPUT or Path(source).is_fifo()


def refuse_twice(files: Sequence[str], error: type[TbpsError]) -> None:
    """Raise an error when standard input is named more than once: it can be read once."""
    if files.count(STANDARD_INPUT) > 1:
        raise error("Standard input is named twice, and can be read once.", f"Give {STANDARD_INPUT} once.")


@dataclass(frozen=True)
class ListReader:
    """Reads a list and says in which line a problem is.

    Attributes:
        file: The list, ``-`` for standard input; its extension tells the format.
        error: What a problem is raised as.
        stream: Where the text comes from instead of the file, decoded as UTF-8 with ``surrogateescape``.
        name_problem: Why a column other than the required ones cannot have a name, as the end of a sentence; None
            when it can.
    """

    file: str | Path
    error: type[TbpsError]
    stream: Iterable[str] | None = None
    name_problem: Callable[[str], str | None] | None = None
    style: ListStyle = ListStyle()

    @property
    def form(self) -> ListFormat | None:
        """The format, by the extension or as given; None where neither tells it."""
        if Path(self.file).suffix.lower() == ".txt":
            return "txt"
        return list_format(self.file) or self.style.form

    def recognised(self, required: Sequence[str]) -> ListReader:
        """This reader with a format, found from the first line where need be.

        That is JSON lines where the line begins with a brace, CSV where it names the required columns, else text.
        """
        if self.form is not None:
            return self
        lines = self._text()
        head = list(_until_text(lines))
        first = head[-1] if head else ""
        names = [name.strip(' \t\r\n"').lower() for name in re.split(r"[,;|\t]", first)]
        form: ListFormat = "csv" if set(names).issuperset(required) else "txt"
        if form == "txt" and len(names) > 1 and all(map(str.isidentifier, names)):
            raise self.problem(
                len(head),
                f"{first.strip()!r} could be text or a CSV header without the column {required[0]!r}.",
                f"Name the column {required[0]!r}, or say what it is: --list-format txt.",
            )
        if first.lstrip().startswith("{"):
            form = "jsonl"
        return replace(self, stream=chain(head, lines), style=replace(self.style, form=form))

    def problem(self, line: int, message: str, hint: str = "") -> TbpsError:
        """An error about a line, to be raised."""
        return self.error(f"{self.file}, line {line}: {message}", hint)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Every line that is not blank, with its number and without its end."""
        for number, text in enumerate(self._text(), start=1):
            if text.strip():
                yield number, text.rstrip("\r\n")

    def rows(self, required: Sequence[str]) -> Iterator[Row]:
        """The rows of a list in any format.

        Args:
            required: Columns that must be there, in lower case; a line of text is the value of the first.

        Raises:
            TbpsError: As ``error``: the file cannot be read, or a line is not what the format says.
        """
        reader = self.recognised(required)
        if reader.form == "csv":
            yield from reader._csv_rows(required)
        else:
            for line, text in reader.lines():
                if reader.form == "txt":
                    yield Row(reader, line, {required[0]: text})
                else:
                    yield reader.json_row(line, text, required)

    def json_row(self, line: int, text: str, required: Sequence[str]) -> Row:
        """One line of JSON."""

        def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            self._check_unique(line, [name for name, _ in pairs])
            return dict(pairs)

        try:
            values = parse_json(text, pairs=collect, real=_JsonFloat)
        except ValueError as error:
            raise self.problem(line, f"this is not valid JSON: {error}.") from error
        if not isinstance(values, dict):
            example = ", ".join(f'"{name}": "..."' for name in required)
            raise self.problem(line, f"{text[:40]!r} is not a JSON object such as {{{example}}}.")
        self._check_columns(line, list(values), required)
        return Row(self, line, values)

    def _text(self) -> Iterator[str]:
        """The lines with their ends; each is checked for bytes that are no text."""
        try:
            with self._open() as stream:
                for number, text in enumerate(stream, start=1):
                    if _ESCAPED_BYTE.search(text):
                        raise self.problem(number, "this is not UTF-8 text.", "Save the file as UTF-8.")
                    if "\0" in text:
                        raise self.problem(number, "there is a NUL byte.", "Save the file as UTF-8 text.")
                    yield text
        except OSError as error:
            raise self.error(f"{self.file} cannot be read: {error.strerror or error}.") from error

    def _open(self) -> AbstractContextManager[Iterable[str]]:
        if self.stream is not None:
            return nullcontext(self.stream)
        if str(self.file) != STANDARD_INPUT:
            return Path(self.file).open(encoding="utf-8-sig", errors="surrogateescape", newline="")
        if sys.stdin is None:
            raise self.error("Standard input is closed.", "Name a file, or connect a pipe.")
        return nullcontext(io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", "surrogateescape", ""))

    def _csv_rows(self, required: Sequence[str]) -> Iterator[Row]:
        lines = self._text()
        head = list(_until_text(lines))
        separator = self.style.separator or self._find_separator(len(head), head[-1] if head else "")
        records = self._csv_records(chain(head, lines), separator)
        line, names = next(records, (1, []))
        self._check_unique(line, names)
        self._check_columns(line, names, required)
        for line, cells in records:
            if len(cells) != len(names):
                raise self.problem(
                    line,
                    f"{_count(len(cells), 'value')} for {_count(len(names), 'column')} ({', '.join(names)}).",
                    f'Put a value that contains a {SEPARATORS[separator]} in double quotes: "a red coat, blue jeans".'
                    if len(cells) > len(names)
                    else f"Keep the {SEPARATORS[separator]} of an empty value.",
                )
            yield Row(self, line, dict(zip(names, cells, strict=True)))

    def _csv_records(self, lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
        """The cells of every record, the header's first, with the line on which it begins."""
        reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise self._csv_problem(line, str(error)) from error
            if cells is None:
                return
            cells = [cell.strip() for cell in cells]
            if len(cells) > 1 or any(cells):
                yield line, cells

    def _find_separator(self, line: int, header: str) -> str:
        """What separates the names of a header, outside of double quotes."""
        bare = re.sub(r'"[^"]*"', "", header.rstrip("\r\n"))
        found = [separator for separator in SEPARATORS if separator in bare]
        if len(found) > 1:
            raise self.problem(
                line,
                f"the header holds {' and '.join(f'{SEPARATORS[each]}s' for each in found)}, so it does not tell "
                "what separates the columns.",
                "Put a name that contains one of them in double quotes, or name the separator (--separator).",
            )
        return found[0] if found else ","

    def _csv_problem(self, line: int, reason: str) -> TbpsError:
        if reason.startswith("unexpected end"):
            return self.problem(line, "a double quote is opened and not closed.", _QUOTES_HINT)
        if reason.startswith("field larger"):
            return self.problem(
                line,
                f"a value has more than {csv.field_size_limit():,} characters.",
                "A double quote that is not closed makes everything after it one value.",
            )
        return self.problem(line, f"this is not valid CSV: {reason}.", _QUOTES_HINT)

    def _check_unique(self, line: int, names: Sequence[str]) -> None:
        seen = set[str]()
        for position, name in enumerate(names, start=1):
            if not name.strip():
                raise self.problem(line, f"column {position} has no name.")
            if name.lower() in seen:
                raise self.problem(line, f"the column {name!r} is there twice.")
            seen.add(name.lower())

    def _check_columns(self, line: int, names: Sequence[str], required: Sequence[str]) -> None:
        missing = set(required) - {name.lower() for name in names}
        if missing:
            columns = f"The columns are: {', '.join(names)}." if names else "The first line names the columns."
            raise self.problem(line, f"the column {min(missing)!r} is missing.", columns)
        for name in names:
            if self.name_problem and name.lower() not in required and (problem := self.name_problem(name)):
                raise self.problem(line, f"the column name {name!r} {problem}.", "Give the column another name.")


_QUOTES_HINT = 'Close every double quote; inside a quoted value, write a double quote as "".'


def _until_text(lines: Iterator[str]) -> Iterator[str]:
    """The lines down to the first that is not blank."""
    for text in lines:
        yield text
        if text.strip():
            return


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


class _JsonFloat(float):
    """A number of JSON with a point or an exponent; as text it is what was written."""

    def __new__(cls, text: str) -> _JsonFloat:
        number = super().__new__(cls, text)
        number._text = text
        return number

    _text: str

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a list.

    Attributes:
        reader: What it was read by.
        line: Where it begins, counted from 1.
        values: By column name, as written; text from CSV and text lines, any JSON value from JSON lines, where the
            text of a number, `str`, is what was written.
    """

    reader: ListReader
    line: int
    values: dict[str, Any]

    def get(self, name: str) -> Any:
        """The value of a column, its name in lower case; None where there is none."""
        return next((value for key, value in self.values.items() if key.lower() == name), None)

    def text(self, name: str) -> str:
        """The value of a column that must hold text; raises the reader's error where it is blank or no text."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.problem(f"the {name} is {value!r}, want text.")
        return value

    def problem(self, message: str, hint: str = "") -> TbpsError:
        """An error about this row, to be raised."""
        return self.reader.problem(self.line, message, hint)
