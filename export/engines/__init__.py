"""Engines from a bundle's graphs: `build_engines` makes them, `check_buildable` says whether this machine can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbps_infer.export.engines.build import BuiltEngines, build_engines, check_buildable

__all__ = ["BuiltEngines", "build_engines", "check_buildable"]


def __getattr__(name: str) -> Any:
    """Load the builder at its first use: the options beside it are read by every ``tbps build -h``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tbps_infer.export.engines import build

    return getattr(build, name)
