"""A machine without NVIDIA's driver, whichever machine this is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tbps_infer.tensorrt.library import Library

__all__ = ["without_driver"]


@contextmanager
def without_driver() -> Iterator[None]:
    """CUDA does not start and TensorRT loads no engine, each with its own error where the driver is missing."""
    create = Library.create_runtime
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Library, "create_runtime", lambda library: _Runtime(library, create(library)))
        try:
            driver = importlib.import_module("cuda.bindings.driver")
        except ImportError:  # nothing here asks CUDA
            pass
        else:
            patch.setattr(driver, "cuInit", _refuse_to_start)
        yield


def _refuse_to_start(_flags: int) -> None:
    raise RuntimeError("Failed to load libcuda.so.1, the library of NVIDIA's driver")


@dataclass
class _Runtime:
    """Loads no engine: what TensorRT refuses it refuses, and what loads here fails for want of a driver."""

    library: Library
    real: Any

    def deserialize_cuda_engine(self, plan: Any) -> None:
        if self.real.deserialize_cuda_engine(plan) is not None:
            self.library.journal.note("ERROR", "CUDA initialization failure with error: 35: no CUDA driver")
