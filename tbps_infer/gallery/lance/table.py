"""The table of a dataset: its schema, the facts in its metadata, and rows as records.

::

    path               the picture, absolute: the key, of which there is one row
    tbps_vector        its embedding, float16 or float32
    tbps_size …        the file's size, mtime and sha256, when it was embedded, why it could not be read when it was
                       last looked at, and the time as in `tbps_infer.gallery.records`
    tbps_crop          the crop as JPEG, in datasets that keep crops
    id, camera, time   text, and any other metadata column: text, or numbers as float64

A record's number is Lance's stable row id, counted from 1: it stays when the row is replaced or moved. The facts are
what ``gallery.json`` holds in a folder.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import GalleryError
from tbps_infer.formats.json_files import JsonObject, parse_json
from tbps_infer.gallery.columns import STANDARD_COLUMNS, ColumnType, Value, column_problem, find_column, value_type
from tbps_infer.gallery.folder import GalleryFacts
from tbps_infer.gallery.reader import Record
from tbps_infer.gallery.records import Entry, FileStamp
from tbps_infer.gallery.storable import other_type, refuse_unstorable
from tbps_infer.gallery.times import read_moment

__all__ = [
    "CROP",
    "KEY",
    "VECTOR",
    "DatasetFacts",
    "column_types",
    "details_columns",
    "field_name",
    "metadata_of",
    "new_columns",
    "new_fields",
    "new_schema",
    "records_of",
    "rows_of",
    "stamp_of",
    "vectors_of",
    "with_columns",
    "with_known_names",
]

KEY = "path"
VECTOR = "tbps_vector"
CROP = "tbps_crop"
STAMP = ("tbps_size", "tbps_mtime_ns", "tbps_sha256")

_FACTS = b"tbps"
_KEY_MARK = {"lance-schema:unenforced-primary-key": "true"}
_INTERNAL = "tbps_"
_LARGEST_EXACT = 2**53
# Lance takes a dot for a step into a structure, and has columns of its own that begin with an underscore.
_ESCAPED = re.compile(r"[^\w ]|^_")
_ESCAPE = re.compile(r"%([0-9a-f]{6})")


@dataclass(frozen=True)
class DatasetFacts:
    """What a dataset says of itself.

    Attributes:
        gallery: As ``gallery.json`` does.
        crops: Whether it keeps crops.
    """

    gallery: GalleryFacts
    crops: bool

    @classmethod
    def of_schema(cls, schema: Any, uri: str) -> DatasetFacts:
        """Read them; raises GalleryError where the table is not a gallery's."""
        text = (schema.metadata or {}).get(_FACTS)
        if text is None or VECTOR not in schema.names or KEY not in schema.names:
            raise GalleryError(
                f"{uri} is a Lance dataset and not a gallery.", "Make one with tbps gallery push, or name another."
            )
        try:
            values = JsonObject(parse_json(text))
        except ValueError as error:
            raise GalleryError(f"The facts of {uri} are not valid: {error}.", "Restore it from a copy.") from error
        return cls(GalleryFacts.of_json(values, uri), CROP in schema.names)


def new_schema(facts: DatasetFacts) -> Any:
    """The Arrow schema of a new dataset."""
    import pyarrow as pa

    number = pa.float16() if facts.gallery.dtype_name == "float16" else pa.float32()
    fields = [
        pa.field(KEY, pa.string(), nullable=False, metadata=_KEY_MARK),
        pa.field(VECTOR, pa.list_(number, facts.gallery.model.layout.dim), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in STAMP[:2]),
        pa.field(STAMP[2], pa.string(), nullable=False),
        pa.field("tbps_embedded_s", pa.float64(), nullable=False),
        pa.field("tbps_unreachable", pa.string()),
        *(pa.field(name, pa.float64()) for name in ("tbps_time_s", "tbps_clock_s")),
        *([pa.field(CROP, pa.binary())] if facts.crops else []),
        *(pa.field(name, pa.string()) for name in STANDARD_COLUMNS),
    ]
    return pa.schema(fields, metadata={_FACTS: json.dumps(facts.gallery.to_json())})


def new_fields(columns: Mapping[str, ColumnType]) -> list[Any]:
    """The Arrow fields of some metadata columns."""
    import pyarrow as pa

    kinds = {"text": pa.string(), "numbers": pa.float64()}
    return [pa.field(field_name(name), kinds[kind]) for name, kind in columns.items()]


def with_columns(schema: Any, columns: Mapping[str, ColumnType]) -> Any:
    """A schema with those of some metadata columns that it has not."""
    known = column_types(schema)
    new = {name: kind for name, kind in columns.items() if find_column(name, known) is None}
    for field in new_fields(new):
        schema = schema.append(field)
    return schema


def field_name(column: str) -> str:
    """The name that a metadata column has in the table."""
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):06x}", column)


def _column_name(field: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), field)


def column_types(schema: Any) -> dict[str, ColumnType]:
    """The metadata columns and what they hold, in the order in which they came."""
    return {
        _column_name(field.name): "text" if str(field.type) in ("string", "large_string") else "numbers"
        for field in schema
        if field.name != KEY and not field.name.startswith((_INTERNAL, "_"))  # a result has columns of Lance's own
    }


