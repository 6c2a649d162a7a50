from __future__ import annotations

import json
from pathlib import Path

import pytest

import tbps_infer
from tbps_infer.benchmarks.stages import write_gallery
from tbps_infer.benchmarks.studies import query, start
from tbps_infer.bundle import Bundle

BUNDLE = Path(tbps_infer.__file__).parent / "assets" / "tiny-bundle"


def test_the_studies_of_start_and_query_tell_every_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = write_gallery(tmp_path / "gallery", Bundle.open(BUNDLE).model, 20)
    assert start.main([str(gallery), "--bundle", str(BUNDLE), "--rounds", "1"]) == 0
    _, sample = map(json.loads, capsys.readouterr().out.splitlines())
    assert sample["arm"] == "this" and sample["cpu_s"] > 0
    assert query.main([str(BUNDLE), str(gallery), "--rounds", "2"]) == 0
    samples = [json.loads(line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(samples) == 2 * 9
    assert {"whole, sleeping", "whole, looping"} < {sample["arm"] for sample in samples}
