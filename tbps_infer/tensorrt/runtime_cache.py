"""What TensorRT for RTX is told when an engine is run, and the kernels that it compiled, kept between runs.

It compiles an engine's kernels for the GPU and the shapes at hand while it runs, anew in each process unless they are
kept. Its CUDA graphs are its own, too: it captures a shape once that shape's kernels are compiled. None of this has
run on a GPU.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tbps_infer.atomic import write_bytes
from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.library import Library

__all__ = ["RuntimeCache"]

_logger = logging.getLogger(__name__)


class RuntimeCache:
    """Makes execution contexts that share compiled kernels; `close` writes them to a file.

    A file that cannot be read, used or written is told by a warning and costs time alone.

    Args:
        library: TensorRT for RTX.
        path: The file; it need not be there.
        cuda_graphs: Whether contexts launch their runs as CUDA graphs.
    """

    def __init__(self, library: Library, path: Path, *, cuda_graphs: bool) -> None:
        self._library = library
        self._path = path
        self._cuda_graphs = cuda_graphs
        self._configs: list[Any] = []  # contexts use what belongs to them
        self._cache: Any | None = None
        self._stored = b""

    @staticmethod
    def serves(library: Library) -> bool:
        """Whether a library compiles kernels while it runs, can keep them, and captures its runs itself."""
        return all(library.has("IRuntimeConfig", name) for name in ("create_runtime_cache", "cuda_graph_strategy"))

    def context(self, engine: Any) -> Any:
        """An execution context whose memory the caller gives. Raises BackendError."""
        library, trt = self._library, self._library.module
        config = library.made(engine.create_runtime_config(), "make a runtime configuration")
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._cuda_graphs:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._cache is None:
            self._cache = self._read(config)
        library.made(config.set_runtime_cache(self._cache), "use a runtime cache")
        self._configs.append(config)
        return library.made(engine.create_execution_context(config), "make an execution context")

    def close(self) -> None:
        """Write the kernels, if there are others than were read; their contexts may be gone."""
        if self._cache is None:
            return
        self._library.begin()
        content = self._cache.serialize()
        self._cache = None
        self._configs.clear()
        try:
            content = bytes(memoryview(self._library.made(content, "write the kernels that it compiled")))
            if content != self._stored:
                write_bytes(self._path, content, BackendError)
        except BackendError as error:
            _logger.warning("Compiled kernels are not kept, so the next start compiles them again: %s", error.message)

    def _read(self, config: Any) -> Any:
        library = self._library
        cache = library.made(config.create_runtime_cache(), "make a runtime cache")
        try:
            stored = self._path.read_bytes() if self._path.is_file() else b""
        except OSError as error:
            _logger.warning("The kernels in %s cannot be read and are compiled again: %s", self._path, error.strerror)
            return cache
        if stored and cache.deserialize(stored):
            self._stored = stored
        elif stored:
            _logger.warning(
                "The kernels in %s are damaged or of another driver, and are compiled again: %s",
                self._path,
                library.journal.text(),
            )
        return cache
