"""Reading hits back: the records that a search's CSV or JSON lines name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tbps_infer.errors import UsageError
from tbps_infer.gallery.protocols import StoredGallery
from tbps_infer.lists import ListReader, Row
from tbps_infer.render.hits_csv import spelled

__all__ = ["hits_records"]

_AT_ONCE = 4096


def hits_records(file: Path, gallery: StoredGallery) -> tuple[int, ...]:
    """The numbers of the records that a file of hits names, each once, those that the gallery has no more included.

    Args:
        file: A .csv with the column ``record``, or .jsonl with a hit, or a query with its ``hits``, in each line.
        gallery: What was searched.

    Raises:
        UsageError: A number is none, or a hit has another path than its record: it is another gallery's.
    """
    numbers: dict[int, None] = {}
    paths: list[tuple[int, str, Row]] = []
    for hit in _hits(ListReader(file, UsageError)):
        number, path = hit.get("record"), hit.get("path")
        if not str(number).isdecimal():
            raise hit.problem(f"record is {number!r}, want the number of a record.")
        numbers[int(str(number))] = None
        if isinstance(path, str):
            paths.append((int(str(number)), path, hit))
    for start in range(0, len(paths), _AT_ONCE):
        some = paths[start : start + _AT_ONCE]
        known = np.unique(np.array([number for number, _, _ in some if number < 2**63], dtype=np.int64))
        records = gallery.details(known)
        for number, path, hit in some:
            if number not in records:
                continue
            told = str(records[number].path)
            if path.strip() not in (told.strip(), spelled(told).strip()):  # lists drop the blanks around values
                raise hit.problem(
                    f"record {number} is {path} there and {told} in the gallery {gallery.path}.",
                    "These are hits of another gallery, or the picture has moved; keep the rows of this gallery.",
                )
    return tuple(numbers)


def _hits(reader: ListReader) -> Iterator[Row]:
    """The hits, each as a row of its own."""
    reader = reader.recognised(("record",))
    for row in reader.rows(() if reader.form == "jsonl" else ("record",)):
        hits = row.get("hits")
        if reader.form != "jsonl" or row.get("record") is not None or hits is None:
            yield row
        elif isinstance(hits, list) and all(isinstance(hit, dict) for hit in hits):
            yield from (replace(row, values=hit) for hit in hits)
        else:
            raise row.problem("hits is no list of hits.")
