"""Families that other packages and the user's own modules bring."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import entry_points

from tbps_infer.errors import UsageError
from tbps_infer.families.family import Family

__all__ = ["GROUP", "find_outside", "outside_families"]

GROUP = "tbps_infer.families"
"""Entry points of this group are `Family` objects."""


def outside_families() -> Iterator[Family]:
    """Those of installed packages, by the names of their entry points. Raises UsageError when one fails to load."""
    for point in sorted(entry_points(group=GROUP)):
        yield _load(point.value)


def find_outside(name: str) -> Family | None:
    """A family by the name of its entry point, by its own name, or as ``module:NAME``.

    Returns:
        None where there is none of that name.

    Raises:
        UsageError: The module cannot be imported, or has no family of that name.
    """
    if ":" in name:
        return _load(name)
    named = [point.value for point in entry_points(group=GROUP) if point.name == name]
    if named:
        return _load(named[0])
    return next((family for family in outside_families() if family.name == name), None)


def _load(value: str) -> Family:
    module, _, name = value.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module does at its import
        raise UsageError(
            f"The family {value} cannot be loaded: {type(error).__name__}: {error}.",
            "Install what it needs, or correct its module; a module in the current folder is found by --family.",
        ) from error
    if not isinstance(found, Family):
        raise UsageError(f"{value} is of type {type(found).__name__}, want a tbps_infer.families.family.Family.")
    return found
