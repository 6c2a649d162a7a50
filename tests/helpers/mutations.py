"""Changes files as accidents and strangers do: flipped bits, cuts, and JSON values of another kind."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["damaged", "swapped"]

_STRANGE: tuple[Any, ...] = (None, True, -1, 0, 10**18, 1.5, "", "\0", "../x", [], {}, [[]], {"a": 1}, "x" * 3000)
_RAW = (b"[" * 3000, b"1" * 5000, b"Infinity", b"NaN", b"1e999", b'{"a": 1, "a": 2}', b"")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one bit flipped, some bytes replaced, cut short, or continued."""
    at = rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + rng.randbytes(rng.randrange(1, 64)) + content[at + 32 :]
    return content[:at] if kind == 2 else content + rng.randbytes(at % 500)


def swapped(content: bytes, rng: random.Random) -> bytes:
    """JSON text with one value, wherever it is, gone or replaced by one of another kind."""
    values = json.loads(content)
    container, key = rng.choice(list(_places(values)))
    if rng.random() < 0.2:
        del container[key]
        return json.dumps(values).encode()
    if rng.random() < 0.3:
        mark = "tbps-mark"
        container[key] = mark
        return json.dumps(values).encode().replace(f'"{mark}"'.encode(), rng.choice(_RAW))
    container[key] = copy.deepcopy(rng.choice(_STRANGE))
    return json.dumps(values).encode()


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key
        yield from _places(values[key])
