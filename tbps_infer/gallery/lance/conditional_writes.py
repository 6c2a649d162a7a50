"""Whether an object store keeps two writers apart."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.lance.storage import create_dataset, lance_errors, lance_package

__all__ = ["require_conditional_writes"]

_WRITERS = 4


def require_conditional_writes(uri: str) -> None:
    """Raise GalleryError where the store lets two writers make the same version, one over the other.

    Lance commits by creating a file that must not exist yet. A store that ignores this condition loses what was
    committed, and nobody is told. So several create the same small dataset at once: one of them alone may succeed.
    """
    import pyarrow as pa

    table = pa.table({"writer": [0]})
    probe = f"{uri}-probe-{uuid.uuid4().hex}.lance"
    start = threading.Barrier(_WRITERS)

    def create(_: int) -> bool:
        start.wait()
        return create_dataset(probe, table, table.schema) is not None

    with ThreadPoolExecutor(_WRITERS) as writers:
        made = sum(writers.map(create, range(_WRITERS)))
    with lance_errors(uri):
        lance_package().LanceDataset.drop(probe)
    if made > 1:
        raise GalleryError(
            f"The store of {uri} does not support conditional writes (If-None-Match): writers would overwrite what "
            "others have committed.",
            "Use a store that does, such as S3 itself or a current MinIO, or a disk; searching is possible.",
        )
