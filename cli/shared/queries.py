"""The queries of a search: from arguments, files, standard input and pictures."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from tbps_infer.errors import UsageError
from tbps_infer.lists import ListReader, ListStyle, Row, refuse_twice
from tbps_infer.queries import PersonQuery

__all__ = ["Query", "combined_query", "groups_as_read", "groups_of", "read_queries"]


@dataclass(frozen=True, slots=True)
class Query:
    """One query: a sentence or a picture.

    Attributes:
        id: Its name in the results.
        text: The sentence; None for a picture.
        image: The picture; None for a sentence.
        person: The ``id`` of the person in the metadata, where it is known: hits are then marked right or wrong.
        composed: What is embedded, where that is more than the sentence or the picture.
        warnings: What the model cannot read of it, and why nothing was found, once it has been searched.
    """

    id: str
    text: str | None = None
    image: Path | None = None
    person: str | None = None
    composed: PersonQuery | None = None
    warnings: tuple[str, ...] = ()

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
        """The heading above the hits."""
        return self.text if self.text is not None else str(self.image)


def combined_query(
    texts: Sequence[str], images: Sequence[Path], exclude: Sequence[str], image_weight: float
) -> Query:
    """One query that combines all sentences and pictures."""
    parts = PersonQuery(tuple(texts), tuple(images), tuple(exclude), image_weight)
    label = " + ".join((*texts, *map(str, images), *(f"not {text}" for text in exclude)))
    return Query("1", label, composed=parts)


def groups_of(queries: Iterator[Query], most: int) -> Iterator[list[Query]]:
    """Groups of ``most`` queries, the last one smaller."""
    while group := list(islice(queries, most)):
        yield group


def _read_all(queries: Iterator[Query], read: queue.Queue[Query | BaseException | None]) -> None:
    try:
        for query in queries:
            read.put(query)
    except BaseException as error:  # carried over to the thread that waits
        read.put(error)
    else:
        read.put(None)


def groups_as_read(queries: Iterator[Query], most: int) -> Iterator[list[Query]]:
    """Groups of the queries that have been read so far, so that whoever types or pipes them does not wait.

    An error in reading is raised after the queries before it.
    """
    read: queue.Queue[Query | BaseException | None] = queue.Queue(maxsize=most)
    threading.Thread(target=_read_all, args=(queries, read), daemon=True).start()
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
    texts: Sequence[str],
    files: Sequence[str],
    images: Sequence[Path],
    exclude: Sequence[str] = (),
    style: ListStyle | None = None,
) -> Iterator[Query]:
    """All queries, in the order: arguments, files, pictures; files are read as far as the results are.

    Args:
        texts: Sentences; their ids count from 1.
        files: `tbps_infer.lists` with the column ``text``, and ``id`` and ``person`` where known; a line of a text
            list is a sentence or a JSON object. A query without an id has its line's number, after the file's name
            where there are other files or sentences.
        images: Pictures; a picture's id is its name, or its path where two have the same name.
        exclude: What every query excludes.
        style: How the lists are written; None for `ListStyle()`.

    Raises:
        UsageError: A file cannot be read, or a line has no text.
    """
    refuse_twice(files, UsageError)
    for query in _read(texts, files, images, style or ListStyle()):
        yield replace(query, composed=replace(query.parts, exclude=tuple(exclude))) if exclude else query


def _read(texts: Sequence[str], files: Sequence[str], images: Sequence[Path], style: ListStyle) -> Iterator[Query]:
    for number, text in enumerate(texts, start=1):
        yield Query(str(number), text)
    alone = len(files) == 1 and not texts
    for name in files:
        yield from _listed(ListReader(name, UsageError, style=style), "" if alone else f"{name}:")
    names = [image.name for image in images]
    for image in images:
        yield Query(image.name if names.count(image.name) == 1 else str(image), image=image)


_REQUIRED = ("text",)


def _listed(reader: ListReader, before: str) -> Iterator[Query]:
    if reader.form is None and Path(reader.file).suffix:
        raise UsageError(
            f"The extension of the query file {reader.file} is not known; want .txt, .csv or .jsonl.",
            "Rename the file.",
        )
    by_line = reader.form in (None, "txt")  # then sentences and JSON objects may alternate
    reader = reader.recognised(_REQUIRED)
    if not by_line or reader.form == "csv":
        yield from (_from_row(row, before) for row in reader.rows(_REQUIRED))
        return
    for line, text in reader.lines():
        if text.lstrip().startswith("{"):
            yield _from_row(reader.json_row(line, text, _REQUIRED), before)
        else:
            yield Query(f"{before}{line}", text.strip())


def _from_row(row: Row, before: str) -> Query:
    given, person = row.get("id"), row.get("person")
    known = None if person in (None, "") else str(person)
    return Query(f"{before}{row.line}" if given in (None, "") else str(given), row.text("text"), person=known)
