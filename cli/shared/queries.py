"""Where the queries of a search come from: arguments, files, standard input, pictures."""

from __future__ import annotations

import csv
import json
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from tbps_infer.errors import UsageError
from tbps_infer.queries import PersonQuery

__all__ = ["Query", "groups_as_they_come", "groups_of", "one_person", "read_queries"]


@dataclass(frozen=True, slots=True)
class Query:
    """One query: a sentence or a picture.

    Attributes:
        id: Its name in the results.
        text: The sentence; None for a picture.
        image: The picture; None for a sentence.
        person: The ``id`` in the metadata of the right hits, where it is known: hits are marked right or wrong.
        composed: What is embedded, where that is more than the sentence or the picture.
    """

    id: str
    text: str | None = None
    image: Path | None = None
    person: str | None = None
    composed: PersonQuery | None = None

    @property
    def parts(self) -> PersonQuery:
        """What is embedded."""
        if self.composed is not None:
            return self.composed
        return PersonQuery(
            texts=() if self.text is None else (self.text,), images=() if self.image is None else (self.image,)
        )

    @property
    def label(self) -> str:
        """What a person reads above the hits."""
        return self.text if self.text is not None else str(self.image)


def one_person(texts: Sequence[str], images: Sequence[Path], exclude: Sequence[str], image_weight: float) -> Query:
    """One query of all sentences and pictures."""
    parts = PersonQuery(tuple(texts), tuple(images), tuple(exclude), image_weight)
    label = " + ".join((*texts, *map(str, images), *(f"not {text}" for text in exclude)))
    return Query("1", label, composed=parts)


def groups_of(queries: Iterator[Query], most: int) -> Iterator[list[Query]]:
    """Groups of ``most`` queries, the last one smaller."""
    while group := list(islice(queries, most)):
        yield group


def _fill(read: queue.Queue[Query | BaseException | None], queries: Iterator[Query]) -> None:
    try:
        for query in queries:
            read.put(query)
    except BaseException as error:  # carried over to the thread that waits
        read.put(error)
    else:
        read.put(None)


def groups_as_they_come(queries: Iterator[Query], most: int) -> Iterator[list[Query]]:
    """Groups of what has been read by the time that a group is asked for: nobody who types or pipes is kept waiting.

    An error in reading comes after the queries before it.
    """
    read: queue.Queue[Query | BaseException | None] = queue.Queue(maxsize=most)
    threading.Thread(target=_fill, args=(read, queries), daemon=True).start()
    while True:
        item, group = read.get(), []
        while isinstance(item, Query):
            group.append(item)
            if len(group) == most or read.empty():
                break
            item = read.get()
        if group:
            yield group
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


def read_queries(
    texts: Sequence[str], files: Sequence[str], images: Sequence[Path], exclude: Sequence[str] = ()
) -> Iterator[Query]:
    """All queries, each with what is excluded; see `_read` for their order."""
    for query in _read(texts, files, images):
        yield replace(query, composed=replace(query.parts, exclude=tuple(exclude))) if exclude else query


def _read(texts: Sequence[str], files: Sequence[str], images: Sequence[Path]) -> Iterator[Query]:
    """All queries, in the order: arguments, files, pictures; files are read as far as the results are.

    Args:
        texts: Sentences; their ids count from 1.
        files: ``.jsonl`` objects and ``.csv`` rows with ``text``, and ``id`` and ``person`` where known; anything
            else is a sentence a line; ``-`` is standard input, a sentence or a JSON object a line.
        images: Pictures; a picture's id is its name.

    Raises:
        UsageError: A file cannot be read, or a line has no text.
    """
    for number, text in enumerate(texts, start=1):
        yield Query(str(number), text)
    for name in files:
        with _opened(name) as stream:
            yield from _file_queries(name, stream)
    for image in images:
        yield Query(image.name, image=image)


@contextmanager
def _opened(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdin
        return
    try:
        stream = Path(name).open(  # noqa: SIM115 - closed below; only opening it is the user's error
            encoding="utf-8-sig", newline=""
        )
    except OSError as error:
        raise UsageError(f"The queries' file {name} cannot be read: {error.strerror}.") from error
    with stream:
        yield stream


def _file_queries(name: str, stream: TextIO) -> Iterator[Query]:
    try:
        if name.endswith(".csv"):
            for number, row in enumerate(csv.DictReader(stream), start=2):
                yield _named(name, number, row)
            return
        for number, line in enumerate(stream, start=1):
            text = line.strip()
            if not text:
                continue
            if name.endswith(".jsonl") or (name == "-" and text.startswith("{")):
                yield _json_query(name, number, text)
            else:
                yield Query(str(number), text)
    except UnicodeDecodeError as error:
        raise UsageError(f"The queries' file {name} is not UTF-8: {error}.") from error


def _json_query(name: str, number: int, line: str) -> Query:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{name}: line {number} is not valid JSON: {error}.") from error
    if not isinstance(row, dict):
        raise UsageError(f'{name}: line {number} is no object; want {{"id": ..., "text": ...}}.')
    return _named(name, number, row)


def _named(name: str, number: int, row: Mapping[str, object]) -> Query:
    text, given, person = (row.get(key) for key in ("text", "id", "person"))
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{name}: line {number} has no text.", 'Name the sentence "text", and its name "id".')
    known = None if person in (None, "") else str(person)
    return Query(str(number) if given in (None, "") else str(given), text, person=known)
