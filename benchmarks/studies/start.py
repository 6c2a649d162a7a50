"""Starting ``tbps search``: whole processes of one or several installations, by turns.

::

    python -m tbps_infer.benchmarks.studies.start GALLERY --bundle BUNDLE --python before=OLD --python after=NEW

OLD and NEW are interpreters. Every start is a line of JSON on standard output, with the processor time of the
process, which other work on the machine disturbs less than the wall time. Medians, and ratios of starts that followed
each other, go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.benchmarks.measure import Sample
from tbps_infer.benchmarks.summary import paired_ratio, summarise
from tbps_infer.errors import BenchmarkError

__all__ = ["main", "timed_starts"]

_MAIN = "from tbps_infer.cli.main import main; main()"
_SENTENCE = "a woman in a red coat with a grey backpack"


def timed_starts(
    pythons: Mapping[str, Path], arguments: Sequence[str], rounds: int
) -> Iterator[tuple[str, int, float, float]]:
    """The name of an interpreter, the round, and the processor and wall seconds of ``tbps ARGUMENTS`` with it.

    Each runs once before, for bytecode and the page cache. The order is turned round in every other round.

    Raises:
        BenchmarkError: A start failed.
    """
    for python in pythons.values():
        _start(python, arguments)
    for number in range(rounds):
        for name in sorted(pythons, reverse=bool(number % 2)):
            yield name, number, *_start(pythons[name], arguments)


def _start(python: Path, arguments: Sequence[str]) -> tuple[float, float]:
    started = time.perf_counter()
    process = subprocess.Popen([python, "-c", _MAIN, *arguments], stdout=subprocess.DEVNULL, cwd=python.parent)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"{python} ended with exit status {process.returncode}.")
    return usage.ru_utime + usage.ru_stime, wall


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gallery", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--python", action="append", metavar="NAME=PATH", help="an interpreter")
    parser.add_argument("--rounds", type=int, default=21)
    given = parser.parse_args(arguments)
    named = dict(each.split("=", 1) for each in given.python or [f"this={sys.executable}"])
    pythons = {name: Path(place).absolute() for name, place in named.items()}
    search = ["search", str(given.gallery.absolute()), _SENTENCE, "--bundle", str(given.bundle.absolute()), "-q"]
    print(json.dumps(record_environment().stable), flush=True)
    arms: dict[str, list[Sample]] = {name: [] for name in pythons}
    for name, number, cpu, wall in timed_starts(pythons, search, given.rounds):
        arms[name].append(Sample(name, number, 1e3 * cpu, 1))
        print(
            json.dumps({"arm": name, "round": number, "cpu_s": round(cpu, 4), "wall_s": round(wall, 4)}), flush=True
        )
    first = next(iter(arms.values()))
    for name, samples in arms.items():
        print(f"{name}: {summarise(samples).p50_ms:.0f} ms, {paired_ratio(first, samples)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
