"""Types the README's lines in a clean clone, in one shell, as a newcomer does: `python tests/helpers/walk_readme.py`.

It installs packages, so the network is needed. The first block is typed, which makes the demo, and every block
without a mark: those marked as slow or not run are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from documents import README, blocks
from places import ROOT

__all__ = ["walk"]


def walk(clone: Path) -> float:
    """Clone the repository and type the lines; the seconds until the first hits of a search are shown.

    Args:
        clone: Where the clone goes; nothing is there yet.
    """
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, clone], check=True)
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    folders = (folder for folder in env["PATH"].split(":") if not (Path(folder) / "tbps").exists())
    env["PATH"] = ":".join(folders)
    script = "\n".join(["set -ex", *_lines()])
    started = time.monotonic()
    seconds = None
    with subprocess.Popen(
        ["bash", "-c", script], cwd=clone, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as shell:
        assert shell.stdout is not None
        for line in shell.stdout:
            print(line, end="", flush=True)
            if seconds is None and line.startswith("rank  score"):
                seconds = time.monotonic() - started
    assert shell.returncode == 0, f"the README's line before this failed with exit status {shell.returncode}"
    assert seconds is not None
    litter = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert litter.stdout == "", f"following the README leaves files in the clone: {litter.stdout}"
    return seconds


def _lines() -> Iterator[str]:
    first, *others = blocks(README, "console")
    yield from (step.command for step in first.steps)
    for block in others:
        if not block.marker:
            yield from (step.command for step in block.steps)
    for block in blocks(README, "python"):
        yield f"python - <<'END'\n{block.text}END"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        seconds = walk(Path(folder) / "clone")
    print(f"{seconds:.0f} s from the first line to the first hits", file=sys.stderr)
