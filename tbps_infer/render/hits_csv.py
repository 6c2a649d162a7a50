"""Hits as CSV, the same from the command line and from the server."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from tbps_infer.layout import VectorLayout
from tbps_infer.render.printable import printable

if TYPE_CHECKING:
    from tbps_infer.gallery import Hit

__all__ = ["HitsCsv", "spelled"]

_OWN = ("rank", "record", "score", "path")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # spreadsheets take the fullwidth forms, too


class HitsCsv:
    """Writes a row per hit: what the caller adds, rank, record, score, path, metadata, and the score's shares.

    A metadata column that has the name of another column is called ``meta_NAME``. Text that a spreadsheet would take
    for a formula gets an apostrophe in front, in the header too; control characters are spelled out.

    Args:
        file: Where the header is written now, and the rows later.
        layout: The model's; its segments' names are those of the shares' columns.
        metadata: The metadata columns.
        added: Columns of the caller, the first ones.
    """

    def __init__(
        self, file: TextIO, layout: VectorLayout, metadata: Sequence[str], added: Sequence[str] = ()
    ) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._metadata = metadata
        self._segments = layout.names
        taken = {name.lower() for name in (*added, *_OWN, *layout.names)}
        names = [*added, *_OWN, *(_free_name(name, taken) for name in metadata), *layout.names]
        self._writer.writerow(map(_cell, names))

    def add(self, rank: int, hit: Hit, added: Sequence[object] = ()) -> None:
        """Write a hit, with the values of the caller's columns."""
        values = (hit.metadata.get(name) for name in self._metadata)
        shares = (f"{hit.split[name]:.6f}" for name in self._segments)
        facts = (rank, hit.record, f"{hit.score:.6f}", _cell(str(hit.path)))
        self._writer.writerow([*map(_cell, added), *facts, *map(_cell, values), *shares])


def _free_name(name: str, taken: set[str]) -> str:
    """The name, with ``meta_`` in front as often as it takes to be the only one, and taken from then on."""
    while name.lower() in taken:
        name = f"meta_{name}"
    taken.add(name.lower())
    return name


def spelled(text: str) -> str:
    """A text as it stands in a cell."""
    return printable(f"'{text}" if text.startswith(_FORMULA) else text)


def _cell(value: object) -> object:
    return spelled(value) if isinstance(value, str) else value
