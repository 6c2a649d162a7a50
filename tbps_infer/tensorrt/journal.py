"""What TensorRT says while it works, kept so that a quiet None can be turned into an error that explains itself.

Errors go to the error recorder where one is attached and to the logger where none is, so both write here.
"""

from __future__ import annotations

import logging
import re
from typing import Any

__all__ = ["Journal", "attachments"]

_logger = logging.getLogger(__name__)

_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG,
}
_MOST_KEPT = 50
_MOST_SHOWN = 3
_SOURCE_PLACE = re.compile(r"\.?\s*\bIn \w+ at [^\s)]+:\d+")


class Journal:
    """The errors and warnings since it was last cleared."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def clear(self) -> None:
        """Forget everything."""
        self.errors.clear()
        self.warnings.clear()

    def note(self, severity: str, message: str) -> None:
        """Take down a message, and pass it on to Python's logging, which shows nothing of it by default."""
        level = _LEVELS.get(severity, logging.DEBUG)
        _logger.log(min(level, logging.INFO), "%s: %s", severity, message)
        kept = {logging.ERROR: self.errors, logging.WARNING: self.warnings}.get(level)
        if kept is not None and len(kept) < _MOST_KEPT:
            kept.append(message)

    def text(self) -> str:
        """The distinct errors, first ones first, without TensorRT's own source lines; never empty."""
        plain = (_SOURCE_PLACE.sub("", message).replace("()", "").strip().rstrip(".") for message in self.errors)
        found = list(dict.fromkeys(plain))
        if not found:
            return "TensorRT gave no reason"
        more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        return "; ".join(found[:_MOST_SHOWN]) + more


def attachments(module: Any, journal: Journal) -> tuple[Any, Any]:
    """A logger and an error recorder of one TensorRT module that write to a journal."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            journal.note(severity.name, message)

    class Recorder(module.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IErrorRecorder.__init__(self)
            self.entries: list[tuple[Any, str]] = []

        def clear(self) -> None:
            self.entries.clear()

        def report_error(self, code: Any, description: str) -> bool:
            self.entries.append((code, description))
            del self.entries[:-_MOST_KEPT]
            journal.note("ERROR", description)
            return True

        def get_error_code(self, index: int) -> Any:
            return self.entries[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.entries[index][1]

        def has_overflowed(self) -> bool:
            return False

        def num_errors(self) -> int:
            return len(self.entries)

    return Logger(), Recorder()
