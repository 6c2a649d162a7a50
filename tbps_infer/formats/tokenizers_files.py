"""`tokenizers` files: a text is turned into ids in a time and memory that its length bounds, whoever wrote the file.

The file is a program: it replaces text by longer text, and splits it by regular expressions. So what the steps can
make of a text's length is multiplied up, and patterns are refused whose time is exponential in the length. What stays
can take a power of it, and so longer texts are refused before (`tbps_infer.text`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbps_infer.formats.json_files import parse_json

if TYPE_CHECKING:
    import tokenizers

__all__ = ["read_tokenizer", "tokenizer_errors"]

_MOST_BYTES = 128 << 20
_MOST_STEPS = 64
_MOST_GROWTH = 96  # 72 are usual: NFKC makes 18 characters of one, and two patterns for spaces count twice each
_LONGEST_PATTERN = 4000
_FEW = 3  # repetitions
_MOST_WORD = 1000  # characters; BERT's is 100. A longer word is unknown, and a shorter one takes the square of it.

_INNERMOST_GROUP = re.compile(
    r"\((?:\?(?:<?[=!]|>|<\w+>|[a-z-]*:?))?(?P<content>[^()]*)\)(?P<repeated>[*+]|\{[^}]*\}|)"
)


def read_tokenizer(file: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizers` file.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is none, or could take exponential time or memory.
    """
    import tokenizers

    with file.open("rb") as opened:
        data = opened.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    _check(parse_json(data))
    with tokenizer_errors():
        return tokenizers.Tokenizer.from_buffer(data)


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Turn what `tokenizers` raises into ValueError, a panic of its Rust code, which is no Exception, included."""
    try:
        yield
    except Exception as error:  # it raises no narrower class
        raise ValueError(str(error).rstrip(".")) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 has no name to import it by
            raise
        raise ValueError(f"it stopped the tokenizers package: {error}") from error


def _check(values: Any) -> None:
    growth, steps = 1.0, 0
    for step in _steps(values):
        steps += 1
        kind, pattern = step.get("type"), step.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            _check_pattern(pattern["Regex"])
        if kind == "Replace":
            growth *= max(1.0, _replacement_growth(step))
        elif kind == "Precompiled":
            growth *= max(1, _longest_replacement(step.get("precompiled_charsmap")))
        if isinstance(longest := step.get("max_input_chars_per_word"), int) and longest > _MOST_WORD:
            raise ValueError(f"max_input_chars_per_word is {longest}, want {_MOST_WORD} at most")
    if steps > _MOST_STEPS:
        raise ValueError(f"it has {steps} steps, and {_MOST_STEPS} are the most")
    if growth > _MOST_GROWTH:
        raise ValueError(f"its replacements make a text {growth:.0f} times as long, and {_MOST_GROWTH} are the most")


def _steps(values: Any) -> Iterator[dict[str, Any]]:
    """What is done to a text, in order: normalizers, pre-tokenizers and the model."""
    if isinstance(values, dict):
        for part in ("normalizer", "pre_tokenizer", "model"):
            yield from _flat(values.get(part))


def _flat(step: Any) -> Iterator[dict[str, Any]]:
    if isinstance(step, list):
        for each in step:
            yield from _flat(each)
    elif isinstance(step, dict):
        if step.get("type") == "Sequence":
            yield from _flat([step.get("normalizers"), step.get("pretokenizers")])
        else:
            yield step


def _replacement_growth(step: dict[str, Any]) -> float:
    """How many times as long a text can become by a replacement; a regular expression can match every character."""
    pattern, content = step.get("pattern"), step.get("content")
    if not isinstance(pattern, dict) or not isinstance(content, str):
        return 1.0
    text = pattern.get("String")
    return len(content) / len(text) if isinstance(text, str) and text else 1.0 + len(content)


def _longest_replacement(charsmap: object) -> int:
    """Characters of the longest text in SentencePiece's table: a trie's length, the trie, texts that end in NUL."""
    if not isinstance(charsmap, str):
        return 1
    data = base64.b64decode(charsmap)
    texts = data[4 + int.from_bytes(data[:4], "little") :].split(b"\0")
    return max(len(text.decode("utf-8", "replace")) for text in texts)


def _check_pattern(pattern: str) -> None:
    """Refuse a group that is repeated often and holds repetitions or alternatives, which multiply, and recursion."""
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"a pattern has {len(pattern)} characters, and {_LONGEST_PATTERN} are the most")
    if re.search(r"\\g[<']", pattern):
        raise ValueError(f"its pattern {pattern!r} calls itself")
    bare = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    while (less := re.sub(r"\[[^\[\]]*\]", "x", bare)) != bare:
        bare = less
    while group := _INNERMOST_GROUP.search(bare):
        holds = re.search(r"[*+?|{]", group["content"])
        if holds and _is_often(group["repeated"]):
            raise ValueError(f"its pattern {pattern!r} repeats a group that repeats or has alternatives")
        bare = f"{bare[: group.start()]}{'x?' if holds or group['repeated'] else 'x'}{bare[group.end() :]}"


def _is_often(repeated: str) -> bool:
    most = repeated.strip("{}").rpartition(",")[2]
    return bool(repeated) and not (most.isdigit() and int(most) <= _FEW)
