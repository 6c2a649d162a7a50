"""The page of measured figures is what the raw samples beside it give, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from places import ROOT

from tbps_infer.benchmarks.studies.performance import main


def test_the_page_in_docs_is_written_from_the_samples_in_docs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "bench", tmp_path / "bench")
    raw = [str(tmp_path / "bench" / f"{name}.jsonl") for name in ("latency-base-avx2", "latency-base", "peers-base")]
    assert main([*raw, "-o", str(tmp_path / "performance.md")]) == 0
    assert (tmp_path / "performance.md").read_text() == (ROOT / "docs" / "performance.md").read_text()
