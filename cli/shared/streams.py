"""The standard streams of a command: data cannot give the terminal orders, and a failed write is one sentence."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO, cast

from tbps_infer.errors import TbpsError
from tbps_infer.render.printable import printable

__all__ = ["discard", "guard_streams", "styled"]


class _Output:
    """Standard output or error: what a terminal would obey is spelled out, whoever writes it.

    Attributes:
        styled: The stream itself, for text whose escape sequences are our own.
    """

    def __init__(self, stream: TextIO, name: str | None) -> None:
        """``name`` begins the sentence about a failed write; None drops what cannot be written."""
        self.styled = stream
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.styled, name)

    def write(self, text: str) -> int:
        """Write text; raises TbpsError where the stream is closed or full."""
        spelled = printable(text)
        try:
            if spelled:  # click and rich also write nothing, to see whether they may: no device is to be asked
                self.styled.write(spelled)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered; raises as `write` does."""
        try:
            self.styled.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError) and self._name is not None:
            raise error
        discard(self.styled)
        if self._name is not None:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "it is closed" if isinstance(error, io.UnsupportedOperation) else error.strerror or str(error)
            hint = "Make room on the disk." if full else ""
            raise TbpsError(f"{self._name} cannot be written: {reason}.", hint) from error


class _ClosedInput(io.TextIOBase):
    """Standard input that the caller closed."""

    @property
    def buffer(self) -> Any:
        raise TbpsError("Standard input cannot be read: it is closed.", "Give it a file or a pipe.")

    def read(self, _size: int | None = -1, /) -> str:
        return cast("str", self.buffer)

    def readline(self, _size: int = -1, /) -> str:  # type: ignore[override]
        return cast("str", self.buffer)


def guard_streams() -> None:
    """Put the guards in front of the standard streams; one that is closed gets the null device's number.

    Without that, the next file that is opened would get it, and what is written to the stream would go into the file.
    """
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
        sys.stdin = _ClosedInput()
    for name, shown, mode in (("stdout", "Standard output", "r"), ("stderr", None, "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, mode)  # noqa: SIM115, PTH123 - to the end; "r" refuses what is written
        if not isinstance(stream, _Output):
            setattr(sys, name, _Output(stream, shown))


def styled(stream: TextIO) -> TextIO:
    """A standard stream, for text whose escape sequences are our own; data in it goes through `printable` before."""
    return cast("TextIO", getattr(stream, "styled", stream))


def discard(stream: TextIO) -> None:
    """Drop what a stream has not taken: Python flushes it again at exit, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
