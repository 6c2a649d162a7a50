"""What a checkpoint was trained with, as its configuration file says: read as data, whatever its tags ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tbps_infer.errors import CheckpointError

__all__ = ["SETTINGS_FILES", "Settings", "read_settings", "read_settings_file"]

SETTINGS_FILES = ("configs.yaml", "config.yaml", "open_clip_config.json")
"""Names of the file beside a checkpoint, the first that is there taken; JSON is YAML too."""

_PYTHON = "tag:yaml.org,2002:python/"


@dataclass(frozen=True)
class Settings:
    """A training's settings.

    Attributes:
        source: The file that they come from, for sentences; empty when there is none.
        values: By name; values may be mappings themselves.
    """

    source: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """A number by its dotted name; None when it is not there. Raises CheckpointError when it is no number."""
        value = self._find(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise self._wrong(name, value, "a number")

    def size(self, name: str) -> tuple[int, int] | None:
        """(height, width) by a dotted name, a single number standing for both; None when it is not there.

        Raises:
            CheckpointError: It is anything else.
        """
        value = self._find(name)
        if value is None:
            return None
        pair = (value, value) if isinstance(value, int) else value
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(type(n) is int and n > 0 for n in pair):
            return int(pair[0]), int(pair[1])
        raise self._wrong(name, value, "a height and a width in pixels")

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Names with values by a dotted name; empty when it is not there. Raises CheckpointError when it is else."""
        value = self._find(name)
        if value is None or isinstance(value, Mapping):
            return value or {}
        raise self._wrong(name, value, "names with values")

    def _find(self, name: str) -> Any:
        value: Any = self.values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self.source}: {name} is {value!r}, want {wanted}.", "Correct it, or move the file away."
        )


@dataclass(frozen=True)
class _Unread:
    """Stands in a configuration for a Python object, which nothing here makes.

    Attributes:
        tag: What the file asks for.
        line: Where, counted from 1.
    """

    tag: str
    line: int

    def __repr__(self) -> str:
        return f"the Python object {self.tag} of line {self.line}"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's safe types and Python's plain ones; for any other object of Python a note of its place."""


def _tuple(loader: _Loader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a sequence for a tuple", node.start_mark)
    return tuple(loader.construct_sequence(node, deep=True))


def _unread(_loader: _Loader, suffix: str, node: yaml.Node) -> _Unread:
    return _Unread(f"python/{suffix}", node.start_mark.line + 1)


# PyYAML writes a script's arguments with these; its own FullLoader reads them, and more.
_Loader.add_constructor(f"{_PYTHON}tuple", _tuple)
for _name, _plain in (
    *(("none", "null"), ("bool", "bool"), ("str", "str"), ("unicode", "str"), ("int", "int"), ("long", "int")),
    *(("float", "float"), ("list", "seq"), ("dict", "map")),
):
    _Loader.add_constructor(f"{_PYTHON}{_name}", _Loader.yaml_constructors[f"tag:yaml.org,2002:{_plain}"])
_Loader.add_multi_constructor(_PYTHON, _unread)


def read_settings(folder: Path) -> Settings:
    """Read the configuration file in a checkpoint's folder, if there is one; nothing in it is executed.

    Raises:
        CheckpointError: It is not YAML, or no mapping of names; the sentence gives the line.
    """
    for name in SETTINGS_FILES:
        file = folder / name
        if file.is_file():
            return read_settings_file(file)
    return Settings()


def read_settings_file(file: Path) -> Settings:
    """Read one configuration file; raises as `read_settings` does."""
    return Settings(str(file), _read(file))


def _read(file: Path) -> dict[str, Any]:
    try:
        # The loader makes data only: it is SafeLoader with more names for the same types.
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise CheckpointError(
            f"{file}{line}: {error.problem or error.context}.", "Correct it, or move the file away."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file} cannot be read: {reason}.", "Correct it, or move the file away.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} does not hold names with values.", "Correct it, or move the file away.")
    return values
