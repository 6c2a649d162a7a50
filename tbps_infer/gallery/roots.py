"""Roots: the folders that a gallery's paths are relative to, so that its pictures can move to another place."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from tbps_infer.errors import GalleryError

__all__ = ["PATH_SQL", "Roots", "relocate"]

PATH_SQL = "(SELECT folder FROM root WHERE root = tbps_root) || path"
"""The absolute path of a row that has a root and a path relative to it, in SQL."""

_PLACED = ("record", "reject", "tombstone")
"""The tables whose rows have a root and a path."""


class Roots:
    """The roots of an open gallery, as its one writer knows and extends them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.load()

    def load(self) -> None:
        """Read the roots again, after a transaction that did not come to its end."""
        rows = self._connection.execute("SELECT folder, root FROM root ORDER BY length(folder) DESC")
        self._numbers: dict[str, int] = dict(rows.fetchall())

    @property
    def numbers(self) -> list[int]:
        """The roots' numbers, that of the longest folder first."""
        return list(self._numbers.values())

    def places(self, path: Path) -> list[tuple[int, str]]:
        """Where a path can be recorded: each root above it with the path relative to it, the longest root first."""
        text = str(path)
        return [(root, text[len(folder) :]) for folder, root in self._numbers.items() if text.startswith(folder)]

    def place(self, path: Path) -> tuple[int, str]:
        """Where a new path is recorded; its own folder becomes a root where no root is above it."""
        found = self.places(path)
        if not found:
            self.add([path.parent])
            found = self.places(path)
        return found[0]

    def add(self, folders: Iterable[Path]) -> None:
        """Make folders roots, unless they are, inside the caller's transaction."""
        for folder in map(_folder_text, folders):
            if folder not in self._numbers:
                self._connection.execute("INSERT INTO root (folder) VALUES (?)", (folder,))
        self.load()


def relocate(connection: sqlite3.Connection, old: Path, new: Path) -> int:
    """Record the pictures below a folder as being below another, inside the caller's transaction; returns how many.

    Raises:
        GalleryError: Nothing is recorded below the folder, or a picture is recorded at the new place already.
    """
    before, after = _folder_text(old), _folder_text(new)
    moved = 0
    wanted: dict[int, str] = {}
    for root, folder in connection.execute("SELECT root, folder FROM root").fetchall():
        if folder.startswith(before):
            inner, wanted[root] = "", after + folder[len(before) :]
        elif before.startswith(folder):
            inner, wanted[root] = before[len(folder) :], after
        else:
            continue
        # Out of the way first: the new place may be below a root that is itself still to be moved.
        for table in _PLACED:
            changed = connection.execute(
                f"UPDATE {table} SET tbps_root = -tbps_root, path = substr(path, ?) "
                "WHERE tbps_root = ? AND substr(path, 1, ?) = ?",
                (len(inner) + 1, root, len(inner), inner),
            ).rowcount
            moved += changed if table == "record" else 0
    for root, folder in wanted.items():
        connection.execute("INSERT INTO root (folder) VALUES (?) ON CONFLICT DO NOTHING", (folder,))
        target = connection.execute("SELECT root FROM root WHERE folder = ?", (folder,)).fetchone()[0]
        for table in _PLACED:
            try:
                connection.execute(f"UPDATE {table} SET tbps_root = ? WHERE tbps_root = ?", (target, -root))
            except sqlite3.IntegrityError as error:
                raise GalleryError(
                    f"A picture below {old} is recorded below {new} already.",
                    "Remove one of the two first with tbps gallery rm --path.",
                ) from error
    if not moved:
        folders = [folder for (folder,) in connection.execute("SELECT folder FROM root ORDER BY folder LIMIT 5")]
        raise GalleryError(
            f"No picture is recorded below {old}.", f"The gallery's roots are: {', '.join(folders) or 'none'}."
        )
    remove_unused(connection)
    return moved


def remove_unused(connection: sqlite3.Connection) -> None:
    """Forget the roots that nothing is recorded below, inside the caller's transaction."""
    used = " UNION ".join(f"SELECT tbps_root FROM {table} WHERE tbps_root IS NOT NULL" for table in _PLACED)
    connection.execute(f"DELETE FROM root WHERE root NOT IN ({used})")


def _folder_text(folder: Path) -> str:
    return os.path.join(folder, "")  # noqa: PTH118 - with the separator at its end, which pathlib drops
