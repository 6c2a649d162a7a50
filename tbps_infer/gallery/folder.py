"""A gallery's folder: the names of its files, ``gallery.json``, and the lock of its one writer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tbps_infer.atomic import leftover_of, write_text
from tbps_infer.errors import BundleError, GalleryBusyError, GalleryError, ModelMismatchError
from tbps_infer.formats.json_files import JsonObject, read_json
from tbps_infer.model_facts import ModelFacts

__all__ = [
    "GALLERY_JSON",
    "INDEX_FILES",
    "LOCK_FILE",
    "RECORDS_FILE",
    "SCHEMA_VERSION",
    "DtypeName",
    "GalleryFacts",
    "belongs_to_other_generation",
    "current_records_file",
    "index_files",
    "is_gallery",
    "is_leftover",
    "is_vectors_file",
    "missing_vectors",
    "next_records_file",
    "require_length",
    "require_own_files",
    "writer_lock",
]

SCHEMA_VERSION = 2
READABLE_SCHEMAS = (1, SCHEMA_VERSION)
"""The previous one is read as it is, and converted by the first writer (`tbps_infer.gallery.conversion`)."""
GALLERY_JSON = "gallery.json"
RECORDS_FILE = "records.sqlite"
"""The first name of the records; ``gallery.json`` tells the one that a purge gave them since."""
LOCK_FILE = "writer.lock"
INDEX_FILES = {"sketch": "sketch-{}.idx", "graph": "graph-{}.usearch"}
"""An index belongs to one generation of the vector file, and says how many of its first rows it covers."""

DtypeName = Literal["float16", "float32", "int8"]
_TYPES: dict[DtypeName, tuple[str, np.dtype[Any]]] = {
    "float16": ("f16", np.dtype("<f2")),
    "float32": ("f32", np.dtype("<f4")),
    "int8": ("i8", np.dtype("i1")),
}
_SCALE_BYTES = 4
_RECORDS = re.compile(r"records(?:-([1-9][0-9]*))?\.sqlite")
_VECTORS = re.compile(rf"vectors(-[0-9]+)?\.({'|'.join(suffix for suffix, _ in _TYPES.values())})")


@dataclass(frozen=True)
class GalleryFacts:
    """What ``gallery.json`` says.

    Attributes:
        model: The model whose embeddings it holds.
        dtype_name: How a number is stored.
        bundle_path: The bundle or checkpoint it was last embedded with, absolute; None when not known.
        created: When, ISO 8601 UTC.
        made_by: The package and its version.
        records_file: The name of the records in the folder; every purge writes a new file.
        schema: The version that wrote ``gallery.json``; what is written is of this version.
    """

    model: ModelFacts
    dtype_name: DtypeName
    bundle_path: Path | None
    created: str
    made_by: str
    records_file: str = RECORDS_FILE
    schema: int = SCHEMA_VERSION

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stored number, little-endian."""
        return _TYPES[self.dtype_name][1]

    def vectors_file(self, generation: int) -> str:
        """The name of the vector file in the folder; every compaction writes a new generation."""
        suffix = _TYPES[self.dtype_name][0]
        return f"vectors.{suffix}" if generation == 0 else f"vectors-{generation}.{suffix}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored vector; one of int8 is followed by its scale, a float32."""
        scale = _SCALE_BYTES if self.dtype_name == "int8" else 0
        return int(self.model.layout.dim * self.dtype.itemsize) + scale

    def require_model(self, model: ModelFacts, gallery: Path | str) -> None:
        """Raise ModelMismatchError unless the gallery was embedded by this very model."""
        changed = self.model.differences(model)
        if not changed:
            return
        if model.fingerprint == self.model.fingerprint:
            raise ModelMismatchError(
                f"The gallery {gallery} and the model name the same fingerprint, and differ in {', '.join(changed)}: "
                "the facts of one of the two were changed.",
                "Restore the gallery's or the bundle's facts from a copy.",
            )
        made_with = f" ({self.bundle_path})" if self.bundle_path else ""
        raise ModelMismatchError(
            f"The gallery {gallery} was embedded by the model {self.model.fingerprint[:12]}{made_with}, and this is "
            f"the model {model.fingerprint[:12]}: their embeddings cannot be compared.",
            "Use the model that the gallery was embedded with, or embed the pictures into a new gallery.",
        )

    def require_bundle(self, gallery: Path | str) -> Path:
        """The bundle or checkpoint; raises GalleryError where it is not there."""
        if self.bundle_path is None or not self.bundle_path.exists():
            where = f"at {self.bundle_path}, where it was" if self.bundle_path else "recorded"
            raise GalleryError(f"The bundle of {gallery} is not {where}.", "Name it: --bundle BUNDLE.")
        return self.bundle_path

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return {
            "schema": SCHEMA_VERSION,
            "model": self.model.to_json(),
            "dtype": self.dtype_name,
            "bundle": None if self.bundle_path is None else str(self.bundle_path),
            "created": self.created,
            "made_by": self.made_by,
            "records": self.records_file,
        }

    def write(self, folder: Path) -> None:
        """Write ``gallery.json`` whole or not at all."""
        write_text(folder / GALLERY_JSON, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> GalleryFacts:
        """Read a folder's ``gallery.json``; raises GalleryError when it is not there or not valid."""
        file = folder / GALLERY_JSON
        try:
            values = read_json(file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise GalleryError(
                f"{folder} is not a gallery: it has no {GALLERY_JSON}.",
                "Make one with tbps embed BUNDLE SOURCE... -o GALLERY, or tbps gallery pull URI GALLERY.",
            ) from error
        except (OSError, ValueError) as error:
            raise GalleryError(f"{file} cannot be read: {error}.", _RESTORE) from error
        return cls.of_json(values, file)

    @classmethod
    def of_json(cls, values: JsonObject, source: Path | str) -> GalleryFacts:
        """Read what `to_json` wrote; raises GalleryError, which names the source, when it is not valid."""
        schema = values.get("schema")
        if schema not in READABLE_SCHEMAS:
            raise GalleryError(
                f"{source} is of gallery schema {schema!r}; this version reads {SCHEMA_VERSION}.",
                "Use the version of tbps-infer that wrote it, or embed the pictures into a new gallery.",
            )
        try:
            return cls._of_json(values)
        except ValueError as error:
            raise GalleryError(f"{source} is not valid: {error}.", _RESTORE) from error
        except BundleError as error:
            raise GalleryError(f"{source} is not valid: {error.message}", _RESTORE) from error

    @classmethod
    def _of_json(cls, values: JsonObject) -> GalleryFacts:
        dtype = values.text("dtype")
        if dtype not in _TYPES:
            raise ValueError(f"dtype is {dtype!r}, want one of {', '.join(_TYPES)}")
        records = values.text("records") if "records" in values else RECORDS_FILE
        if not _RECORDS.fullmatch(records):
            raise ValueError(f"records is {records!r}, want a name such as {RECORDS_FILE}")
        return cls(
            model=ModelFacts.from_json(values.object("model")),
            dtype_name=dtype,
            bundle_path=None if values["bundle"] is None else Path(values.text("bundle")),
            created=values.text("created"),
            made_by=values.text("made_by"),
            records_file=records,
            schema=values.integer("schema"),
        )


_RESTORE = "Restore the file from a copy, or embed the pictures into a new gallery."


def is_gallery(path: Path | str) -> bool:
    """Whether a path is a gallery's folder, judged by its ``gallery.json`` being there."""
    return (Path(path) / GALLERY_JSON).is_file()


def is_leftover(name: str) -> bool:
    """Whether a file can come from a writer that was stopped before it had written ``gallery.json``."""
    is_ours = name == LOCK_FILE or _records_of(name) is not None or is_vectors_file(name)
    return is_ours or leftover_of(name) == GALLERY_JSON


def current_records_file(folder: Path) -> str:
    """The name of the records in a folder; the first one where there is no ``gallery.json`` yet."""
    return GalleryFacts.read(folder).records_file if is_gallery(folder) else RECORDS_FILE


def next_records_file(name: str) -> str:
    """The name that a purge gives to the records that it writes."""
    found = _RECORDS.fullmatch(name)
    assert found is not None  # GalleryFacts.read has seen to it
    return f"records-{int(found[1] or 0) + 1}.sqlite"


def _records_of(name: str) -> str | None:
    """The records that a file is, or is SQLite's log, shared memory or journal of; None for other files."""
    base = re.sub(r"-(wal|shm|journal)$", "", name)
    return base if _RECORDS.fullmatch(base) else None


def is_vectors_file(name: str) -> bool:
    """Whether a file has the name of a vector file, of whatever generation and type."""
    return _VECTORS.fullmatch(name) is not None


def belongs_to_other_generation(name: str, facts: GalleryFacts, generation: int) -> bool:
    """Whether a file is a vector file, an index or records of another generation, or was never finished."""
    if _records_of(name) == facts.records_file:
        return False
    if name in (facts.vectors_file(generation), *(index.format(generation) for index in INDEX_FILES.values())):
        return False
    wanted = leftover_of(name) or name
    index = re.fullmatch(r"sketch-\d+\.idx|graph-\d+\.usearch", wanted)
    ours = is_vectors_file(wanted) or index is not None or _records_of(wanted) is not None
    return ours or leftover_of(name) == GALLERY_JSON


def index_files(folder: Path, generation: int) -> dict[str, Path]:
    """The indexes that a generation has, ``sketch`` and ``graph``."""
    files = {index: folder / name.format(generation) for index, name in INDEX_FILES.items()}
    return {index: file for index, file in files.items() if file.exists()}


def require_own_files(folder: Path, *names: str) -> None:
    """Raise GalleryError when one of a gallery's files has a second name: writing would change that one, too."""
    for name in names:
        status = (folder / name).stat() if (folder / name).exists() else None
        if status is not None and status.st_nlink > 1:
            raise GalleryError(
                f"{folder / name} is a hard link to a file that {status.st_nlink - 1} other name has: writing here "
                "would damage the gallery there.",
                "Copy a gallery with tbps gallery copy, not with cp -l; then remove this folder.",
            )


def require_length(file: Path, length: int, wanted: int) -> None:
    """Raise GalleryError when a vector file has fewer bytes than its records name."""
    if length < wanted:
        raise GalleryError(f"{file} has {length} bytes, and its records name {wanted}: it was cut short.", _RESTORE)


def missing_vectors(file: Path) -> GalleryError:
    """What to raise when a gallery's vector file is not there."""
    return GalleryError(f"{file} is not there.", "Copy the whole folder, or embed the pictures into a new gallery.")


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's writer lock; the system gives it back when the process ends, however it ends.

    Raises:
        GalleryBusyError: Another process, or another writer of this one, holds it.
    """
    import fcntl  # POSIX only, as writing a gallery is; searching one is not

    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise GalleryBusyError(
                f"Another process (pid {holder}) is writing to the gallery {folder}.",
                "Wait until it is done, or stop it; what it has committed is kept. Searching is possible meanwhile.",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
