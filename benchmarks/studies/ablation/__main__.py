"""Run a study's arms in several processes at once, within a time limit, and print its table.

``python -m tbps_infer.benchmarks.studies.ablation --data people --backbones CHECKPOINT --out RUNS`` carries on where
it was stopped. As in the paper, the arms share pretrained backbones, and the text one is frozen: everything above
them starts anew with each seed. `CHECKPOINT` should come from other identities and the global term alone, so that no
arm is at home. Raw results are one JSON line per arm and seed in ``RUNS/results.jsonl``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tbps_infer.benchmarks.studies.ablation.arms import SETS, Arm
from tbps_infer.benchmarks.studies.ablation.runs import Study, do_run, read_rows, write_crops
from tbps_infer.benchmarks.studies.ablation.table import markdown_table
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.training.options import TrainOptions

_GRACE_SECONDS = 20
"""For measuring what a run that was out of time has learned."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    given = _parser().parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + given.seconds - _GRACE_SECONDS if given.seconds else float("inf")
    study = Study(given.data, given.backbones, given.out, given.device, deadline)
    base = TrainOptions(
        epochs=given.epochs,
        head_lr=1e-3,
        backbone_lr=1e-3,
        warmup_epochs=1,
        milestones=(round(given.epochs * 0.6), round(given.epochs * 0.85)),
        pad=3,
        precision=given.precision,
    )
    arms = SETS[given.set]
    done = {(row["arm"], row["seed"]) for row in read_rows(study.results) if row["complete"]}
    seeds = [int(seed) for seed in given.seeds.split(",")]
    runs = [(arm, replace(base, seed=seed)) for seed in seeds for arm in arms if (arm.name, seed) not in done]
    config = load_checkpoint(given.backbones).config
    for facts in dict.fromkeys(arm.config(config).preprocessing for arm, _ in runs):
        write_crops(study, facts, given.processes)
    _run_all(study, runs, given.processes)
    print(markdown_table(arms, read_rows(study.results)))
    return 0


def _run_all(study: Study, runs: Sequence[tuple[Arm, TrainOptions]], processes: int) -> None:
    """At most so many runs at a time, each in a process forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([do_run.__module__])
    waiting, running = list(runs), list[ForkServerProcess]()
    while (waiting or running) and time.time() < study.deadline + _GRACE_SECONDS:
        while waiting and len(running) < processes and time.time() < study.deadline:
            process = context.Process(target=do_run, args=(study, *waiting.pop(0)))
            process.start()
            running.append(process)
        if waiting and time.time() >= study.deadline:
            waiting.clear()
        time.sleep(0.2)
        running = [process for process in running if process.is_alive()]
    for process in running:
        process.terminate()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a data set written by tbps data synth")
    parser.add_argument("--backbones", type=Path, required=True, help="a checkpoint of the tiny configuration")
    parser.add_argument("--out", type=Path, required=True, help="runs and results.jsonl go here")
    parser.add_argument("--set", choices=tuple(SETS), default="ablation", help="which arms")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32-true", "16-mixed", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--seconds", type=float, default=0, help="stop by then, measuring what was learned; 0: never")
    return parser


if __name__ == "__main__":
    sys.exit(main())
