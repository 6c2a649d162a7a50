"""Whether an object store keeps two writers apart."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

from tbps_infer.errors import BackendError, GalleryError

__all__ = ["require_conditional_writes"]

# Lance commits to these through a table of DynamoDB, which keeps writers apart whatever the store does.
_COMMITS_ELSEWHERE = frozenset({"s3+ddb"})


def require_conditional_writes(uri: str) -> None:
    """Raise GalleryError where the store lets a writer put an object in the place of one that it must not replace.

    Lance commits by creating a file that must not exist yet. A store that ignores this condition loses what was
    committed, and nobody is told. So an empty object, in the dataset's folder, is created twice: the second time
    must fail.

    Raises:
        BackendError: obstore is not installed.
        GalleryError: The store ignores the condition, or cannot be written to.
    """
    if urlsplit(uri).scheme in _COMMITS_ELSEWHERE:
        return
    try:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError
    except ImportError as error:
        raise BackendError(
            "Writing to an object store needs obstore, which is not installed.",
            'Run pip install "tbps-infer[lance]".',
        ) from error

    probe = f"probe-{uuid.uuid4().hex}"
    try:
        store = obstore.store.from_url(uri)
        obstore.put(store, probe, b"", mode="create")
        try:
            obstore.put(store, probe, b"", mode="create")
            replaced = True
        except AlreadyExistsError:
            replaced = False
        finally:
            obstore.delete(store, probe)
    except (BaseError, ValueError) as error:
        message = str(error).split("\n")[0].rstrip(". ")[:300]
        raise GalleryError(
            f"The store of {uri} cannot be written to: {message}.",
            "Check the address, the network and the credentials that the environment gives.",
        ) from error
    if replaced:
        raise GalleryError(
            f"The store of {uri} does not support conditional writes (If-None-Match): writers would overwrite what "
            "others have committed.",
            "Use a store that does, such as S3 itself or a current MinIO, or a disk; searching is possible.",
        )
