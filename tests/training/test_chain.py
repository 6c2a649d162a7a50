"""The chain a researcher runs, by its commands: draw people, train, evaluate; and a training run killed for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.reference.tensor_files import read_tensors

TBPS = str(Path(sys.executable).parent / "tbps")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _tbps(*arguments: str | Path) -> str:
    done = subprocess.run([TBPS, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _rank1(model: Path, data: Path) -> float:
    report = json.loads(_tbps("eval", model, data, "--backend", "torch", "--json"))
    value: float = report["text_to_image"]["pessimistic"]["R@1"]
    return value


@pytest.mark.slow
def test_synth_train_eval(tmp_path: Path) -> None:
    """A few hundred steps are far from the shipped checkpoint's 5,000, and far from chance."""
    data = tmp_path / "people"
    _tbps("data", "synth", "-o", data, "--train", "240", "--val", "30", "--test", "40", "--workers", "1")
    _tbps("init", "--size", "tiny", "--dataset", data, "-o", tmp_path / "start")
    recipe = ["--epochs", "12", "--milestones", "9", "--head-lr", "1e-3", "--backbone-lr", "1e-3", "--pad", "3"]
    start: list[str | Path] = ["--init", tmp_path / "start", "--warmup-epochs", "1"]
    _tbps("train", data, "-o", tmp_path / "run", *recipe, *start)
    untrained, trained = _rank1(tmp_path / "start", data), _rank1(tmp_path / "run" / "best", data)
    chance = 100 / 40
    assert untrained < 3 * chance
    assert trained > 4 * chance


@pytest.mark.slow
def test_a_run_killed_for_real_ends_in_the_same_weights(tmp_path: Path) -> None:
    data = tmp_path / "people"
    write_dataset(data, SynthOptions(train=10, val=4, test=1, pictures=2, seed=1, workers=1))
    _tbps("init", "--size", "tiny", "--dataset", data, "-o", tmp_path / "start")
    recipe: list[str | Path] = [
        "--init",
        tmp_path / "start",
        "--epochs",
        "5",
        "-b",
        "8",
        "--milestones",
        "3",
        "--warmup-epochs",
        "1",
    ]
    started = time.monotonic()
    _tbps("train", data, "-o", tmp_path / "whole", *recipe)
    seconds = time.monotonic() - started
    for share in (0.55, 0.8):
        command = [TBPS, "train", str(data), "-o", str(tmp_path / "cut"), *map(str, recipe)]
        running = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * seconds)
        running.send_signal(signal.SIGKILL)
        running.wait()
    _tbps("train", data, "-o", tmp_path / "cut", *recipe)
    whole, cut = (read_tensors(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
