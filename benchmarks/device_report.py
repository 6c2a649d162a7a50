"""The report of `tbps_infer.benchmarks.device_check`: facts to a table of sections and tables of times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tbps_infer.benchmarks.device_sections.context import Fact
from tbps_infer.benchmarks.document import Document, TextTable, markdown_text

__all__ = ["Outcome", "is_failure", "report_text", "summary_lines"]

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
    def checks(self) -> tuple[Fact, ...]:
        """The facts that are right or wrong."""
        return tuple(fact for fact in self.facts if "ok" in fact)

    @property
    def failed(self) -> bool:
        """Whether something was wrong; having had no time is not."""
        return any(map(is_failure, self.facts)) or self.end not in ("", "no time left")

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
    yield f"{'section':<16} {'passed':>6} {'failed':>6} {'seconds':>8}  result"
    for outcome in outcomes:
        failures = sum(map(is_failure, outcome.checks))
        passed = len(outcome.checks) - failures
        yield f"{outcome.section:<16} {passed:>6} {failures:>6} {outcome.seconds:>8.1f}  {outcome.text}"


def report_text(outcomes: Sequence[Outcome]) -> str:
    """The report in Markdown: the device, a line per section, failed checks, and what was timed."""
    rows = tuple(
        (
            outcome.section,
            str(len(outcome.checks) - sum(map(is_failure, outcome.checks))),
            str(sum(map(is_failure, outcome.checks))),
            f"{outcome.seconds:.1f}",
            outcome.text,
        )
        for outcome in outcomes
    )
    tables = [TextTable("Sections", ("section", "passed", "failed", "seconds", "result"), rows)]
    tables += [table for outcome in outcomes if (table := _times(outcome))]
    facts = [str(fact["note"]) for outcome in outcomes for fact in outcome.facts if "note" in fact]
    failures = [
        f"{outcome.section}: {fact.get('check')}: {fact.get('error') or _rest(fact, frozenset({'check', 'ok'}))}"
        for outcome in outcomes
        for fact in outcome.facts
        if is_failure(fact)
    ]
    document = Document("Device check", facts, tables, "Failed checks", failures, "")
    return markdown_text(document).rstrip("\n") + "\n"


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
