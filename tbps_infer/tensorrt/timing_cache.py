"""The times of kernels that TensorRT measured, shared by all engines of a build and kept between builds.

They hold for one TensorRT, one kind of GPU and one CUDA, so the file that is kept beside the engines has these in its
name. Its content is TensorRT's own, which trtexec reads and writes too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tbps_infer.atomic import write_bytes
from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.library import Library

__all__ = ["TimingCache", "timing_cache_file"]


def timing_cache_file(library: Library, gpu: GpuFacts) -> str:
    """The name of the file with the times of one TensorRT on one kind of GPU with one CUDA."""
    return f"timing-{library.version}-{gpu.label}-cuda{gpu.runtime}.cache"


class TimingCache:
    """Read at the first build that it is attached to, and written after each build.

    Args:
        library: The TensorRT that builds.
        path: The file; it need not be there.
        named: Whether the user named the file. What is in such a file and cannot be used is refused, since it may be
            something else of theirs; in a file of this project's own it is told and measured anew.
        on_step: Called with a sentence when a file is not used.
    """

    def __init__(self, library: Library, path: Path, *, named: bool, on_step: Callable[[str], None]) -> None:
        self._library = library
        self._path = path
        self._named = named
        self._on_step = on_step
        self._content: bytes | None = None

    def attach(self, config: Any) -> None:
        """Let a builder configuration use all times so far. Raises BackendError."""
        first = self._content is None
        content = self._stored() if self._content is None else self._content
        if self._used(config, content):
            self._content = content
            return
        reason = self._library.journal.text()
        if self._named or not (first and content):
            raise BackendError(
                f"{self._library} could not use the timing cache {self._path}: {reason}.",
                "It is damaged, or of another TensorRT, CUDA or GPU: delete it, or give another file.",
            )
        self._on_step(f"The timing cache {self._path} is damaged and was ignored; kernels are timed again: {reason}")
        self._content = b""
        self.attach(config)

    def keep(self, config: Any) -> None:
        """Take over the times that a build added, and write the file. Raises BackendError."""
        library = self._library
        cache = library.made(config.get_timing_cache(), "give the timing cache back")
        self._content = bytes(memoryview(library.made(cache.serialize(), "write the timing cache")))
        write_bytes(self._path, self._content, BackendError, parents=True)

    def _stored(self) -> bytes:
        try:
            return self._path.read_bytes() if self._path.is_file() else b""
        except OSError as error:
            raise BackendError(
                f"The timing cache {self._path} cannot be read: {error.strerror}.", "Give another file."
            ) from error

    def _used(self, config: Any, content: bytes) -> bool:
        self._library.begin()
        cache = config.create_timing_cache(content)
        return cache is not None and bool(config.set_timing_cache(cache, False))
