"""Keeps what torch and onnxscript print, warn and log during an export off the user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO

__all__ = ["quiet"]

_PACKAGES = ("torch", "onnxscript", "onnx_ir", "onnx")


@contextlib.contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Send everything that the exporter's packages have to say to `logger`, at level DEBUG.

    Standard output and standard error of Python code, warnings (also where warnings are errors), and the loggers of
    those packages, some of which write to the terminal by handlers of their own. All is put back at the end.
    """
    sink = _Sink(logger)
    with (
        contextlib.redirect_stdout(_LoggedStream(sink, sys.stdout)),
        contextlib.redirect_stderr(_LoggedStream(sink, sys.stderr)),
        warnings.catch_warnings(record=True) as caught,
        _redirected_loggers(sink),
    ):
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                sink.log(f"{warning.category.__name__}: {warning.message}")


class _Sink:
    """Where everything goes.

    Attributes:
        busy: While a record is being handled: a handler that writes to the terminal is not one of the packages.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.busy = False

    def log(self, message: str) -> None:
        self.busy = True
        try:
            self._logger.debug("%s", message)
        finally:
            self.busy = False


class _LoggedStream(io.TextIOBase):
    """A text stream whose complete lines become log records; what log handlers write goes to the terminal."""

    def __init__(self, sink: _Sink, terminal: TextIO) -> None:
        super().__init__()
        self._sink = sink
        self._terminal = terminal
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if self._sink.busy:
            return self._terminal.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._sink.log(line)
        return len(text)


class _Forward(logging.Handler):
    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        self._sink.log(f"{record.name}: {record.getMessage()}")


@contextlib.contextmanager
def _redirected_loggers(sink: _Sink) -> Iterator[None]:
    forward = _Forward(sink)
    # Loggers that appear meanwhile have no handler yet and pass their records up to these.
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    for name, other in list(logging.root.manager.loggerDict.items()):
        if isinstance(other, logging.Logger) and name.split(".")[0] in _PACKAGES and other.handlers:
            loggers.append(other)
    before = [(logger, logger.handlers[:], logger.propagate) for logger in dict.fromkeys(loggers)]
    for logger, _, _ in before:
        logger.handlers[:], logger.propagate = [forward], False
    try:
        yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
