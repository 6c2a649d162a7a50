"""Types of option values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

__all__ = ["NewFile", "Numbers", "Size"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Size(click.ParamType):  # type: ignore[type-arg]
    """``2GiB``, ``512M`` or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; units are multiples of 1024."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not a size such as 2GiB or 512MiB.", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].lower()])


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """``32,48,64,100``."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Whole numbers."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d+(,\d+)*", str(value)):
            self.fail(f"{value!r} is not a list of numbers such as 32,48,64,100.", param, ctx)
        return tuple(int(number) for number in str(value).split(","))


class NewFile(click.Path):
    """A file to write. Standard output is not one: it has the results, or belongs to an option that says so."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if str(value) == "-":
            self.fail("- stands for standard output, which this option does not write to; name a file.", param, ctx)
        return super().convert(value, param, ctx)
