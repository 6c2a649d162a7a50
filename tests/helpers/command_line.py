"""Runs `tbps` in this process; standard output and standard error are kept apart."""

from __future__ import annotations

from collections.abc import Mapping

from click.testing import CliRunner, Result

from tbps_infer.cli.main import cli

__all__ = ["fail", "run", "succeed"]


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
