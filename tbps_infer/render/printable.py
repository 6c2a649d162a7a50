"""Text that may be shown: what a terminal or a page would obey is spelled out."""

from __future__ import annotations

import re

__all__ = ["printable", "printable_line"]

# Control characters, line and paragraph separators, marks that turn the direction of reading, and the lone surrogates
# that stand for bytes of a file's name that are no text. The joiners of scripts and emoji are harmless and stay.
_OBEYED = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(rf"[\x00-\x08\x0b-\x1f{_OBEYED}]")
_IN_LINE = re.compile(rf"[\x00-\x1f{_OBEYED}]")


def printable(text: str) -> str:
    r"""Text of any number of lines, with ``\u001b`` for an escape character, and likewise for all that is not shown.

    JSON text stays the same JSON value: within its strings, that is how JSON spells these characters, too.
    """
    return _IN_TEXT.sub(_spelled, text)


def printable_line(text: str) -> str:
    """As `printable`, for a name or value that stays within its line: line breaks and tabs are spelled out, too."""
    return _IN_LINE.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
