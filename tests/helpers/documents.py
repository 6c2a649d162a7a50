"""Markdown documents as tests read them: their code blocks, and the commands in these with the output shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from command_line import succeed
from places import ROOT

from tbps_infer.cli.main import cli

README = ROOT / "README.md"
DOCUMENTS = tuple(sorted((ROOT / "docs").glob("*.md")))
"""The pages beside the README; those in docs/bench are written by commands."""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<marker>[^>]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", flags=re.MULTILINE | re.DOTALL
)
_SECONDS = re.compile(r"\b\d+\.\d+ s\b")
_NUMBER = re.compile(r"[+-]?\d+\.\d+")
NOT_RUN = "not run: "
SLOW = "slow"
_SHELL = frozenset("|&;<>$`*?~#")


@dataclass(frozen=True)
class Step:
    """A command, and the output that the document shows below it."""

    command: str
    output: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: The file it is in.
        line: Its first line there.
        language: The word behind the fence.
        marker: The comment above it, which readers do not see: ``slow``, ``not run: REASON``, or nothing.
        text: What is between the fences.
    """

    document: Path
    line: int
    language: str
    marker: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether its commands can run here."""
        return not self.marker.startswith(NOT_RUN)

    @property
    def steps(self) -> list[Step]:
        """The commands of a console block, each with its continuation lines, and their output."""
        steps: list[Step] = []
        for line in self.text.splitlines():
            if steps and not steps[-1].output and steps[-1].command.endswith("\\"):
                steps[-1] = Step(f"{steps[-1].command}\n{line}", ())
            elif line.startswith("$ "):
                steps.append(Step(line[2:], ()))
            else:
                assert steps, f"{self}: output before the first command"
                steps[-1] = Step(steps[-1].command, (*steps[-1].output, line))
        return steps


def blocks(document: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a document, of one language if one is given."""
    text = document.read_text(encoding="utf-8")
    found = [
        Block(document, text.count("\n", 0, match.start("language")) + 1, match["language"], match["marker"] or "",
              match["text"])
        for match in _BLOCK.finditer(text)
    ]  # fmt: skip
    return [block for block in found if language in (None, block.language)]


def run(command: str, folder: Path, *, apart: bool = False) -> tuple[list[str], list[str]]:
    """Run a command with this environment's console scripts first on the path.

    What needs no shell runs in this process, which has imported what it takes seconds to import; unless it is to run
    apart, as what measures its own process has to.

    Returns:
        The lines of its standard output and of its standard error.
    """
    if not apart and command.startswith("tbps ") and not _SHELL & set(command):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            done = succeed(*shlex.split(command.replace("\\\n", ""))[1:])
        return done.stdout.splitlines(), done.stderr.splitlines()
    script = f'PATH="{Path(sys.executable).parent}:$PATH"; {command}'
    shell = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
    assert shell.returncode == 0, f"{command}\n{shell.stderr}"
    return shell.stdout.splitlines(), shell.stderr.splitlines()


def run_block(block: Block, folder: Path, *, points: float = 2e-3) -> None:
    """Run a block's commands; where it shows output, assert that it is what they print.

    A document shows the results alone, which go to standard output, or the progress before them as well.
    """
    for step in block.steps:
        out, progress = run(step.command, folder, apart=block.marker == SLOW)
        if step.output:
            shown = list(step.output)
            assert_alike(out if len(out) == len(shown) else [*progress, *out], shown, points=points)


def assert_alike(got: list[str], want: list[str], *, points: float = 2e-3) -> None:
    """Equal but for what varies between machines.

    Args:
        got: Lines that were printed.
        want: Lines that a document shows.
        points: How far numbers with two decimals, which percentages have, may be apart; others by two thousandths,
            and seconds by any amount.
    """
    texts = [[_SECONDS.sub("# s", line) for line in lines] for lines in (got, want)]
    masked = [[_NUMBER.sub("#", line) for line in lines] for lines in texts]
    assert masked[0] == masked[1]
    for left, right in zip(*texts, strict=True):
        for one, other in zip(_NUMBER.findall(left), _NUMBER.findall(right), strict=True):
            near = points if len(other.split(".")[1]) == 2 else 2e-3
            assert float(one) == pytest.approx(float(other), abs=near), f"{left}\n{right}"


def parse_command(words: list[str]) -> None:
    """Let click read a command line, down to the command of a group's; raises on an option that it does not have."""
    command: click.Command = cli
    # Help is -h, too: click remembers the options of a command's first context.
    context = click.Context(cli, **cli.context_settings)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
        context = click.Context(command, context)
    command.make_parser(context).parse_args(list(words))
