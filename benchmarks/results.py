"""Raw samples become rows: one per arm, with its summary and how it compares with the baseline of its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tbps_infer.benchmarks.backends import WAYS, Choice
from tbps_infer.benchmarks.measure import Value, WarmUp
from tbps_infer.benchmarks.samples import Samples
from tbps_infer.benchmarks.summary import Ratio, Summary, paired_ratio, summarise
from tbps_infer.model_facts import PRECISIONS

__all__ = ["MODEL_WORK", "Results", "Row", "collect_results"]

MODEL_WORK = ("image", "text", "sentence to top 10", "caption mix")
"""What is compared between backends, in the order of tables."""


@dataclass(frozen=True)
class Row:
    """One arm.

    Attributes:
        arm: Its name.
        configuration: As its samples say.
        summary: Of its samples.
        warm_up: What warming up took; None when the file does not say.
        ratio: How many times as fast as the baseline of its group; None for the baseline itself.
        baseline: The label of that baseline; empty where nothing is compared.
    """

    arm: str
    configuration: Mapping[str, Value]
    summary: Summary
    warm_up: WarmUp | None
    ratio: Ratio | None = None
    baseline: str = ""

    @property
    def what(self) -> str:
        """What is measured: ``image``, ``text``, ``decode`` and so on."""
        return str(self.configuration["what"])

    @property
    def label(self) -> str:
        """Backend, device, precision and CUDA graphs, or a peer's name; empty for what no model runs."""
        if "peer" in self.configuration:
            return str(self.configuration["peer"])
        if "backend" not in self.configuration:
            return ""
        values = self.configuration
        return Choice(values["backend"], values["device"], values["precision"], values["cuda_graphs"]).label  # type: ignore[arg-type]

    def number(self, name: str) -> int:
        """A whole number of the configuration, 0 when it is not there."""
        value = self.configuration.get(name)
        return int(value) if isinstance(value, int | float) else 0

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return {
            "arm": self.arm,
            "configuration": dict(self.configuration),
            **asdict(self.summary),
            "warm": None if self.warm_up is None else self.warm_up.stable,
            "warm_up_runs": None if self.warm_up is None else self.warm_up.runs,
            "baseline": self.baseline or None,
            "times_as_fast": None if self.ratio is None else asdict(self.ratio),
        }


@dataclass(frozen=True)
class Results:
    """A file of raw samples, summarised.

    Attributes:
        samples: The file.
        rows: In the order of tables.
    """

    samples: Samples
    rows: tuple[Row, ...]

    def of(self, what: str) -> list[Row]:
        """The rows of one kind of work."""
        return [row for row in self.rows if row.what == what]

    def note(self, subject: str) -> dict[str, Any]:
        """A note that is an object; empty when it was not written."""
        value = self.samples.notes.get(subject)
        return value if isinstance(value, dict) else {}

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        held = self.samples
        return {
            "environment": dict(held.environment.stable),
            "fingerprint": held.environment.fingerprint,
            "runs": [{"command": run["command"], "conditions": run["conditions"]} for run in held.runs],
            "rows": [row.to_json() for row in self.rows],
            "notes": dict(held.notes),
        }


def collect_results(held: Samples) -> Results:
    """Summarise every arm and pair it with the baseline of its group.

    A group is the same work at the same batch and length on one device. Its baseline is PyTorch eager in FP32, or the
    first backend in FP32 where that was not run; an arm that is configured as ``baseline`` goes before both.
    """
    # Arms were warmed up in the order that the run lists them in; samples come in shuffled order.
    arms = [arm for arm in (*held.warm_ups, *held.samples) if arm in held.samples]
    rows = [
        Row(arm, held.configurations[arm], summarise(held.samples[arm]), held.warm_ups.get(arm))
        for arm in dict.fromkeys(arms)
    ]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        values = row.configuration
        group = (row.what, values.get("device"), values.get("batch"), values.get("length"), row.summary.items)
        groups.setdefault(group, []).append(row)
    compared = [row for several in groups.values() for row in _compare(several, held)]
    return Results(held, tuple(sorted(compared, key=_order)))


def _compare(group: Sequence[Row], held: Samples) -> list[Row]:
    base = _base(group)
    if base is None:
        return list(group)
    compared = []
    for row in group:
        ratio = None if row is base else paired_ratio(held.samples[base.arm], held.samples[row.arm])
        compared.append(replace(row, ratio=ratio, baseline=base.label))
    return compared


def _base(group: Sequence[Row]) -> Row | None:
    named = [row for row in group if row.configuration.get("baseline")]
    if named:
        return named[0]
    first = min(group, key=_order)
    return first if first.what in MODEL_WORK and first.configuration["precision"] == "fp32" else None


def _order(row: Row) -> tuple[Any, ...]:
    values = row.configuration
    what = MODEL_WORK.index(row.what) if row.what in MODEL_WORK else len(MODEL_WORK)
    backend = WAYS.index(values["backend"]) if values.get("backend") in WAYS else 0
    precision = PRECISIONS.index(str(values["precision"])) if values.get("precision") in PRECISIONS else 0
    device = str(values.get("device"))
    return (
        what,
        row.number("length"),
        row.number("batch"),
        device,
        backend,
        precision,
        not values.get("cuda_graphs"),
    )
