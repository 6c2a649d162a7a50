"""The studies' table, control arm and queue; their training is the trainer's, which has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from places import SHIPPED

from tbps_infer.benchmarks.studies.ablation import __main__ as queue
from tbps_infer.benchmarks.studies.ablation.__main__ import main
from tbps_infer.benchmarks.studies.ablation.arms import ABLATION, SETS, Arm
from tbps_infer.benchmarks.studies.ablation.runs import _shuffled_margins
from tbps_infer.benchmarks.studies.ablation.table import markdown_table
from tbps_infer.reference.config import tiny_config
from tbps_infer.training import losses
from tbps_infer.training.options import TrainOptions


def test_the_table_has_mean_and_sample_deviation_per_arm_in_their_order() -> None:
    rows = [
        {"arm": "+ coarse", "seed": 0, "R@1": 70.0, "R@5": 80.0, "R@10": 90.0, "mAP": 60.0},
        {"arm": "global only", "seed": 0, "R@1": 50.0, "R@5": 60.0, "R@10": 70.0, "mAP": 40.0},
        {"arm": "global only", "seed": 1, "R@1": 54.0, "R@5": 60.0, "R@10": 71.0, "mAP": 41.0},
    ]
    assert markdown_table(ABLATION, rows).splitlines()[2:] == [
        "| global only | 2 | 52.0 ± 2.8 | 60.0 ± 0.0 | 70.5 ± 0.7 | 40.5 ± 0.7 |",
        "| + coarse | 1 | 70.0 | 80.0 | 90.0 | 60.0 |",
    ]


def test_shuffled_margins_are_the_same_ones_elsewhere() -> None:
    kappa = torch.rand(6, 64, generator=torch.Generator().manual_seed(0))
    honest = losses.commonality_margin(kappa)
    with _shuffled_margins():
        control, again = losses.commonality_margin(kappa), losses.commonality_margin(kappa)
    assert torch.equal(control.flatten().sort().values, honest.flatten().sort().values)
    assert torch.equal(control, again)
    together = torch.stack((control.flatten(), honest.flatten()))
    assert abs(torch.corrcoef(together)[0, 1].item()) < 0.15
    assert torch.equal(losses.commonality_margin(kappa), honest)  # gone afterwards


def test_every_arm_is_a_model_and_a_recipe_of_its_own() -> None:
    for arms in SETS.values():
        assert len({arm.name for arm in arms}) == len(arms)
        for arm in arms:
            config, options = arm.config(tiny_config(99)), arm.options(TrainOptions(seed=4))
            assert config.text.frozen and options.seed == 4 and options.terms == arm.terms
    first = next(arm for arm in SETS["screen"] if arm.crops)
    assert first.config(tiny_config(99)).map_size == (24, 8)


def test_runs_that_are_done_are_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was out of time has a row, and is not done."""
    metrics = {"R@1": 50.0, "R@5": 60.0, "R@10": 70.0, "mAP": 40.0}
    rows = [{"arm": arm.name, "seed": 3, "complete": True, **metrics} for arm in ABLATION]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--data", tmp_path, "--backbones", SHIPPED, "--out", tmp_path, "--seeds", "3"]
    assert main([str(argument) for argument in given]) == 0
    assert capsys.readouterr().out.count("| 1 | 50.0 | 60.0 | 70.0 | 40.0 |") == len(ABLATION)
    (tmp_path / "results.jsonl").write_text(json.dumps({**rows[0], "complete": False}) + "\n")
    left: list[str] = []

    def note(_study: object, runs: list[tuple[Arm, TrainOptions]], _processes: int) -> None:
        left.extend(arm.name for arm, _ in runs)

    with mock.patch.object(queue, "_run_all", note), mock.patch.object(queue, "write_crops"):
        main([str(argument) for argument in given])
    assert left == [arm.name for arm in ABLATION]
