"""What a GPU has to show of this project, in one command: ``make device-check``.

::

    python -m tbps_infer.benchmarks.device_check -o REPORT
    python -m tbps_infer.benchmarks.device_check -o REPORT --cpu --only facts,onnxruntime

Sections run in the order of what they prove per second. Each runs in a process of its own with a time limit, so that
a crash, a hang or a CUDA error that stays costs the others nothing. Each fact is written as a line of JSON to
``REPORT/facts.jsonl`` as soon as it is known, what the processes print to ``REPORT/log.txt``, and a summary to
``REPORT/report.md``. ``--cpu`` runs what a CPU can of every section: it tries the check itself, and its times mean
nothing.

The exit status is 1 when a check failed or a section did not end by itself, and 0 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tbps_infer.atomic import write_text
from tbps_infer.benchmarks.device_report import Outcome, is_failure, report_text, summary_lines
from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, skipped
from tbps_infer.devices import Device
from tbps_infer.errors import TbpsError

__all__ = ["SECTIONS", "Section", "main"]

_LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Section:
    """One part of the check: a module of `tbps_infer.benchmarks.device_sections` and its time limit."""

    name: str
    seconds: float


SECTIONS = (
    Section("bundle", 240),
    Section("facts", 60),
    Section("memory", 60),
    Section("engine_runner", 60),
    Section("search", 90),
    Section("onnxruntime", 110),
    Section("torch_models", 120),
    Section("engines", 300),
    Section("accuracy", 60),
    Section("training", 60),
    Section("limits", 40),
)
"""In order. They may take longer together than the budget: the last ones then go without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; see the module. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="device_check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="Folder for the report.")
    parser.add_argument("--bundle", type=Path, help="Bundle with FP32 and FP16 graphs; made when not given.")
    parser.add_argument("--checkpoint", type=Path, help="Its checkpoint; the shipped one when not given.")
    parser.add_argument("--device", default="cuda:0", help="Device to check.")
    parser.add_argument("--cpu", action="store_true", help="Try the check itself on the CPU.")
    parser.add_argument("--budget", type=float, default=480, help="Seconds for all sections together.")
    parser.add_argument("--only", help="Names of sections, separated by commas.")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.section:
        return _run_section(chosen)
    names = [section.name for section in SECTIONS]
    only = names if chosen.only is None else [name.strip() for name in chosen.only.split(",")]
    if unknown := set(only) - set(names):
        parser.error(f"There is no section {', '.join(sorted(unknown)) or '(empty)'}; there are {', '.join(names)}.")
    if not chosen.budget >= 0:
        parser.error(f"The budget is {chosen.budget:g} seconds, want 0 or more.")
    try:
        Device.parse(chosen.device)
        chosen.output.mkdir(parents=True, exist_ok=True)
        return _run_all([section for section in SECTIONS if section.name in only], chosen)
    except (TbpsError, OSError) as error:
        parser.error(str(error))


def _run_section(chosen: argparse.Namespace) -> int:
    """Run one section in this process, and print its facts as lines of JSON."""
    context = SectionContext.of(
        work=chosen.work,
        bundle=chosen.bundle,
        checkpoint=chosen.checkpoint,
        device="cpu" if chosen.cpu else chosen.device,
    )
    try:
        module = importlib.import_module(f"tbps_infer.benchmarks.device_sections.{chosen.section}")
        for fact in module.facts(context):
            print(json.dumps(fact, default=str), flush=True)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tbps_infer"):
            raise
        print(json.dumps(skipped(f"the package {error.name} is not installed")), flush=True)
    except TbpsError as error:
        print(json.dumps({"check": "the section ends", "ok": False, "error": str(error)}), flush=True)
    return 0


def _run_all(sections: Sequence[Section], chosen: argparse.Namespace) -> int:
    started = time.monotonic()
    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="tbps-device-") as work,
        (chosen.output / "facts.jsonl").open("w", encoding="utf-8") as lines,
        (chosen.output / "log.txt").open("w", encoding="utf-8") as log,
    ):
        for section in sections:
            left = chosen.budget - (time.monotonic() - started)
            if left < _LEAST_SECONDS:
                outcomes.append(Outcome(section.name, "no time left", (), 0.0))
                continue
            options = [*_passed_on(chosen), "--work", work]
            outcomes.append(_run_process(section, min(section.seconds, left), options, lines, log))
    write_text(chosen.output / "report.md", report_text(outcomes))
    print("\n".join(summary_lines(outcomes)))
    return int(any(outcome.failed for outcome in outcomes))


def _passed_on(chosen: argparse.Namespace) -> list[str]:
    options = ["-o", str(chosen.output), "--device", chosen.device]
    options += ["--cpu"] if chosen.cpu else []
    for name in ("bundle", "checkpoint"):
        value = getattr(chosen, name)
        options += [f"--{name}", str(value.absolute())] if value else []
    return options


def _run_process(section: Section, seconds: float, options: Sequence[str], lines: TextIO, log: TextIO) -> Outcome:
    """One section in a process of its own; what it said before it was stopped counts."""
    print(section.name, flush=True)
    print(f"== {section.name}", file=log, flush=True)
    command = [sys.executable, "-m", "tbps_infer.benchmarks.device_check", *options, "--section", section.name]
    started = time.monotonic()
    # A group of its own, so that what a section started is stopped with it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, errors="replace", start_new_session=True
    )

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    stopper = threading.Timer(seconds, stop)
    stopper.start()
    facts: list[Fact] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            fact = _fact(line)
            if fact is None:
                log.write(line)
                continue
            facts.append(fact)
            print(json.dumps({"section": section.name, **facts[-1]}), file=lines, flush=True)
            if is_failure(facts[-1]):
                print(f"  FAILED {line.rstrip()[:400]}", flush=True)
        status = process.wait()
    finally:
        stopper.cancel()
        stop()
        process.wait()
        process.stdout.close()
    took = time.monotonic() - started
    end = "" if status == 0 else "stopped at its time limit" if took >= seconds else f"exit status {status}"
    return Outcome(section.name, end, tuple(facts), took)


def _fact(line: str) -> Fact | None:
    """A line as a fact; None for one that is something else, or was cut off."""
    try:
        fact = json.loads(line)
    except ValueError:
        return None
    return fact if isinstance(fact, dict) else None


if __name__ == "__main__":
    sys.exit(main())