def details_columns(schema: Any, *, crops: bool = False) -> list[str]:
    """Names of the table's columns that a record is made of."""
    left_out = {VECTOR, "tbps_unreachable", "tbps_time_s", "tbps_clock_s", *([] if crops else [CROP])}
    return [name for name in schema.names if name not in left_out]


def records_of(table: Any) -> dict[int, Record]:
    """The records of some rows, by number; of a table with `details_columns` and row ids."""
    types = column_types(table.schema)
    found = {}
    for row in table.to_pylist():
        number = row["_rowid"] + 1
        metadata = metadata_of(row, types)
        stamp = stamp_of(row)
        found[number] = Record(
            number, Path(row[KEY]), row["_rowid"], stamp, metadata, row["tbps_embedded_s"], row.get(CROP)
        )
    return found


def stamp_of(row: Mapping[str, Any]) -> FileStamp:
    """The stamp of a row's file."""
    return FileStamp(*(row[name] for name in STAMP))


def metadata_of(row: Mapping[str, Any], columns: Mapping[str, ColumnType]) -> dict[str, Value]:
    """The metadata of a row; a whole number comes back as one, as from SQLite."""
    found: dict[str, Value] = {}
    for column in columns:
        value = row[field_name(column)]
        if value is not None:
            found[column] = int(value) if isinstance(value, float) and value.is_integer() else value
    return found


def vectors_of(batch: Any) -> NDArray[Any]:
    """The vectors of a batch of rows as they are stored, float16 or float32 ``[n, dim]``, without a copy."""
    column = batch.column(VECTOR)
    if hasattr(column, "combine_chunks"):  # of a table
        column = column.combine_chunks()
    flat: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(column), column.type.list_size)


def rows_of(entries: Sequence[Entry], vectors: NDArray[Any] | None, schema: Any, now_s: float) -> Any:
    """Some entries as rows of the table; without vectors all but these, when they were embedded, and the crop.

    Args:
        entries: With all the metadata that they are to have.
        vectors: ``[len(entries), dim]``, of the dataset's type.
        schema: The dataset's.
        now_s: Unix time, for entries that do not say when they were embedded.
    """
    import pyarrow as pa

    types = column_types(schema)
    _refuse_other_types(entries, types)
    moments = [read_moment(entry.metadata.get("time")) for entry in entries]
    columns: dict[str, Any] = {
        KEY: [str(entry.path) for entry in entries],
        "tbps_size": [entry.stamp.size for entry in entries],
        "tbps_mtime_ns": [entry.stamp.mtime_ns for entry in entries],
        "tbps_sha256": [entry.stamp.sha256 for entry in entries],
        "tbps_unreachable": [None] * len(entries),
        "tbps_time_s": [None if each is None else each.seconds for each in moments],
        "tbps_clock_s": [None if each is None else each.clock_seconds for each in moments],
        **{
            field_name(column): [_stored(entry.metadata.get(column), kind) for entry in entries]
            for column, kind in types.items()
        },
    }
    if vectors is not None:
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns[VECTOR] = pa.FixedSizeListArray.from_arrays(flat, schema.field(VECTOR).type.list_size)
        columns["tbps_embedded_s"] = [now_s if e.embedded_s is None else e.embedded_s for e in entries]
        if CROP in schema.names:
            columns[CROP] = [entry.crop for entry in entries]
    fields = [field for field in schema if field.name in columns]
    return pa.table(
        [pa.array(columns[f.name], f.type) if isinstance(columns[f.name], list) else columns[f.name] for f in fields],
        schema=pa.schema(fields),
    )


def _stored(value: Value, kind: ColumnType) -> str | float | None:
    if value is None or kind == "text":
        return None if value is None else str(value)
    return None if math.isnan(float(value)) else float(value)


def new_columns(entries: Sequence[Entry], schema: Any) -> dict[str, ColumnType]:
    """The columns that some entries have and the table has not, and what they hold; text where there is no value."""
    known, new = column_types(schema), dict[str, ColumnType]()
    for entry in entries:
        for name, value in entry.metadata.items():
            if find_column(name, known) is None:
                if problem := column_problem(name):
                    raise GalleryError(f"The metadata column {name!r} {problem}.", "Give it another name.")
                if value is not None:
                    new.setdefault(find_column(name, new) or name, value_type(value) or "text")
    return new


def with_known_names(metadata: Mapping[str, Value], columns: Sequence[str]) -> dict[str, Value]:
    """Metadata under the names that the columns have, which are compared without regard to case."""
    return {find_column(name, columns) or name: value for name, value in metadata.items()}


def _refuse_other_types(entries: Sequence[Entry], types: Mapping[str, ColumnType]) -> None:
    refuse_unstorable(entries)
    for entry in entries:
        for name, value in entry.metadata.items():
            kind, held = value_type(value), types.get(name)
            if kind is None or held is None or name in STANDARD_COLUMNS:
                continue
            if kind != held:
                raise other_type(entry, name, held)
            if isinstance(value, int) and abs(value) > _LARGEST_EXACT:
                raise GalleryError(
                    f"{name} is {value} for {entry.path}, and a dataset keeps whole numbers up to {_LARGEST_EXACT}.",
                    f"Keep it as text: --text {name}.",
                )
