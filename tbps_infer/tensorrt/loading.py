"""Loads a folder's engines, each at its first use and once for all of its profiles, which share its weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from tbps_infer.tensorrt.engine_folder import EngineFolder, PlanFacts
from tbps_infer.tensorrt.library import Library
from tbps_infer.tensorrt.runtime_cache import RuntimeCache

__all__ = ["LoadedEngines"]


class LoadedEngines:
    """A folder's engines as they are needed.

    Args:
        folder: The folder.
        library: Loads them.
        runtime_cache: Closed with them.
    """

    def __init__(self, folder: EngineFolder, library: Library, runtime_cache: RuntimeCache | None = None) -> None:
        self._folder = folder
        self._library = library
        self._runtime_cache = runtime_cache
        self._runtime: Any | None = None
        self._engines: dict[str, Any] = {}

    def engine(self, plan: PlanFacts) -> Any:
        """The engine of a plan. Raises BackendError when its bytes were altered, or it does not load."""
        if plan.file not in self._engines:
            path = self._folder.check_plan(plan)
            self._runtime = self._runtime or self._library.create_runtime()
            content = np.fromfile(path, np.uint8)
            self._engines[plan.file] = self._library.deserialize(self._runtime, content.data, str(path))
        return self._engines[plan.file]

    def close(self) -> None:
        """Let go of the engines, whose contexts must be gone, and keep what was compiled for them."""
        if self._runtime_cache is not None:
            self._runtime_cache.close()
        self._engines.clear()
        self._runtime = None
