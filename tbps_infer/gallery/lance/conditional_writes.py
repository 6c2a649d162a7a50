"""Whether an object store keeps two writers apart."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.lance.storage import create_dataset, lance_errors, lance_package

__all__ = ["require_conditional_writes"]

# A disk keeps writers apart, and so does the table of DynamoDB through which Lance commits to the third.
_SAFE = frozenset({"file", "file-object-store", "s3+ddb"})
_PROBE = "conditional-writes-probe"
_WRITERS, _RACES = 4, 3


def require_conditional_writes(uri: str) -> None:
    """Raise GalleryError where the store lets a writer put an object in the place of one that it must not replace.

    Lance commits by creating a file that must not exist yet. A store that ignores this condition loses what was
    committed, and nobody is told.

    Raises:
        GalleryError: The store ignores the condition, or cannot be written to.
    """
    if urlsplit(uri).scheme in _SAFE:
        return
    refuses = _refuses_second(uri)
    if not (_keeps_writers_apart(uri) if refuses is None else refuses):
        raise GalleryError(
            f"The store of {uri} does not support conditional writes (If-None-Match): writers would overwrite what "
            "others have committed.",
            "Use a store that does, such as S3 itself or a current MinIO, or a disk; searching is possible.",
        )


def _refuses_second(uri: str) -> bool | None:
    """Whether an empty object in the dataset's folder can be created only once; None where it cannot be tried.

    The object stays: were it deleted, a writer that opens the dataset at the same moment could create it twice. By
    Lance's own library of stores, as obstore brings it to Python; it knows fewer stores and credentials than Lance.
    """
    try:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError
    except ImportError:
        return None
    try:
        store = obstore.store.from_url(uri, retry_config={"max_retries": 1})
        for _ in range(2):
            obstore.put(store, _PROBE, b"", mode="create")
    except AlreadyExistsError:
        return True
    except (BaseError, ValueError):
        return None
    return False


def _keeps_writers_apart(uri: str) -> bool:
    """Whether one alone of several that create the same small dataset at once succeeds, each time.

    With Lance's own credentials. It can miss a store's fault where writers come one after the other by chance.
    """
    import pyarrow as pa

    table = pa.table({"writer": [0]})
    made = []
    for _ in range(_RACES):
        probe, start = f"{uri}-probe-{uuid.uuid4().hex}.lance", threading.Barrier(_WRITERS)

        def create(_: int, probe: str = probe, start: threading.Barrier = start) -> bool:
            start.wait()
            return create_dataset(probe, table, table.schema) is not None

        with ThreadPoolExecutor(_WRITERS) as writers:
            made.append(sum(writers.map(create, range(_WRITERS))))
        with lance_errors(uri):
            lance_package().LanceDataset.drop(probe)
    return max(made) == 1
