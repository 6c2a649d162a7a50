"""JSON: text to values, with a limit for everything, and fields of the type that is wanted."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["JsonObject", "parse_json", "read_json"]

Pairs = list[tuple[str, Any]]

_MOST_BYTES = 16 << 20
_INTEGER_DIGITS = 19  # of 64 bits; Python's own limit is a mere 4300
_MOST_INTEGER = (1 << 63) - 1
_DEEPEST = 64
_TOO_DEEP = "its lists or objects are nested too deeply"
_SHOWN = 40


def read_json(file: Path, most_bytes: int = _MOST_BYTES) -> JsonObject:
    """Read a file that holds one JSON object.

    Args:
        file: The file, in UTF-8.
        most_bytes: The largest that is read.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is larger, no JSON, or no object.
    """
    with file.open("rb") as opened:
        data = opened.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return JsonObject(parse_json(data))


def unique(pairs: Pairs) -> dict[str, Any]:
    """The pairs of an object; two readers could take different ones of two with the same key."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_shown(twice)} is there twice")
    return values


def parse_json(
    text: str | bytes,
    *,
    pairs: Callable[[Pairs], dict[str, Any]] = unique,
    real: Callable[[str], float] | None = None,
) -> Any:
    """The value of a JSON text.

    Refused are also Infinity and NaN, which are not JSON, integers of more than 19 digits, numbers that are too large
    for a float, keys that are there twice, and more than 64 levels.

    Args:
        text: In UTF-8 where it is bytes.
        pairs: Makes an object of its pairs.
        real: Makes a number of one that is written with a point or an exponent, and of Infinity and NaN.

    Raises:
        ValueError: It is not valid.
    """
    try:
        value = json.loads(
            text.removeprefix(codecs.BOM_UTF8).decode() if isinstance(text, bytes) else text,
            object_pairs_hook=pairs,
            parse_float=real or _real,
            parse_int=_integer,
            parse_constant=real or _constant,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError where what recurses into a value, such as `json.dumps`, could go deeper than Python allows."""
    level = [value]
    for _ in range(_DEEPEST):
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [item for each in nested for item in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {_shown(text)} is too large")
    return number


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _INTEGER_DIGITS:
        raise ValueError(f"the number {_shown(text)} is too large")
    return int(text)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


class JsonObject(Mapping[str, Any]):
    """A JSON object whose values are taken out with the type that they must have.

    Args:
        values: The object; anything else is refused.
        place: What it is called in a message: ``model.layout[0]``; empty for the file itself.

    Raises:
        ValueError: Here and in every method: there is no such value, or it is of another type; says which.
    """

    def __init__(self, values: Any, place: str = "") -> None:
        values = dict(values) if isinstance(values, JsonObject) else values
        if not isinstance(values, dict):
            raise ValueError(f"{place or 'its content'} is {_shown(values)}, want a JSON object")
        self._values: dict[str, Any] = values
        self._place = place

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise ValueError(f"{self._name(name)} is missing")
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A value of any type; the default where there is none."""
        return self._values.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def refuse_others(self, *names: str) -> None:
        """Raise ValueError where there is any other value than these."""
        for name in self._values:
            if name not in names:
                raise ValueError(f"{self._name(name)} is not known")

    def text(self, name: str) -> str:
        """A string."""
        text: str = _typed(self[name], self._name(name), str, "text")
        return text

    def integer(self, name: str, least: int = 0, most: int = _MOST_INTEGER) -> int:
        """A whole number within limits."""
        return _limited(self[name], self._name(name), least, most)

    def number(self, name: str) -> float:
        """A finite number."""
        return float(_typed(self[name], self._name(name), (int, float), "a number"))

    def boolean(self, name: str) -> bool:
        """True or false."""
        return bool(_typed(self[name], self._name(name), bool, "true or false"))

    def object(self, name: str) -> JsonObject:
        """An object."""
        return JsonObject(self[name], self._name(name))

    def mapping(self, name: str) -> dict[str, Any]:
        """An object as it is, of values of any type."""
        return dict(self.object(name)._values)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(_typed(*each, str, "text") for each in self._items(name))

    def integers(self, name: str, least: int = 0) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(_limited(*each, least) for each in self._items(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return tuple(float(_typed(*each, (int, float), "a number")) for each in self._items(name))

    def objects(self, name: str) -> tuple[JsonObject, ...]:
        """A list of objects."""
        return tuple(JsonObject(*each) for each in self._items(name))

    def _items(self, name: str) -> Iterator[tuple[Any, str]]:
        """The items of a list with their places."""
        values: list[Any] = _typed(self[name], self._name(name), list, "a list")
        return ((value, f"{self._name(name)}[{number}]") for number, value in enumerate(values))

    def _name(self, name: str) -> str:
        plain = name if len(name) <= _SHOWN and name.isprintable() else _shown(name)
        return f"{self._place}.{plain}" if self._place else plain


def _typed(value: Any, place: str, kind: type | tuple[type, ...], wanted: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{place} is {_shown(value)}, want {wanted}")
    return value


def _limited(value: Any, place: str, least: int, most: int = _MOST_INTEGER) -> int:
    number: int = _typed(value, place, int, "a whole number")
    if not least <= number <= most:
        raise ValueError(f"{place} is {number}, want {least} to {most}")
    return number


def _shown(value: object) -> str:
    text = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
