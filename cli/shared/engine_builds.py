"""Building a bundle's engines with a progress bar, for the commands that build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tbps_infer.cli.shared.progress import progress_bar, say

__all__ = ["build_and_report"]


def build_and_report(bundle: Path, options: Any) -> None:
    """Build with a progress bar and print the result; ``options`` are `EngineOptions`."""
    from tbps_infer.export.engines.build import build_engines

    with progress_bar("Building", "steps") as bar:
        built = build_engines(
            bundle, options, say, lambda plan, phase, done, steps: bar(done, steps, f"{plan}: {phase}")
        )
    facts = built.folder.facts
    size = sum(plan.bytes for plan in facts.plans) / 1e6
    if facts.self_check["executed"]:
        golden = min(facts.self_check["golden_cosine"].values())
        state = f"checked on {facts.self_check['gpu']}, golden cosine {golden:.7f} at least"
    else:
        state = f"not executed: {facts.self_check['reason'].rstrip('.')}"
    if not built.built:
        state = f"up to date, {state}"
    click.echo(f"{built.folder.path}: {len(facts.plans)} engines, {size:.1f} MB, {facts.precision}, {state}")
