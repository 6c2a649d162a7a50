"""One of the many writers of a dataset: rows come and change by a merge on the path, which others cannot tear."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import tbps_infer
from tbps_infer.errors import GalleryBusyError, GalleryError
from tbps_infer.gallery.columns import ColumnType, Value
from tbps_infer.gallery.expressions.lance import text_literal
from tbps_infer.gallery.folder import DtypeName, GalleryFacts
from tbps_infer.gallery.lance.conditional_writes import require_conditional_writes
from tbps_infer.gallery.lance.conditions import of_ids
from tbps_infer.gallery.lance.outcomes import Outcomes
from tbps_infer.gallery.lance.storage import create_dataset, dataset_uri, find_dataset, lance_errors, open_dataset
from tbps_infer.gallery.lance.table import (
    KEY,
    STAMP,
    DatasetFacts,
    column_types,
    field_name,
    metadata_of,
    new_columns,
    new_fields,
    new_schema,
    rows_of,
    stamp_of,
    with_columns,
    with_known_names,
)
from tbps_infer.gallery.mapping import checked_rows
from tbps_infer.gallery.record_table import Recorded
from tbps_infer.gallery.records import Entry, FileStamp, Reject
from tbps_infer.gallery.tombstones import Tombstone
from tbps_infer.model_facts import ModelFacts

__all__ = ["LanceWriter"]

T = TypeVar("T")

_ATTEMPTS = 10
_RETRIES = 50
_PATHS_AT_ONCE = 1024


class LanceWriter:
    """Creates a dataset or continues one, beside any number of others; a context manager.

    A call of `commit` adds its rows as a whole or not at all. A path has one row, also when two writers add it at the
    same time.
    """

    def __init__(self, uri: str, facts: DatasetFacts, dataset: Any | None) -> None:
        """Not for callers: use `open`."""
        self.path = uri
        self.facts: GalleryFacts = facts.gallery
        self.keeps_crops = facts.crops
        self._new = facts
        self._found = dataset
        self._outcomes = Outcomes(uri)
        self._known: dict[str, FileStamp] | None = None
        self._rejects: set[Path] | None = None
        self._removed: tuple[set[str], set[Path]] | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        model: ModelFacts,
        *,
        dtype: DtypeName | None = None,
        bundle_path: Path | None = None,
        crops: bool = False,
    ) -> LanceWriter:
        """Continue the dataset at a URI, or create one.

        Args:
            path: Its URI, or a path that ends with .lance.
            model: The model whose embeddings will be added.
            dtype: How numbers are stored, float16 or float32; None takes the dataset's own, float16 for a new one.
            bundle_path: Where the model was read from; recorded in a new dataset.
            crops: Whether a new dataset keeps crops; an existing one must.

        Raises:
            ModelMismatchError: The dataset was embedded by another model.
            GalleryError: It is not a gallery, stores another type or keeps no crops, or the store cannot be written
                to or does not keep two writers apart.
        """
        uri = dataset_uri(path)
        dataset = find_dataset(uri)
        if "://" in uri:
            require_conditional_writes(uri)
        if dataset is None:
            facts = _new_facts(model, dtype or "float16", bundle_path, crops)
        else:
            facts = DatasetFacts.of_schema(dataset.schema, uri)
        writer = cls(uri, facts, dataset)
        writer.facts.require_model(model, uri)
        if dtype not in (None, writer.facts.dtype_name):
            raise GalleryError(
                f"The dataset {uri} stores {writer.facts.dtype_name}, and {dtype} was asked for.",
                "Leave the type out, or make a new dataset.",
            )
        if crops and not writer.keeps_crops:
            raise GalleryError(
                f"The dataset {uri} was made without crops.", "Leave --with-crops out, or make a new dataset."
            )
        return writer

    def __enter__(self) -> LanceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Nothing is held open, and what was opened is there, with or without rows."""
        _ = self._dataset

    @property
    def _dataset(self) -> Any:
        """The dataset, created now where it is not there yet; that of another writer where one was faster."""
        if self._found is None:
            schema = new_schema(self._new)
            self._found = create_dataset(self.path, schema.empty_table(), schema) or open_dataset(self.path)
            DatasetFacts.of_schema(self._found.schema, self.path).gallery.require_model(self.facts.model, self.path)
        return self._found

    def stamp(self, path: Path) -> FileStamp | None:
        """The stamp of a picture that has a record; all are read once, by the first call."""
        if self._known is None:
            self._known = {}
            with lance_errors(self.path, "read"):
                if self._found is None:
                    return None
                for batch in self._dataset.scanner(columns=[KEY, *STAMP]).to_batches():
                    columns = (batch.column(name).to_pylist() for name in (KEY, *STAMP))
                    for name, *stamp in zip(*columns, strict=True):
                        self._known[name] = FileStamp(*stamp)
        return self._known.get(str(path))

    def find(self, path: Path) -> Entry | None:
        """What is recorded about a picture, by its absolute path."""
        return self._recorded([path]).get(str(path))

    def find_all(self, paths: Iterable[Path]) -> dict[Path, Recorded]:
        """What is recorded about some pictures, those of them that have a record: their stamps."""
        stamps = ((path, self.stamp(path)) for path in paths)
        return {path: _Stamped(stamp, {}, unreachable=False) for path, stamp in stamps if stamp is not None}

    def of_content(self, sha256: str) -> list[Path]:  # noqa: ARG002 - the protocol's
        """None: a file that moved gets a new record, as it may be another writer's now."""
        return []

    def was_removed(self, path: Path, sha256: str | None = None) -> bool:
        """Whether a picture was removed on purpose."""
        hashes, paths = self._what_was_removed()
        return path in paths or sha256 in hashes

    @property
    def has_tombstones(self) -> bool:
        """Whether anything was removed on purpose."""
        return any(self._what_was_removed())

    def _what_was_removed(self) -> tuple[set[str], set[Path]]:
        if self._removed is None:
            found = self._outcomes.tombstones()
            self._removed = {each.sha256 for each in found}, {each.path for each in found if each.path is not None}
        return self._removed

    def roots(self) -> list[Path]:
        """None: paths are recorded whole."""
        return []

    def add_roots(self, folders: Sequence[Path]) -> None:
        """Nothing: paths are recorded whole."""

    def paths_below(self, folder: Path, *, rejects: bool = False) -> list[Path]:
        """The paths of the records, or of the rejects, that are a folder or below it, by path."""
        if rejects:
            paths = [each.path for each in self._outcomes.rejects()]
        else:
            self.stamp(folder)
            paths = [Path(name) for name in self._known or {}]
        return sorted(path for path in paths if path.is_relative_to(folder))

    def commit(
        self,
        embedded: Sequence[Entry] = (),
        vectors: NDArray[np.float32] | None = None,
        *,
        unchanged: Sequence[Entry] = (),
        rejects: Sequence[Reject] = (),
        unreachable: Sequence[Reject] = (),
        moved: Sequence[tuple[Path, Entry]] = (),
    ) -> None:
        """Record what happened to some pictures; as `tbps_infer.gallery.GalleryWriter.commit`.

        The embedded ones are added as a whole. What else is given is written behind them, each kind as a whole.

        Raises:
            GalleryError: As there.
            GalleryBusyError: So many wrote at the same time that this one had to give up.
        """
        assert not moved, "of_content names none"
        rows = None
        if vectors is not None or embedded:
            rows = checked_rows(vectors, len(embedded), self.facts)
        changes = self._changes(unchanged)
        if embedded:
            self.commit_stored(embedded, rows)
        if changes:
            self._merge(changes, None)
        if unreachable:
            self._mark_unreachable(unreachable)
        if rejects:
            self._outcomes.reject(rejects)
            self._rejects = None
            self._delete_paths([each.path for each in rejects])

    def commit_stored(self, embedded: Sequence[Entry], data: NDArray[np.uint8] | None) -> None:
        """As `commit`, with embeddings uint8 ``[len(embedded), row_bytes]`` as another gallery stores them."""
        if data is None:
            return
        known = self._recorded([entry.path for entry in embedded if self.stamp(entry.path) is not None])
        merged = []
        for entry in embedded:
            before = known.get(str(entry.path))
            merged.append(entry if before is None else replace(entry, metadata={**before.metadata, **entry.metadata}))
        self._merge(merged, data.view(self.facts.dtype))
        paths = [entry.path for entry in embedded]
        hashes = [entry.stamp.sha256 for entry in embedded]
        if any(self.was_removed(*each) for each in zip(paths, hashes, strict=True)):
            self._outcomes.forget_tombstones(paths, hashes)
            self._removed = None
        if self._rejects is None:
            self._rejects = {each.path for each in self._outcomes.rejects()}
        self.forget_rejects([path for path in paths if path in self._rejects])

    def commit_batches(
        self,
        columns: Mapping[str, ColumnType],
        batches: Iterator[tuple[Sequence[Entry], NDArray[np.uint8]]],
    ) -> None:
        """Commit batches of rows as `commit_stored` does; a new dataset is created with all of them, in their order.

        Args:
            columns: Every metadata column that the rows have, and what it holds.
            batches: Entries with their embeddings.
        """
        import pyarrow as pa

        if self._found is not None:
            for each in batches:
                self.commit_stored(*each)
            return
        schema = with_columns(new_schema(self._new), columns)
        now_s = time.time()

        def rows() -> Iterator[Any]:
            for entries, data in batches:
                table = rows_of(entries, data.view(self.facts.dtype), schema, now_s)
                yield from table.cast(schema).to_batches()

        self._found = create_dataset(self.path, pa.RecordBatchReader.from_batches(schema, rows()), schema)
        if self._found is None:
            raise GalleryBusyError(
                f"Another writer has made {self.path} meanwhile.", "Run the same command again: it adds to that."
            )
        self._known = None

    def add_tombstones(self, tombstones: Sequence[Tombstone]) -> None:
        """Keep the tombstones of another gallery, except those of pictures that have a record here."""
        paths = [each.path for each in tombstones if each.path is not None]
        here = self._recorded(paths)
        self._outcomes.bury([each for each in tombstones if each.path is None or str(each.path) not in here])
        self._removed = None

    def remove(self, records: Sequence[int], *, tombstones: bool = True) -> int:
        """Remove records by number; returns how many went.

        Args:
            records: Their numbers.
            tombstones: Whether embedding the same pictures again leaves them out.
        """
        gone = 0
        for condition in of_ids(np.array(records, dtype=np.int64) - 1):
            if tombstones:
                with lance_errors(self.path, "read"):
                    self._dataset.checkout_latest()
                    rows = self._dataset.to_table(columns=[KEY, STAMP[2]], filter=condition).to_pylist()
                self._outcomes.bury([Tombstone(row[STAMP[2]], Path(row[KEY])) for row in rows])
            gone += self._on_newest(partial(self._delete, condition))
        self._known = self._removed = None
        return gone

    def remove_paths(self, paths: Sequence[Path]) -> int:
        """Remove records by their paths, without tombstones; returns how many went."""
        return self._delete_paths(paths)

    def forget_rejects(self, paths: Sequence[Path]) -> None:
        """Take pictures off the list of rejects."""
        self._outcomes.forget_rejects(paths)
        self._rejects = None if paths else self._rejects

    def _merge(self, entries: Sequence[Entry], rows: NDArray[Any] | None) -> None:
        """Add entries with their embeddings, or change what is recorded of those that there are."""
        now_s = time.time()

        def merge() -> None:
            self._add_columns(entries)
            types = column_types(self._dataset.schema)
            table = rows_of([self._named(each, types) for each in entries], rows, self._dataset.schema, now_s)
            change = self._dataset.merge_insert(KEY).when_matched_update_all()
            if rows is not None:
                change = change.when_not_matched_insert_all()
            change.conflict_retries(_RETRIES).execute(table)

        self._on_newest(merge)
        if self._known is not None:
            self._known.update((str(entry.path), entry.stamp) for entry in entries)

    def _on_newest(self, change: Callable[[], T]) -> T:
        """Change the newest version; again where another writer has just added a column, which excludes others."""
        for attempt in range(_ATTEMPTS):
            try:
                with lance_errors(self.path):
                    self._dataset.checkout_latest()
                    return change()
            except GalleryBusyError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("every attempt returns or raises")

    @staticmethod
    def _named(entry: Entry, types: dict[str, ColumnType]) -> Entry:
        return replace(entry, metadata=with_known_names(entry.metadata, tuple(types)))

    def _add_columns(self, entries: Sequence[Entry]) -> None:
        """Add the columns that entries need and the newest version has not; another writer may do so meanwhile."""
        for attempt in range(_ATTEMPTS):
            with lance_errors(self.path, "read"):
                self._dataset.checkout_latest()
            new = new_columns(entries, self._dataset.schema)
            if not new:
                return
            try:
                with lance_errors(self.path):
                    self._dataset.add_columns(new_fields(new))
            except GalleryError:
                if attempt == _ATTEMPTS - 1:
                    raise

    def _changes(self, unchanged: Sequence[Entry]) -> list[Entry]:
        """Of entries that there are, those whose stamp or metadata is recorded otherwise, with all their metadata."""
        known = self._recorded([entry.path for entry in unchanged], only_reachable=True)
        types = column_types(self._dataset.schema)
        changes = []
        for entry in unchanged:
            before, metadata = known.get(str(entry.path)), with_known_names(entry.metadata, tuple(types))
            held = {} if before is None else before.metadata
            same = all(held.get(name) == _as_stored(name, value, types) for name, value in metadata.items())
            if before is None or before.stamp != entry.stamp or not same:
                found = before or self.find(entry.path)
                if found is not None:
                    changes.append(replace(entry, metadata={**found.metadata, **metadata}))
        return changes

    def _recorded(self, paths: Sequence[Path], *, only_reachable: bool = False) -> dict[str, Entry]:
        """What is recorded about some pictures, by path."""
        found: dict[str, Entry] = {}
        reachable = " AND tbps_unreachable IS NULL" if only_reachable else ""
        with lance_errors(self.path, "read"):
            for some in _some(map(str, paths)):
                types = column_types(self._dataset.schema)
                columns = [KEY, *STAMP, "tbps_embedded_s", *map(field_name, types)]
                condition = f"`{KEY}` IN ({', '.join(map(text_literal, some))}){reachable}"
                for row in self._dataset.to_table(columns=columns, filter=condition).to_pylist():
                    metadata = dict.fromkeys(types) | metadata_of(row, types)
                    found[row[KEY]] = Entry(Path(row[KEY]), stamp_of(row), metadata)
        return found

    def _mark_unreachable(self, problems: Sequence[Reject]) -> None:
        import pyarrow as pa

        field = self._dataset.schema.field(KEY)
        table = pa.table(
            {KEY: [str(each.path) for each in problems], "tbps_unreachable": [each.reason for each in problems]},
            schema=pa.schema([field, pa.field("tbps_unreachable", pa.string())]),
        )

        def mark() -> None:
            change = self._dataset.merge_insert(KEY).when_matched_update_all()
            change.conflict_retries(_RETRIES).execute(table)

        self._on_newest(mark)

    def _delete_paths(self, paths: Sequence[Path]) -> int:
        gone = 0
        for some in _some(map(str, paths)):
            gone += self._on_newest(partial(self._delete, f"`{KEY}` IN ({', '.join(map(text_literal, some))})"))
        self._known = None
        return gone

    def _delete(self, condition: str) -> int:
        if not self._dataset.count_rows(condition):
            return 0
        return int(self._dataset.delete(condition, conflict_retries=_RETRIES)["num_deleted_rows"])


class _Stamped(Recorded):
    """A picture by its stamp alone: `LanceWriter.commit` compares the rest, for many pictures at once."""

    def differs(self, stamp: FileStamp, metadata: Mapping[str, Value]) -> bool:  # noqa: ARG002 - the base's
        """True: that is told when it is committed."""
        return True


def _some(names: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(names)
    while some := list(islice(iterator, _PATHS_AT_ONCE)):
        yield some


def _new_facts(model: ModelFacts, dtype: DtypeName, bundle_path: Path | None, crops: bool) -> DatasetFacts:
    if dtype == "int8":
        raise GalleryError(
            "A dataset stores float16 or float32, and int8 was asked for.", "Embed into float16, or keep the folder."
        )
    facts = GalleryFacts(
        model=model,
        dtype_name=dtype,
        bundle_path=None if bundle_path is None else bundle_path.absolute(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        made_by=f"tbps-infer {tbps_infer.__version__}",
    )
    return DatasetFacts(facts, crops)


def _as_stored(name: str, value: Any, types: dict[str, ColumnType]) -> Any:
    """A value as it comes back: text where the column is text."""
    return str(value) if value is not None and types.get(name) == "text" else value
