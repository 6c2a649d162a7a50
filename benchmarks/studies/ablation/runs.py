"""One run of a study: start from shared backbones, train, measure, append a row."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning_fabric import Fabric
from PIL import Image

from tbps_infer.atomic import new_folder
from tbps_infer.benchmarks.studies.ablation.arms import Arm
from tbps_infer.benchmarks.studies.ablation.measures import measure
from tbps_infer.data.readers import read_dataset
from tbps_infer.errors import DatasetError
from tbps_infer.images import load_crop
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.reference.pretrained import initial_from_backbones
from tbps_infer.training import losses
from tbps_infer.training.options import TrainOptions
from tbps_infer.training.trainer import train

__all__ = ["Study", "do_run", "read_rows", "write_crops"]


@dataclass(frozen=True)
class Study:
    """What all runs of a study share.

    Attributes:
        data: A data set written by ``tbps data synth``.
        backbones: A checkpoint of the tiny configuration.
        out: Runs and ``results.jsonl`` go here.
        device: ``cpu`` or ``cuda``.
        deadline: `time.time` at which runs stop where they are; what they have learned is measured.
    """

    data: Path
    backbones: Path
    out: Path
    device: str = "cpu"
    deadline: float = float("inf")

    @property
    def results(self) -> Path:
        """One JSON line per run."""
        return self.out / "results.jsonl"


class _OutOfTimeError(Exception):
    pass


def do_run(study: Study, arm: Arm, base: TrainOptions) -> None:
    """Train one arm with one seed, measure its best epoch on the test split, append a row to the results."""
    torch.set_num_threads(1)
    started = time.monotonic()
    options = arm.options(base)
    name = f"{arm.name.replace(' ', '-').replace(',', '')}-{options.seed}"
    source = load_checkpoint(study.backbones)
    config = arm.config(source.config)
    data = crops_folder(study, config.preprocessing)
    data = data if data.is_dir() else study.data
    initial = study.out / f"{name}-start"
    if not initial.exists():
        initial_from_backbones(initial, source, config, options.seed)
    epochs: list[int] = []

    def check_clock(_epoch: int, _step: int, _loss: float) -> None:
        if time.time() > study.deadline:
            raise _OutOfTimeError

    fabric = Fabric(accelerator=study.device, devices=1, precision=options.precision)
    splits = read_dataset(data, "train"), read_dataset(data, "val")
    with _shuffled_margins() if arm.shuffled else nullcontext():
        try:
            report = train(
                initial, splits, study.out / name, options,
                fabric=fabric, on_step=check_clock, on_epoch=lambda entry: epochs.append(entry.epoch),
            )  # fmt: skip
            epochs = [entry.epoch for entry in report.history]
        except _OutOfTimeError:
            if not epochs:
                return
    trained = time.monotonic() - started
    best = load_checkpoint(study.out / name / "best")
    row = {"arm": arm.name, "seed": options.seed, "epochs": epochs[-1], "complete": epochs[-1] == options.epochs}
    row |= {"best_epoch": best.training["epoch"], "seconds": round(trained, 1)}
    row |= measure(best, data, options.terms, torch.device(study.device))
    row["seconds with measures"] = round(time.monotonic() - started, 1)
    with study.results.open("a") as stream:  # one short write at the end of a file: processes do not mix
        stream.write(json.dumps(row) + "\n")


def crops_folder(study: Study, facts: Preprocessing) -> Path:
    """Where `write_crops` puts a data set's crops of one size."""
    return study.out / f"crops-{facts.image_size[0]}x{facts.image_size[1]}"


def write_crops(study: Study, facts: Preprocessing, processes: int) -> None:
    """Write the data set once more with crops of the model's size, lossless, which are decoded in no time."""
    folder = crops_folder(study, facts)
    if folder.is_dir():
        return
    pictures = [file.relative_to(study.data) for file in sorted((study.data / "imgs").rglob("*.jpg"))]
    with new_folder(folder, DatasetError) as new:
        for at in {file.parent for file in pictures}:
            (new / at).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(partial(_write_crop, study.data, new, facts), pictures, chunksize=32))
        annotations = json.loads((study.data / "reid_raw.json").read_text())
        for record in annotations:
            record["file_path"] = str(Path(record["file_path"]).with_suffix(".png"))
        (new / "reid_raw.json").write_text(json.dumps(annotations))
        shutil.copy(study.data / "synth.json", new)


def _write_crop(data: Path, new: Path, facts: Preprocessing, file: Path) -> None:
    Image.fromarray(load_crop(data / file, facts)).save(new / file.with_suffix(".png"), compress_level=1)


@contextmanager
def _shuffled_margins() -> Iterator[None]:
    """Deal a batch's margins out anew; the order follows from the batch, as a resumed run needs."""
    honest = losses.commonality_margin

    def shuffled(commonality: torch.Tensor, *limits: float) -> torch.Tensor:
        margin = honest(commonality, *limits)
        generator = torch.Generator().manual_seed(int(margin.sum().item() * 1e6))
        order = torch.randperm(margin.numel(), generator=generator).to(margin.device)
        return margin.flatten()[order].view_as(margin)

    with mock.patch.object(losses, "commonality_margin", shuffled):
        yield


def read_rows(file: Path) -> Sequence[dict[str, Any]]:
    """The rows of a results file that is there or not."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
