"""Types of option values."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

__all__ = ["EXISTING_GALLERY", "GALLERY", "Finite", "GalleryName", "NewFile", "Numbers", "Shards", "Size"]

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


class Finite(click.FloatRange):
    """A number, in a range where there is one; click's own ranges let nan through, and take infinity for a number."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number

    def _describe_range(self) -> str:
        return "" if self.min is None and self.max is None else super()._describe_range()


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """``32,48,64,100``."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Whole numbers, 1 or more each."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"0*[1-9]\d*(,0*[1-9]\d*)*", str(value)):
            self.fail(f"{value!r} is not a list of numbers, each at least 1, such as 32,48,64,100.", param, ctx)
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


class GalleryName(click.ParamType):  # type: ignore[type-arg]
    """A folder, or the URI of a dataset, such as ``s3://bucket/site.lance``, or a path that ends with .lance.

    Args:
        exists: Whether a folder must be there.
    """

    name = "gallery"

    def __init__(self, *, exists: bool) -> None:
        self._path = click.Path(exists=exists, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of a folder, or the text of a URI: a path would lose one of its slashes."""
        from tbps_infer.gallery.lance.storage import is_dataset

        return str(value) if is_dataset(value) else self._path.convert(value, param, ctx)


GALLERY = GalleryName(exists=False)
EXISTING_GALLERY = GalleryName(exists=True)


class Shards(click.ParamType):  # type: ignore[type-arg]
    """``3/64``: the part of 64 that is counted 3 from 0."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The shard."""
        from tbps_infer.sources import Shard

        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        if found is None:
            self.fail(f"{value!r} is no shard such as 3/64.", param, ctx)
        return Shard(int(found[1]), int(found[2]))
