"""Opens a gallery by its name: a folder, a dataset, or several of both as one.

Each function imports what it opens: a search needs nothing of what writes and maintains galleries, or of datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_infer.errors import GalleryError, UsageError
from tbps_infer.gallery.folder import DtypeName, is_gallery
from tbps_infer.gallery.lance.storage import dataset_uri, is_dataset
from tbps_infer.gallery.reader import Gallery
from tbps_infer.model_facts import ModelFacts

if TYPE_CHECKING:
    from tbps_infer.gallery.changes import FolderChanges
    from tbps_infer.gallery.folder_upkeep import FolderUpkeep
    from tbps_infer.gallery.lance.changes import DatasetChanges
    from tbps_infer.gallery.lance.reader import LanceGallery
    from tbps_infer.gallery.lance.upkeep import DatasetUpkeep
    from tbps_infer.gallery.lance.writer import LanceWriter
    from tbps_infer.gallery.protocols import SearchableGallery
    from tbps_infer.gallery.writer import GalleryWriter

__all__ = [
    "changes_of",
    "is_gallery_name",
    "location",
    "open_galleries",
    "open_gallery",
    "open_gallery_writer",
    "upkeep_of",
]


def is_gallery_name(name: Path | str) -> bool:
    """Whether a name is a gallery's: a folder's that is one, or a dataset's, whether or not that is there."""
    return is_dataset(name) or is_gallery(name)


def location(name: Path | str) -> str:
    """Where a gallery is, the same for every name that it has: an absolute path, or a URI with no slash behind."""
    uri = dataset_uri(name) if is_dataset(name) else str(name)
    return uri if "://" in uri else str(Path(uri).resolve())


def open_gallery(path: Path | str) -> Gallery | LanceGallery:
    """Open a folder, or a dataset by its URI or a path that ends with .lance; raises GalleryError where none is."""
    if not is_dataset(path):
        return Gallery.open(path)
    from tbps_infer.gallery.lance.reader import LanceGallery

    return LanceGallery.open(path)


def open_galleries(paths: Sequence[Path | str], *, allow_partial: bool = False) -> SearchableGallery:
    """Open one gallery, or several as the shards of one.

    Args:
        paths: Folders and URIs.
        allow_partial: Go on without those that cannot be opened or searched, as long as there is one; a search's
            report names them.

    Raises:
        GalleryError: One cannot be opened.
        ModelMismatchError: They were embedded by different models.
    """
    if len(paths) == 1:
        return open_gallery(paths[0])
    from tbps_infer.gallery.shards import GalleryShards

    opened: dict[str, Gallery | LanceGallery] = {}
    problems: dict[str, GalleryError] = {}
    seen: set[str] = set()
    with ExitStack() as undo:
        for path in paths:
            if location(path) in seen:
                raise UsageError(f"{path} is there twice.", "Name every shard once.")
            seen.add(location(path))
            try:
                gallery = open_gallery(path)
                undo.callback(gallery.close)
                opened[str(path)] = gallery
            except GalleryError as error:
                if not allow_partial:
                    raise
                problems[str(path)] = error
        if not opened:
            raise next(iter(problems.values()))
        shards = GalleryShards(opened, problems, allow_partial=allow_partial)
        undo.pop_all()
    return shards


def open_gallery_writer(
    path: Path | str,
    model: ModelFacts | None = None,
    *,
    dtype: DtypeName | None = None,
    bundle_path: Path | None = None,
    crops: bool = False,
) -> GalleryWriter | LanceWriter:
    """Continue the gallery of a name, or create one for a model.

    Args:
        path: A folder or a URI.
        model: The model whose embeddings will be added; None is that of the gallery, which must be there, and every
            value of whose records is looked at.
        dtype: How numbers are stored; None takes the gallery's own, float16 for a new one.
        bundle_path: Where the model was read from.
        crops: Whether it keeps crops, as datasets can.

    Raises:
        GalleryError: As `GalleryWriter.open` and `LanceWriter.open`.
        UsageError: A folder was to keep crops.
    """
    if not is_dataset(path):
        if crops:
            raise UsageError(
                f"{path} is a folder, and only datasets keep crops.", "Name a URI, or a path that ends with .lance."
            )
        from tbps_infer.gallery.writer import GalleryWriter, open_writer

        if model is None:
            return open_writer(path)
        return GalleryWriter.open(path, model, dtype=dtype, bundle_path=bundle_path)
    from tbps_infer.gallery.lance.reader import LanceGallery
    from tbps_infer.gallery.lance.writer import LanceWriter

    if model is None:
        model = LanceGallery.open(path).model
    return LanceWriter.open(path, model, dtype=dtype, bundle_path=bundle_path, crops=crops)


def changes_of(path: Path | str) -> FolderChanges | DatasetChanges:
    """What a server asks while it has a gallery open."""
    if not is_dataset(path):
        from tbps_infer.gallery.changes import FolderChanges

        return FolderChanges(Path(path))
    from tbps_infer.gallery.lance.changes import DatasetChanges

    return DatasetChanges(str(path))


def upkeep_of(writer: GalleryWriter | LanceWriter) -> FolderUpkeep | DatasetUpkeep:
    """What is done to the whole of the gallery that a writer has open."""
    from tbps_infer.gallery.writer import GalleryWriter

    if isinstance(writer, GalleryWriter):
        from tbps_infer.gallery.folder_upkeep import FolderUpkeep

        return FolderUpkeep(writer)
    from tbps_infer.gallery.lance.upkeep import DatasetUpkeep

    return DatasetUpkeep(writer)
