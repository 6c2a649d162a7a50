"""A study's Markdown table, from its raw rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tbps_infer.benchmarks.studies.ablation.arms import Arm

__all__ = ["markdown_table"]

_METRICS = ("R@1", "R@5", "R@10", "mAP")


def markdown_table(arms: Sequence[Arm], results: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± sample standard deviation over seeds, a row per arm, in the arms' order."""
    lines = [f"| | seeds | {' | '.join(_METRICS)} |", f"|---|---|{'---|' * len(_METRICS)}"]
    for arm in arms:
        rows = [row for row in results if row["arm"] == arm.name]
        if rows:
            cells = [_mean_and_spread([float(row[metric]) for row in rows]) for metric in _METRICS]
            lines.append(f"| {arm.name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
