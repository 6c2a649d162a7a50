"""Readers of the field's data sets, and of your own captions: annotation files to `Split`.

| data set | annotation file | picture key | splits |
|---|---|---|---|
| CUHK-PEDES | ``reid_raw.json`` | ``file_path`` | train, val, test |
| CUHK-PEDES, divided | ``train_reid.json``, ``test_reid.json`` | ``file_path`` | by file |
| CUHK-PEDES test, TextReID | ``cuhk_test.json`` | ``image`` | test |
| ICFG-PEDES | ``ICFG-PEDES.json``, ``ICFG_PEDES.json`` | ``file_path`` | train, test |
| RSTPReid | ``data_captions.json`` | ``img_path`` | train, val, test |
| your own | `tbps_infer.lists`: ``path``, ``caption``, also ``id``, ``split``, ``camera`` | ``path`` | as named |

Pictures are looked for below the annotation file's folder, in ``imgs/`` first. Two entries of one path are one
picture with the captions of both; a picture may have any number of captions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tbps_infer.data.dataset import Picture, Split
from tbps_infer.errors import DatasetError
from tbps_infer.formats.json_files import parse_json
from tbps_infer.lists import ListReader, list_format

__all__ = ["FORMATS", "Format", "find_annotations", "read_dataset"]

_RSTP_CAMERA = re.compile(r"^\d+_(c\d+)_\d+$")


@dataclass(frozen=True)
class Format:
    """One annotation format.

    Attributes:
        dataset: The data set's name.
        files: Names of its annotation file; where a split has a file of its own, by split.
        picture: The key of the picture's path.
        identity: The key of the identity.
        captions: The key of the list of captions.
        splits: The splits it has.
        split: The key of an entry's split; None where the file is the split.
        camera: From a picture's path, relative to the pictures' folder, to its camera.
    """

    dataset: str
    files: Mapping[str, tuple[str, ...]]
    picture: str = "file_path"
    identity: str = "id"
    captions: str = "captions"
    splits: tuple[str, ...] = ("train", "val", "test")
    split: str | None = "split"
    camera: Callable[[Path], str | None] = lambda path: path.parts[0] if len(path.parts) > 1 else None


def _rstp_camera(path: Path) -> str | None:
    match = _RSTP_CAMERA.match(path.stem)
    return match.group(1) if match else None


_ANY = "*"

FORMATS: Mapping[str, Format] = {
    "CUHK-PEDES": Format("CUHK-PEDES", {_ANY: ("reid_raw.json",)}),
    # The folders named train and test in its paths are MSMT17's, and say nothing about the split.
    "ICFG-PEDES": Format(
        "ICFG-PEDES",
        {_ANY: ("ICFG-PEDES.json", "ICFG_PEDES.json")},
        splits=("train", "test"),
        camera=lambda _path: None,
    ),
    "RSTPReid": Format("RSTPReid", {_ANY: ("data_captions.json",)}, picture="img_path", camera=_rstp_camera),
    "CUHK-PEDES-divided": Format(
        "CUHK-PEDES",
        {"train": ("train_reid.json",), "val": ("val_reid.json",), "test": ("test_reid.json",)},
        split=None,
    ),
    "CUHK-PEDES-test": Format(
        "CUHK-PEDES",
        {"test": ("cuhk_test.json",)},
        picture="image",
        identity="image_id",
        captions="caption",
        splits=("test",),
        split=None,
    ),
}
"""Annotation formats by name, in the order in which a folder is searched for them."""

_WRONG_FILES = {
    "caption_all.json": "It is the CUHK-PEDES file without splits: use reid_raw.json, which has them.",
}


def read_dataset(root: Path, split: str, *, kind: str | None = None, check_files: bool = True) -> Split:
    """Read one split.

    Args:
        root: The annotation file, the folder that holds it, or that folder's parent.
        split: ``train``, ``val`` or ``test``; for captions of your own without a split column, any name.
        kind: A key of `FORMATS`; found from the file's name when not given.
        check_files: Make sure that every picture exists.

    Raises:
        DatasetError: The annotation file or one of its fields does not follow the format, or a picture is missing;
            the sentence names the file, the entry or line, and the field.
    """
    if kind is not None and kind not in FORMATS:
        raise DatasetError(f"The data set kind {kind!r} is not known; want {', '.join(FORMATS)}.")
    file, form = find_annotations(root, split, kind)
    rows = _own_rows(file, split) if form is None else _format_rows(file, form, split)
    pictures = _merge(file, rows, check_files)
    name = form.dataset if form else file.stem
    if (file.parent / "synth.json").is_file():
        name = "synthetic pedestrians"
    if not pictures:
        raise DatasetError(f"{file} has no entry of the split {split!r}.", "Check the split's name.")
    return Split(name, split, pictures)


def find_annotations(root: Path, split: str, kind: str | None = None) -> tuple[Path, Format | None]:
    """The annotation file below a root and its format, None for captions of your own; raises DatasetError."""
    if not root.exists():
        raise DatasetError(f"{root} does not exist.", "Give a data set's folder or its annotation file.")
    if root.is_file():
        form = _format_of(root, kind)
        _check_file_of_split(root, form, split)
        return root, form
    folders = [root, *sorted(child for child in root.iterdir() if child.is_dir())]
    found = [_in_folder(folder, split, kind) for folder in folders]
    if found[0] is None and sum(entry is not None for entry in found) > 1:
        several = ", ".join(entry[0].parent.name for entry in found if entry is not None)
        raise DatasetError(f"{root} holds several data sets: {several}.", "Give the folder of one of them.")
    for entry in found:
        if entry is not None:
            _check_split(*entry, split)
            return entry
    own = sorted(f for f in root.iterdir() if list_format(f))
    if kind is None and len(own) == 1:
        return own[0], None
    for folder in folders:
        for name, advice in _WRONG_FILES.items():
            if (folder / name).is_file():
                raise DatasetError(f"{folder / name} cannot be read as a data set.", advice)
    known = sorted({name for form in FORMATS.values() for names in form.files.values() for name in names})
    raise DatasetError(
        f"{root} has no annotation file for the split {split!r}.",
        f"Want one of {', '.join(known)}, or one .jsonl or .csv of your own captions.",
    )


def _in_folder(folder: Path, split: str, kind: str | None) -> tuple[Path, Format] | None:
    for name, form in FORMATS.items():
        if kind in (None, name):
            for candidate in form.files.get(split, form.files.get(_ANY, ())):
                if (folder / candidate).is_file():
                    return folder / candidate, form
    return None


def _check_file_of_split(file: Path, form: Format | None, split: str) -> None:
    """Refuse the file of another split, where each split has a file of its own."""
    for other, names in form.files.items() if form else ():
        if file.name in names and other not in (_ANY, split):
            raise DatasetError(
                f"{file} is the split {other!r}, and {split!r} was asked for.",
                "Give the data set's folder, or that split's file.",
            )


def _format_of(file: Path, kind: str | None) -> Format | None:
    if kind is not None:
        return FORMATS[kind]
    if file.name in _WRONG_FILES:
        raise DatasetError(f"{file} cannot be read as a data set.", _WRONG_FILES[file.name])
    if list_format(file):
        return None
    for form in FORMATS.values():
        if any(file.name in names for names in form.files.values()):
            return form
    raise DatasetError(
        f"{file} is not an annotation file of a known name.", f"Say what it is with --kind: {', '.join(FORMATS)}."
    )


def _check_split(file: Path, form: Format, split: str) -> None:
    if split not in form.splits:
        raise DatasetError(
            f"{file}: {form.dataset} has no split {split!r}; it has {', '.join(form.splits)}.",
            "Training holds out identities where there is no validation split.",
        )


def _format_rows(file: Path, form: Format, split: str) -> Iterator[tuple[str, Picture]]:
    _check_split(file, form, split)
    try:
        entries = parse_json(file.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{file} is not valid JSON: {error}.", "Get the file again.") from error
    if not isinstance(entries, list):
        raise DatasetError(f"{file} holds a {type(entries).__name__}, want a list of entries.", "Get the file again.")
    for number, entry in enumerate(entries):
        place = f"{file}, entry {number}"
        if not isinstance(entry, dict):
            raise DatasetError(f"{place}: this is a {type(entry).__name__}, want an object.")
        if form.split is not None:
            named = _field(place, entry, form.split, str)
            if named not in form.splits:
                raise DatasetError(
                    f"{place}: the split is {named!r}, want {', '.join(form.splits)}.", "Get the file again."
                )
            if named != split:
                continue
        path = Path(_field(place, entry, form.picture, str))
        captions = _field(place, entry, form.captions, list)
        if not all(isinstance(caption, str) for caption in captions):
            raise DatasetError(f"{place}: {form.captions!r} is not a list of sentences.")
        if not all(map(str.strip, captions)):
            raise DatasetError(f"{place}: a caption has no words.", "Remove the caption.")
        yield place, Picture(path, _field(place, entry, form.identity, int), tuple(captions), form.camera(path))


def _own_rows(file: Path, split: str) -> Iterator[tuple[str, Picture]]:
    """Captions of your own; without an ``id`` column every picture is an identity of its own.

    A picture without a caption is in the gallery, and no query asks for it.
    """
    numbers: dict[str, int] = {}
    for row in ListReader(file, DatasetError).rows(required=("path", "caption")):
        if row.get("split") not in (None, "", split):
            continue
        path, given = row.text("path"), row.get("id")
        key = f"path {Path(path)}" if given in (None, "") else f"id {given}"
        captions = () if row.get("caption") in (None, "") else (row.text("caption"),)
        identity, camera = numbers.setdefault(key, len(numbers)), row.get("camera")
        camera = None if camera in (None, "") else str(camera)
        yield f"{file}, line {row.line}", Picture(Path(path), identity, captions, camera)


def _field(place: str, entry: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in entry:
        raise DatasetError(
            f"{place}: there is no {key!r}, want {_KINDS[kind]}.",
            f"The fields are: {', '.join(map(str, entry)) or 'none'}.",
        )
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(f"{place}: {key!r} is {value!r}, want {_KINDS[kind]}.")
    return value


_KINDS = {str: "text", list: "a list", int: "a whole number"}


def _merge(file: Path, rows: Iterable[tuple[str, Picture]], check_files: bool) -> tuple[Picture, ...]:
    """One picture per path, in the order of first mention; a path of two identities is an error."""
    merged: dict[Path, Picture] = {}
    for place, row in rows:
        earlier = merged.get(row.path)
        if earlier is None:
            merged[row.path] = replace(row, path=_locate(file, place, row.path, check_files))
        elif earlier.identity != row.identity:
            raise DatasetError(
                f"{place}: {row.path} has another identity than in an earlier entry "
                f"({row.identity} and {earlier.identity}).",
                "One picture shows one person: correct the file.",
            )
        else:
            merged[row.path] = replace(earlier, captions=(*earlier.captions, *row.captions))
    return tuple(merged.values())


def _locate(file: Path, place: str, path: Path, check: bool) -> Path:
    folders = (file.parent / "imgs", file.parent, file.parent.parent / "imgs")
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    if not check:
        return next((folder for folder in folders if folder.is_dir()), folders[0]) / path
    raise DatasetError(
        f"{place}: the picture {path} is neither in {file.parent / 'imgs'} nor in {file.parent}.",
        "Put the data set's pictures into imgs/ beside the annotation file.",
    )
