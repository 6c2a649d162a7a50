"""What a dataset remembers of pictures that have no record: rejects, and what was removed and is to stay so.

It is a small dataset inside of the dataset's folder, so that it goes where that goes. It is written before the
records change: whatever is interrupted between the two is done by the next run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tbps_infer.gallery.expressions.lance import text_literal
from tbps_infer.gallery.lance.storage import create_dataset, find_dataset, lance_errors, open_dataset
from tbps_infer.gallery.records import Reject
from tbps_infer.gallery.tombstones import Tombstone

__all__ = ["Outcomes"]

_FOLDER = "tbps_outcomes.lance"
_AT_ONCE = 4096


class Outcomes:
    """Reads and writes them; of a dataset without any, nothing is there."""

    def __init__(self, uri: str) -> None:
        self._uri = f"{uri}/{_FOLDER}"

    def rejects(self) -> list[Reject]:
        """Pictures that could not be embedded, by path."""
        rows = self._read("rejected")
        return sorted((Reject(Path(row["path"]), row["reason"]) for row in rows), key=lambda each: each.path)

    def tombstones(self) -> list[Tombstone]:
        """Pictures that were removed."""
        rows = self._read("removed")
        return [Tombstone(row["sha256"], None if row["path"] is None else Path(row["path"])) for row in rows]

    def reject(self, rejects: Sequence[Reject]) -> None:
        """List pictures as rejected."""
        self._put([_row("rejected", str(each.path), str(each.path), reason=each.reason) for each in rejects])

    def bury(self, tombstones: Sequence[Tombstone]) -> None:
        """Keep tombstones."""
        self._put(
            [
                _row(
                    "removed",
                    f"{each.sha256} {each.path or ''}",
                    None if each.path is None else str(each.path),
                    each.sha256,
                )
                for each in tombstones
            ]
        )

    def forget_rejects(self, paths: Iterable[Path]) -> None:
        """Take pictures off the list of rejects."""
        self._delete("kind = 'rejected' AND path", [str(path) for path in paths])

    def forget_tombstones(self, paths: Iterable[Path], hashes: Iterable[str]) -> None:
        """Take the tombstones of paths and of content away."""
        self._delete("kind = 'removed' AND path", [str(path) for path in paths])
        self._delete("kind = 'removed' AND sha256", list(hashes))

    def forget_paths(self) -> None:
        """Keep only the hashes of what was removed, and no earlier version of it."""
        hashes = {each.sha256 for each in self.tombstones()}
        dataset = find_dataset(self._uri)
        if dataset is None:
            return
        with lance_errors(self._uri):
            dataset.delete("kind = 'removed'")
        self.bury([Tombstone(each, None) for each in sorted(hashes)])
        with lance_errors(self._uri):
            dataset = open_dataset(self._uri)
            dataset.optimize.compact_files(materialize_deletions_threshold=0.0)
            dataset.cleanup_old_versions(older_than=timedelta(0))

    def _read(self, kind: str) -> list[dict[str, Any]]:
        dataset = find_dataset(self._uri)
        if dataset is None:
            return []
        with lance_errors(self._uri, "read"):
            rows: list[dict[str, Any]] = dataset.to_table(filter=f"kind = {text_literal(kind)}").to_pylist()
        return rows

    def _put(self, rows: list[dict[str, str | None]]) -> None:
        import pyarrow as pa

        if not rows:
            return
        key = pa.field("key", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})
        schema = pa.schema([key, *(pa.field(name, pa.string()) for name in ("kind", "path", "sha256", "reason"))])
        table = pa.Table.from_pylist(list({row["key"]: row for row in rows}.values()), schema=schema)
        with lance_errors(self._uri):
            dataset = find_dataset(self._uri)
            if dataset is None:
                dataset = create_dataset(self._uri, table.slice(0, 0), schema) or open_dataset(self._uri)
            merge = dataset.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
            merge.conflict_retries(50).execute(table)

    def _delete(self, column: str, values: list[str]) -> None:
        dataset = find_dataset(self._uri) if values else None
        if dataset is None:
            return
        with lance_errors(self._uri):
            for start in range(0, len(values), _AT_ONCE):
                listed = ", ".join(map(text_literal, values[start : start + _AT_ONCE]))
                if dataset.count_rows(f"{column} IN ({listed})"):
                    dataset.delete(f"{column} IN ({listed})")


def _row(
    kind: str, name: str, path: str | None, sha256: str | None = None, reason: str | None = None
) -> dict[str, str | None]:
    return {"key": f"{kind} {name}", "kind": kind, "path": path, "sha256": sha256, "reason": reason}
