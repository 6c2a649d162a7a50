"""The file of raw samples: JSON lines, appended to as they are taken, continued after an interruption.

Kinds of lines: ``run`` (the environment and the command; one for every start), ``warm-up``, ``sample`` and ``note``
(what else a report needs: parity, peak memory, what was left out and why). A sample's line names its arm, the arm's
whole configuration, and the fingerprint of the environment.
"""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tbps_infer.benchmarks.environment import Environment, list_changes
from tbps_infer.benchmarks.measure import Arm, Sample, Value, WarmUp
from tbps_infer.errors import BenchmarkError

__all__ = ["SampleFile", "Samples", "read_samples"]

SCHEMA = 1


@dataclass
class Samples:
    """What a file holds.

    Attributes:
        path: The file.
        environment: What all samples were taken on.
        runs: The ``run`` lines, one for every start.
        configurations: Of each arm.
        samples: Of each arm, in the order taken.
        warm_ups: The last one of each arm.
        notes: By subject, in the order written; a later note replaces an earlier one of its subject.
    """

    path: Path
    environment: Environment
    runs: list[dict[str, Any]] = field(default_factory=list)
    configurations: dict[str, dict[str, Value]] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    warm_ups: dict[str, WarmUp] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def read_samples(path: Path) -> Samples:
    """Read a file of raw samples; an unfinished last line, left by a kill, is passed over.

    Raises:
        BenchmarkError: It is not such a file, or mixes environments or configurations.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror}.") from error
    found: Samples | None = None
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found = _take(found, path, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(
                f"Line {number} of {path} is not one of a file of raw samples: {error!r}.",
                "Give a file that tbps bench latency wrote, or another name for a new one.",
            ) from error
    if found is None:
        raise BenchmarkError(
            f"{path} holds no samples.", "Give a file that tbps bench latency wrote, or delete this one."
        )
    return found


class SampleFile:
    """A file of raw samples, open to be appended to; a context manager and a `Recorder`."""

    def __init__(self, held: Samples, stream: IO[str]) -> None:
        """Not for callers: use `open`."""
        self.held = held
        self._stream = stream
        self._fingerprint = held.environment.fingerprint

    @classmethod
    def open(cls, path: Path, environment: Environment, command: Sequence[str]) -> SampleFile:
        """Begin a file, or continue the one that is there.

        Args:
            path: The file; its folder is made.
            environment: Of this run.
            command: That this run was started with, for the report.

        Raises:
            BenchmarkError: The file is of another environment, or is no such file.
        """
        held = None
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            held = read_samples(path)
            changed = environment.differences(held.environment)
            if changed:
                raise BenchmarkError(
                    f"{path} was measured in another environment ({'; '.join(changed)}), and samples of two are not "
                    "mixed.",
                    "Give another file, or restore the environment.",
                )
            _cut_unfinished_line(path)
        held = held or Samples(path, environment)
        file = cls(held, path.open("a", encoding="utf-8"))
        line = {
            "kind": "run",
            "schema": SCHEMA,
            "environment": dict(environment.stable),
            "fingerprint": environment.fingerprint,
            "conditions": dict(environment.conditions),
            "command": shlex.join(command),
        }
        file._write(line)
        held.runs.append(line)
        return file

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def samples_of(self, arm: str) -> Sequence[Sample]:
        """All samples of an arm, earlier runs' included."""
        return self.held.samples.get(arm, [])

    def next_round(self) -> int:
        """One more than the greatest round so far."""
        return 1 + max((sample.round for rows in self.held.samples.values() for sample in rows), default=-1)

    def refuse_other_configurations(self, arms: Sequence[Arm]) -> None:
        """Raises BenchmarkError when the file holds samples of such an arm under another configuration."""
        for arm in arms:
            _check_configuration(self.held, arm.name, dict(arm.configuration))

    def add_sample(self, arm: Arm, sample: Sample) -> None:
        """Append a sample. Raises BenchmarkError when the arm's configuration is not the one held."""
        configuration = dict(arm.configuration)
        _check_configuration(self.held, arm.name, configuration)
        # Rounded to a nanosecond here and not only in the file: a report is the same from either.
        parts = {name: round(ms, 6) for name, ms in sample.parts.items()}
        sample = replace(sample, ms=round(sample.ms, 6), parts=parts)
        self._write(
            {
                "kind": "sample",
                "arm": arm.name,
                "configuration": configuration,
                "environment": self._fingerprint,
                "round": sample.round,
                "ms": sample.ms,
                "items": sample.items,
                "parts": parts,
            }
        )
        self.held.samples.setdefault(arm.name, []).append(sample)

    def add_warm_up(self, arm: Arm, result: WarmUp) -> None:
        """Append what an arm's warming up took."""
        values = {"runs": result.runs, "stable": result.stable, "ms": round(result.ms, 6)}
        self._write({"kind": "warm-up", "arm": arm.name, **values})
        self.held.warm_ups[arm.name] = result

    def add_note(self, subject: str, value: Any) -> None:
        """Append something else that a report needs: plain JSON values."""
        if self.held.notes.get(subject) != value:
            self._write({"kind": "note", "subject": subject, "value": value})
            self.held.notes[subject] = copy.deepcopy(value)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()


def _take(found: Samples | None, path: Path, line: dict[str, Any]) -> Samples:
    """Add one line to what was read so far."""
    if line["kind"] == "run":
        if line["schema"] != SCHEMA:
            raise ValueError(f"schema {line['schema']!r} instead of {SCHEMA}")
        environment = Environment(line["environment"], line["conditions"])
        found = found or Samples(path, environment)
        if environment.differences(found.environment):
            raise ValueError("another environment than the first run's")
        found.runs.append(line)
        return found
    if found is None:
        raise ValueError("no line of the kind run before it")
    if line["kind"] == "sample":
        if line["environment"] != found.environment.fingerprint:
            raise ValueError("another environment than the first run's")
        sample = Sample(
            str(line["arm"]), int(line["round"]), float(line["ms"]), int(line["items"]), dict(line["parts"])
        )
        _check_configuration(found, sample.arm, line["configuration"])
        found.samples.setdefault(sample.arm, []).append(sample)
    elif line["kind"] == "warm-up":
        found.warm_ups[line["arm"]] = WarmUp(line["runs"], line["stable"], line["ms"])
    elif line["kind"] == "note":
        found.notes[line["subject"]] = line["value"]
    else:
        raise ValueError(f"the kind {line['kind']!r}")
    return found


def _check_configuration(held: Samples, arm: str, configuration: dict[str, Value]) -> None:
    """Note down an arm's configuration; refuse another one than was noted."""
    known = held.configurations.setdefault(arm, configuration)
    if known != configuration:
        changed = "; ".join(list_changes(known, configuration))
        raise BenchmarkError(
            f"{held.path} holds samples of {arm} under another configuration ({changed}), and two are not mixed.",
            "Give another file for the raw samples.",
        )


def _cut_unfinished_line(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
