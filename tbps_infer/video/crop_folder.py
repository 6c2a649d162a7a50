"""The folder that `tbps crop` writes: crops, their list, and how far each source is done.

    CROPS/
      crops.csv        a row for each crop; a list as `tbps embed` reads it
      progress.json    the options, the bytes of the list that count, and where each source goes on
      NAME/            the crops of a source: TRACK_FRAME.jpg
      writer.lock      held by the one writer

The crops of a segment are written and synced first, then the list as a whole, then the progress. After a kill, the
next writer cuts the list off at the bytes that count and makes the segment's crops again, under the same names.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tbps_infer.atomic import leftover_of, new_file, remove_leftovers, write_text
from tbps_infer.errors import VideoError
from tbps_infer.formats.json_files import JsonObject, read_json
from tbps_infer.video.frames import BEGINNING, Gap, Position

__all__ = ["COLUMNS", "LIST_FILE", "CropFolder", "SourceProgress", "open_crops"]

COLUMNS = ("path", "id", "camera", "time", "video", "frame", "offset", "box", "score", "track_seconds")
"""The list's columns; the last six are metadata: file, frame from 0, seconds, ``left top width height``, score."""

LIST_FILE = "crops.csv"
_PROGRESS_FILE = "progress.json"
_LOCK_FILE = "writer.lock"
_SCHEMA = 1


@dataclass(frozen=True)
class SourceProgress:
    """How far a source is done.

    Attributes:
        place: The source.
        stamp: What tells that it is still the same.
        next: Where it goes on.
        next_track: The number of its next track.
        done: Whether it has been read to its end.
        gaps: Where frames are missing, and why.
    """

    place: str
    stamp: str
    next: Position = BEGINNING
    next_track: int = 1
    done: bool = False
    gaps: tuple[Gap, ...] = ()


@dataclass
class CropFolder:
    """A folder of crops that is being written; made by `open_crops`.

    Attributes:
        path: The folder.
        options: What its crops were made with.
        list_bytes: The bytes of the list that count.
        sources: The progress of each source by name.
    """

    path: Path
    options: Mapping[str, Any]
    list_bytes: int = 0
    sources: dict[str, SourceProgress] = field(default_factory=dict)

    def progress(self, name: str, place: str, stamp: str) -> SourceProgress:
        """Where a source goes on.

        Raises:
            VideoError: Another source has this name here, or it has changed since it was read.
        """
        known = self.sources.get(name)
        if known is None:
            return SourceProgress(place, stamp)
        if known.place != place:
            raise VideoError(
                f"{self.path} has crops of {known.place} under the name {name}, which {place} would get, too.",
                "Give it another folder (-o), or rename the video.",
            )
        if known.stamp != stamp:
            raise VideoError(
                f"{place}, its camera or start, or what tells its people, has changed since its crops in {self.path} "
                "were made.",
                "Make them in another folder (-o).",
            )
        return known

    def commit(self, name: str, progress: SourceProgress, rows: Sequence[Sequence[str]]) -> None:
        """Add the rows of a segment whose crops are on the disk, and say where its source goes on.

        Raises:
            VideoError: The folder cannot be written.
        """
        if rows:
            self.list_bytes = self._append(rows)
        self.sources[name] = progress
        self._write_progress()

    def _append(self, rows: Sequence[Sequence[str]]) -> int:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        place = self.path / LIST_FILE
        with new_file(place, VideoError) as temporary:
            shutil.copyfile(place, temporary)
            with temporary.open("r+b") as opened:
                opened.truncate(self.list_bytes)
                opened.seek(self.list_bytes)
                opened.write(text.getvalue().encode())
                return opened.tell()

    def _write_progress(self) -> None:
        sources = {name: asdict(progress) for name, progress in self.sources.items()}
        values = {"schema": _SCHEMA, "options": self.options, "list_bytes": self.list_bytes, "sources": sources}
        write_text(self.path / _PROGRESS_FILE, json.dumps(values, indent=1, allow_nan=False) + "\n", VideoError)


@contextmanager
def open_crops(path: Path, options: Mapping[str, Any]) -> Iterator[CropFolder]:
    """Create a folder of crops, or continue one; nobody else can write to it until the block ends.

    Args:
        path: The folder.
        options: What decides which crops are made.

    Raises:
        VideoError: Another process is writing to it, its crops were made with other options, it is damaged, it is
            somebody else's, or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with (path / _LOCK_FILE).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise VideoError(
                    f"Another process is writing crops to {path}.", "Wait for it, or choose another folder (-o)."
                ) from None
            folder = _continued(path, options) if (path / _PROGRESS_FILE).exists() else _created(path, options)
            remove_leftovers(path)  # not before: the folder may be somebody else's
            yield folder
    except OSError as error:
        if error.filename is None or not str(error.filename).startswith(str(path)):
            raise
        raise VideoError(
            f"{error.filename} cannot be written: {error.strerror}.", "Choose another folder."
        ) from error


def _created(path: Path, options: Mapping[str, Any]) -> CropFolder:
    header = ",".join(COLUMNS) + "\n"
    place = path / LIST_FILE
    if not place.exists() or place.read_text(errors="replace") != header:  # else a kill came before the progress
        others = [entry.name for entry in path.iterdir() if entry.name != _LOCK_FILE and not leftover_of(entry.name)]
        if others:
            raise VideoError(
                f"{path} is no folder of crops, and holds {others[0]}.", "Choose an empty or new folder."
            )
    write_text(place, header, VideoError)
    folder = CropFolder(path, options, len(header))
    folder._write_progress()
    return folder


def _continued(path: Path, options: Mapping[str, Any]) -> CropFolder:
    file = path / _PROGRESS_FILE
    try:
        values = read_json(file)
        if values.integer("schema") != _SCHEMA:
            raise ValueError(f"its schema is {values['schema']}, and this version reads {_SCHEMA}")
        made_with = values.mapping("options")
        sources = {name: _progress(values.object("sources").object(name)) for name in values.object("sources")}
        folder = CropFolder(path, options, values.integer("list_bytes"), sources)
        present = (path / LIST_FILE).stat().st_size
        if present < folder.list_bytes:
            raise ValueError(f"{LIST_FILE} has {present} bytes, and {folder.list_bytes} were written")
    except (OSError, ValueError) as error:
        raise VideoError(f"{file} cannot be continued: {error}.", "Make the crops in another folder (-o).") from error
    for name in sorted({*made_with, *options}):
        if made_with.get(name) != options.get(name):
            raise VideoError(
                f"The crops in {path} were made with {name} = {made_with.get(name)}, and now it is "
                f"{options.get(name)}.",
                "Choose another folder (-o), or the same options.",
            )
    return folder


def _progress(values: JsonObject) -> SourceProgress:
    position = values.object("next")
    return SourceProgress(
        place=values.text("place"),
        stamp=values.text("stamp"),
        next=Position(position.integer("number"), int(position.number("ticks"))),
        next_track=values.integer("next_track"),
        done=values.boolean("done"),
        gaps=tuple(Gap(gap.number("offset"), gap.text("reason")) for gap in values.objects("gaps")),
    )
