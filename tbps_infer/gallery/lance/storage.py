"""Lance datasets as files: what names one, opening it, and what Lance's errors become."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tbps_infer.errors import BackendError, GalleryBusyError, GalleryError, UsageError

__all__ = [
    "SUFFIX",
    "create_dataset",
    "dataset_uri",
    "find_dataset",
    "is_dataset",
    "lance_errors",
    "lance_package",
    "open_dataset",
]

SUFFIX = ".lance"

# Lance logs warnings of its own to standard error, and puts an index's centroids into its statistics.
_QUIET = {"LANCE_LOG": "error", "LANCE_INCLUDE_VECTOR_CENTROIDS": "false"}
_PLACE_IN_SOURCE = re.compile(r",? /\S+\.rs:\d+(:\d+)?")


def is_dataset(name: Path | str) -> bool:
    """Whether a name is a dataset's: a URI such as ``s3://bucket/site.lance``, or a path that ends with .lance."""
    text = str(name)
    return "://" in text or text.rstrip("/").endswith(SUFFIX)


def dataset_uri(name: Path | str) -> str:
    """A dataset's name as Lance takes it.

    Raises:
        UsageError: It holds a user or a password, which would be printed and stored with it.
    """
    uri = str(name).rstrip("/")
    if "://" in uri and urlsplit(uri).username is not None:
        raise UsageError(
            "The URI holds credentials.",
            "Give them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    return uri if "://" in uri else str(Path(uri).absolute())


def lance_package() -> Any:
    """The module ``lance``; raises BackendError where it is not installed."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import lance
    except ImportError as error:
        raise BackendError(
            "Lance datasets need pylance, which is not installed.", 'Run pip install "tbps-infer[lance]".'
        ) from error
    return lance


def open_dataset(uri: str) -> Any:
    """The newest version of a dataset; raises GalleryError where there is none."""
    found = find_dataset(uri)
    if found is None:
        raise GalleryError(
            f"There is no dataset at {uri}.",
            "Make one with tbps embed BUNDLE SOURCE... -o URI, or tbps gallery push.",
        )
    return found


def find_dataset(uri: str) -> Any | None:
    """The newest version of a dataset; None where there is none; raises GalleryError where a file is."""
    lance = lance_package()
    if "://" not in uri and Path(uri).is_file():
        raise GalleryError(f"{uri} is a file, and a dataset is a folder.", "Name another path.")
    with lance_errors(uri, "read"):
        try:
            return lance.dataset(uri)
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise


def create_dataset(uri: str, rows: Any, schema: Any) -> Any | None:
    """Create a dataset with some rows, as a whole; None where there is one by then, which stays as it is.

    Lance's own ``write_dataset`` in the mode ``create`` lets the second of two that come at the same time overwrite
    what the first has written (seen with 14.0.2, on disk and on S3). A commit on top of version 0 cannot.
    """
    lance = lance_package()
    with lance_errors(uri):
        try:
            fragments = lance.fragment.write_fragments(
                rows, uri, schema=schema, mode="create", enable_stable_row_ids=True
            )
            return lance.LanceDataset.commit(
                uri,
                lance.LanceOperation.Overwrite(schema, fragments),
                read_version=0,
                max_retries=0,
                enable_stable_row_ids=True,
            )
        except (OSError, ValueError):
            if find_dataset(uri) is None:
                raise
            return None


@contextmanager
def lance_errors(uri: str, doing: str = "written") -> Iterator[None]:
    """Turn what Lance raises about a dataset into a GalleryError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        message = _PLACE_IN_SOURCE.sub("", str(error)).split("\n")[0].rstrip(". ")[:300]
        if "No space left" in message or "os error 28" in message:
            hint = "Free some disk space and run the same command again; what was committed before is kept."
        elif any(word in message for word in ("onflict", "contention", "ncompatible transaction")):
            raise GalleryBusyError(
                f"Others wrote to the dataset {uri} at the same time, too often to give way: {message}.",
                "Run the same command again; what was committed before is kept.",
            ) from error
        elif "://" in uri:
            hint = "Check the address, the network and the credentials that the environment gives."
        else:
            hint = "Check the folder's permissions, and tbps gallery verify."
        raise GalleryError(f"The dataset {uri} cannot be {doing}: {message}.", hint) from error
