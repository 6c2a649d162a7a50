from __future__ import annotations

import json
from pathlib import Path

import pytest

from tbps_infer.benchmarks.studies.many_pictures import main


def test_every_stage_is_told_and_nothing_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scratch"
    assert main(["--folder", str(folder), "--count", "40", "--cameras", "4", "--dim", "8"]) == 0
    stages = {line["stage"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert stages["embed"]["embedded"] == 40
    assert len(stages["embed"]["per_second"]) == 10
    assert stages["embed again"]["embedded"] == 0
    assert stages["embed one, as --watch does"]["embedded"] == 1
    assert stages["open the gallery"]["records"] == 41
    assert not folder.exists()
