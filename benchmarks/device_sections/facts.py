"""What the machine is, and what `tbps doctor` says of it."""

from __future__ import annotations

from collections.abc import Iterator

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, noted
from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.bundle import is_bundle
from tbps_infer.doctor import examine_bundle, examine_machine

__all__ = ["facts"]


def facts(context: SectionContext) -> Iterator[Fact]:
    """The environment as benchmarks record it, and every finding of the doctor."""
    environment = record_environment()
    yield {"environment": environment.stable, "conditions": environment.conditions}
    for sentence in environment.describe():
        yield noted(sentence)
    findings = list(examine_machine(context.device.index))
    if is_bundle(context.bundle):
        findings += examine_bundle(context.bundle)
    for finding in findings:
        yield checked(
            finding.subject,
            finding.status != "problem",
            status=finding.status,
            detail=finding.detail,
            **({"error": f"{finding.detail} {finding.action}"} if finding.status == "problem" else {}),
        )
