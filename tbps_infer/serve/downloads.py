"""Chosen hits as files: a CSV, or a zip with the pictures, the CSV and a sheet to print."""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tbps_infer.gallery import Hit
from tbps_infer.layout import VectorLayout
from tbps_infer.render.hits_csv import HitsCsv
from tbps_infer.serve.failures import RefusedError

__all__ = ["ZipContents", "hits_csv", "hits_zip"]

_MEMORY = 32 << 20
_MISSING = "These records were chosen and have been removed from the gallery since:\n"


@dataclass(frozen=True)
class _Label:
    """A query as `tbps_infer.render.html` shows it."""

    label: str
    person: str | None = None
    image: Path | None = None
    warnings: tuple[str, ...] = ()


def hits_csv(
    hits: Sequence[Hit], layout: VectorLayout, columns: Sequence[str], first: Mapping[str, Sequence[str]]
) -> str:
    """A table of hits, as `tbps_infer.render.hits_csv.HitsCsv` writes it.

    Args:
        hits: Best first.
        layout: The model's.
        columns: The galleries' metadata columns.
        first: What further columns at the beginning hold for each hit, by name.
    """
    out = io.StringIO()
    table = HitsCsv(out, layout, columns, tuple(first))
    for place, hit in enumerate(hits):
        table.add(place + 1, hit, tuple(values[place] for values in first.values()))
    return out.getvalue()


@dataclass(frozen=True)
class ZipContents:
    """What goes into a zip.

    Attributes:
        hits: Best first.
        hashes: sha256 of each hit's file.
        galleries: The gallery of each hit, where there are several; else empty.
        missing: Chosen records that are not there any more.
        label: The query, as the sheet names it.
    """

    hits: Sequence[Hit]
    hashes: Sequence[str]
    galleries: Sequence[str]
    missing: Sequence[str]
    label: str

    @property
    def first_columns(self) -> dict[str, Sequence[str]]:
        """What the table begins with."""
        return {"gallery": self.galleries} if self.galleries else {}


def hits_zip(contents: ZipContents, layout: VectorLayout, columns: Sequence[str], most: int) -> IO[bytes]:
    """A zip of ``hits.csv``, ``sheet.html`` and ``pictures/``; the caller closes it.

    A picture is put in as its file is, if that is still the file that was embedded; else its crop is, where the
    gallery keeps crops; else the CSV says why not. Records that are not there any more are listed in
    ``MISSING.txt``.

    Args:
        contents: The hits and what belongs to them.
        layout: The model's.
        columns: The gallery's metadata columns.
        most: The largest sum of the files, in bytes.

    Raises:
        RefusedError: 413, when the pictures are larger together.
    """
    out = tempfile.SpooledTemporaryFile(max_size=_MEMORY)  # noqa: SIM115 - the caller streams it
    try:
        _write_zip(out, contents, layout, columns, most)
    except BaseException:
        out.close()
        raise
    out.seek(0)
    return out


def _write_zip(
    out: IO[bytes], contents: ZipContents, layout: VectorLayout, columns: Sequence[str], most: int
) -> None:
    from tbps_infer.render.html import write_page

    states: list[str] = []
    total = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for rank, (hit, sha256) in enumerate(zip(contents.hits, contents.hashes, strict=True), start=1):
            name = _plain_name(hit.path)
            data = _read_unchanged(hit.path, sha256, most - total)
            if data is None and hit.crop is not None:
                data, name = hit.crop, f"{name}.crop.jpg"
            if data is None:
                states.append("changed or gone since it was embedded")
                continue
            total += len(data)
            if total > most:
                raise RefusedError(413, "The chosen pictures are too large for one zip.", "Choose fewer.")
            states.append(f"pictures/{rank:03d}-{hit.record}-{name}")
            archive.writestr(states[-1], data, zipfile.ZIP_STORED)
        first = {"picture": states, **contents.first_columns}
        archive.writestr("hits.csv", hits_csv(contents.hits, layout, columns, first))
        if contents.missing:
            archive.writestr("MISSING.txt", _MISSING + "".join(f"{record}\n" for record in contents.missing))
        with tempfile.TemporaryDirectory() as folder:
            sheet = Path(folder) / "sheet.html"
            write_page(sheet, [(_Label(contents.label), contents.hits)], layout)
            archive.write(sheet, "sheet.html")


def _read_unchanged(path: Path, sha256: str, most: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError:
        return None
    if len(data) > most:
        raise RefusedError(413, "The chosen pictures are too large for one zip.", "Choose fewer.")
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _plain_name(path: Path) -> str:
    """A file's name that no program that unpacks the zip can misread."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", path.name).lstrip(".") or "picture"
