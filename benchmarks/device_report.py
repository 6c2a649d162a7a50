"""The report of `tbps_infer.benchmarks.device_check`: facts to a table of sections and tables of times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tbps_infer.benchmarks.device_sections.context import Fact
from tbps_infer.benchmarks.document import Document, TextTable, markdown_text

__all__ = ["Outcome", "is_failure", "report_text", "summary_lines"]

_HEAD = ("section", "passed", "failed", "seconds", "result")
_OWN_COLUMNS = frozenset({"timed", "p50_ms", "first_ms", "samples"})


@dataclass(frozen=True)
class Outcome:
    """What became of one section.

    Attributes:
        section: Its name.
        end: Why it did not end by itself; empty when it did.
        facts: What it said.
        seconds: How long it took.
    """

    section: str
    end: str
    facts: tuple[Fact, ...]
    seconds: float

    @property
    def failures(self) -> tuple[Fact, ...]:
        """The checks that failed."""
        return tuple(filter(is_failure, self.facts))

    @property
    def failed(self) -> bool:
        """Whether something was wrong; having had no time is not."""
        return bool(self.failures) or self.end not in ("", "no time left")

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Section, passed checks, failed checks, seconds, and the result in words."""
        checks = sum("ok" in fact for fact in self.facts)
        passed = checks - len(self.failures)
        return self.section, str(passed), str(len(self.failures)), f"{self.seconds:.1f}", self.text

    @property
    def text(self) -> str:
        """In a few words."""
        if self.end:
            return self.end
        skipped = [str(fact["skipped"]) for fact in self.facts if "skipped" in fact]
        return "; ".join(dict.fromkeys(skipped)) or "done"


def is_failure(fact: Fact) -> bool:
    """Whether a fact is a check that failed."""
    return fact.get("ok") is False


def summary_lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A table for the terminal: a line per section."""
    for section, passed, failed, seconds, result in (_HEAD, *(outcome.cells for outcome in outcomes)):
        yield f"{section:<16} {passed:>6} {failed:>6} {seconds:>8}  {result}"


def report_text(outcomes: Sequence[Outcome]) -> str:
    """The report in Markdown: the device, a line per section, failed checks, and what was timed."""
    tables = [TextTable("Sections", _HEAD, tuple(outcome.cells for outcome in outcomes))]
    tables += [table for outcome in outcomes for table in (_accuracies(outcome), _times(outcome)) if table]
    facts = [str(fact["note"]) for outcome in outcomes for fact in outcome.facts if "note" in fact]
    failures = [
        f"{outcome.section}: {fact.get('check')}: {fact.get('error') or _rest(fact, frozenset({'check', 'ok'}))}"
        for outcome in outcomes
        for fact in outcome.failures
    ]
    document = Document("Device check", facts, tables, "Failed checks", failures, "")
    return markdown_text(document).rstrip("\n") + "\n"


def _accuracies(outcome: Outcome) -> TextTable | None:
    measured = [fact for fact in outcome.facts if "rank_1" in fact]
    if not measured:
        return None
    rows = tuple(
        (
            str(fact.get("accuracy", fact.get("check"))),
            *(_number(fact.get(name)) for name in ("rank_1", "mean_ap", "items_per_s")),
            f"{fact['least_cosine']:.7f}" if "least_cosine" in fact else "",
        )
        for fact in measured
    )
    head = ("what", "Rank-1 %", "mAP %", "items per second", "least cosine to the CPU")
    return TextTable("Accuracy", head, rows)


def _times(outcome: Outcome) -> TextTable | None:
    timed = [fact for fact in outcome.facts if "timed" in fact]
    if not timed:
        return None
    rows = tuple(
        (str(fact["timed"]), _number(fact.get("p50_ms")), _number(fact.get("first_ms")), _rest(fact, _OWN_COLUMNS))
        for fact in timed
    )
    return TextTable(f"Times: {outcome.section}", ("what", "median ms", "first ms", "with"), rows)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else ""


def _rest(fact: Fact, known: frozenset[str]) -> str:
    others = ((name, value) for name, value in fact.items() if name not in known)
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in others
    )
