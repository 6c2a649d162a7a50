"""Whether an object store keeps two writers apart."""

from __future__ import annotations

import threading
import uuid

from tbps_infer.errors import GalleryError
from tbps_infer.gallery.lance.storage import lance_errors, lance_package

__all__ = ["require_conditional_writes"]

_WRITERS = 4


def require_conditional_writes(uri: str) -> None:
    """Raise GalleryError where the store lets two writers make the same version, one over the other.

    Lance commits by creating a file that must not exist yet. A store that ignores this condition loses what was
    committed, and nobody is told. So several create the same small dataset at once: one of them alone may succeed.
    """
    import pyarrow as pa

    lance = lance_package()
    probe = f"{uri.rstrip('/')}-probe-{uuid.uuid4().hex}.lance"
    start, made = threading.Barrier(_WRITERS), list[bool]()
    problems: list[Exception] = []

    def create() -> None:
        table = pa.table({"a": [1]})
        start.wait()
        try:
            lance.write_dataset(table, probe, mode="create")
            made.append(True)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=create) for _ in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not made:
        with lance_errors(uri):
            raise problems[0]
    with lance_errors(uri):
        lance.LanceDataset.drop(probe)
    if len(made) > 1:
        raise GalleryError(
            f"The store of {uri} does not support conditional writes (If-None-Match): writers would overwrite what "
            "others have committed.",
            "Use a store that does, such as S3 itself or a current MinIO, or a disk; searching is possible.",
        )
