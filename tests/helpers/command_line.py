"""Runs `tbps` in this process, with standard output and standard error kept apart, or on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping

from click.testing import CliRunner, Result

from tbps_infer.cli.main import cli

__all__ = ["fail", "run", "run_on_terminal", "succeed"]


def run(*arguments: object, stdin: str | None = None, env: Mapping[str, str] | None = None) -> Result:
    """Run a command and take what comes: its exit code and what it wrote."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin, env=env)


def succeed(*arguments: object, stdin: str | None = None) -> Result:
    """Run a command that must exit with 0."""
    done = run(*arguments, stdin=stdin)
    assert done.exit_code == 0, done.output
    return done


def fail(code: int, *arguments: object, env: Mapping[str, str] | None = None) -> Result:
    """Run a command that must exit with this code."""
    done = run(*arguments, env=env)
    assert done.exit_code == code, done.output
    return done


def run_on_terminal(*arguments: object, columns: int = 200, colours: bool = True) -> str:
    """What a command that must exit with 0 writes on a terminal of so many columns, which may refuse colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    env |= {"TERM": "xterm-256color"} | ({} if colours else {"NO_COLOR": "1"})
    command = [sys.executable, "-m", "tbps_infer.cli.main", *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=env) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()
