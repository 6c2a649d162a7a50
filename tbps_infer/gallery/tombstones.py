"""Tombstones: what was removed from a gallery on purpose, so that embedding its folder does not bring it back.

A tombstone has the SHA-256 of the file's content and the path where it was. Either is enough to leave a picture out:
a copy elsewhere as well as the same picture written anew. A purge takes the paths; whoever has a gallery's folder and
a picture can then still tell whether that very file was removed, and nothing else.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from tbps_infer.gallery.roots import Roots

__all__ = ["Tombstone", "add_tombstone", "bury", "forget_paths", "forget_tombstone", "is_removed"]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A removed picture: the SHA-256 of its file, and its absolute path, None after a purge."""

    sha256: str
    path: Path | None


def bury(connection: sqlite3.Connection, record: int) -> None:
    """Keep a tombstone of a record that is about to be removed, inside the caller's transaction."""
    connection.execute(
        "INSERT INTO tombstone SELECT tbps_sha256, tbps_root, path FROM record WHERE record = ?", (record,)
    )


def add_tombstone(connection: sqlite3.Connection, roots: Roots, tombstone: Tombstone) -> None:
    """Keep a tombstone of another gallery, unless there is one like it, inside the caller's transaction."""
    root, path = (None, None) if tombstone.path is None else roots.place(tombstone.path)
    connection.execute(
        "INSERT INTO tombstone SELECT ?1, ?2, ?3 WHERE NOT EXISTS "
        "(SELECT 1 FROM tombstone WHERE sha256 = ?1 AND tbps_root IS ?2 AND path IS ?3)",
        (tombstone.sha256, root, path),
    )


def is_removed(connection: sqlite3.Connection, roots: Roots, path: Path, sha256: str | None = None) -> bool:
    """Whether a path, or content if its hash is given, was removed."""
    conditions: list[tuple[str, tuple[int | str, ...]]] = [] if sha256 is None else [("sha256 = ?", (sha256,))]
    conditions += [("tbps_root = ? AND path = ?", place) for place in roots.places(path)]
    return any(
        connection.execute(f"SELECT 1 FROM tombstone WHERE {condition} LIMIT 1", values).fetchone()
        for condition, values in conditions
    )


def forget_tombstone(connection: sqlite3.Connection, roots: Roots, path: Path, sha256: str) -> None:
    """Take the tombstones of a path and of its content away, inside the caller's transaction."""
    connection.execute("DELETE FROM tombstone WHERE sha256 = ?", (sha256,))
    for place in roots.places(path):
        connection.execute("DELETE FROM tombstone WHERE tbps_root = ? AND path = ?", place)


def forget_paths(connection: sqlite3.Connection) -> None:
    """Keep only the hashes, each once, inside the caller's transaction."""
    connection.execute("UPDATE tombstone SET tbps_root = NULL, path = NULL")
    connection.execute("DELETE FROM tombstone WHERE rowid NOT IN (SELECT min(rowid) FROM tombstone GROUP BY sha256)")
