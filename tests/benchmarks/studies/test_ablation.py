"""The ablation's table and its control arm; its training is the trainer's, which has tests of its own."""

from __future__ import annotations

import torch

from tbps_infer.benchmarks.studies.ablation.arms import ABLATION
from tbps_infer.benchmarks.studies.ablation.runs import _shuffled_margins
from tbps_infer.benchmarks.studies.ablation.table import markdown_table
from tbps_infer.training import losses


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
